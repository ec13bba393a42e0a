"""From raw series to what backbones of series take."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from poolax import codec
from poolax._checks import broadcast_mask, check_count, check_divides, check_floating
from poolax._numerics import accumulation_dtype
from poolax.backbones._preprocess import Preprocess


@codec.register("preprocess", "series")
@dataclasses.dataclass(frozen=True)
class SeriesPreprocess(Preprocess):
    """Bring series to one number of steps: longer ones are resampled, shorter ones padded on the left.

    Step ``i`` of a resampled series is read between the two steps next to
    ``(i + 1/2) steps / num_steps - 1/2``. Steps that are NaN are missing: they become unobserved, and
    so does what is read from them.

    Attributes:
        num_steps: Steps of what comes out.
        patch_len: Steps of a patch of the model; divides ``num_steps``.

    Example:
        >>> import jax.numpy as jnp
        >>> preprocess = SeriesPreprocess(num_steps=4, patch_len=2)
        >>> preprocess(jnp.array([1.0, 2.0, 3.0]))[0]
        Array([0., 1., 2., 3.], dtype=float32)
        >>> preprocess.describe(3)
        {'steps': 3, 'padded_to': 4, 'steps_in_padded_patch': 1}
        >>> series, mask = preprocess(jnp.array([1.0, 3.0, 5.0, 7.0, jnp.nan, 11.0, 13.0, 15.0]))
        >>> series, mask
        (Array([ 2.,  6.,  0., 14.], dtype=float32), Array([ True,  True, False,  True], dtype=bool))

    Reference:
        Goswami et al., "MOMENT: A Family of Open Time-series Foundation Models" (ICML 2024).
    """

    takes_mask: ClassVar[bool] = True

    num_steps: int = 512
    patch_len: int = 8

    def __post_init__(self):
        """Refuse sizes that do not fit."""
        check_count("num_steps", self.num_steps)
        check_count("patch_len", self.patch_len)
        check_divides("patch_len", self.patch_len, "num_steps", self.num_steps)

    def __call__(
        self, series: Float[Array, "*batch steps"], mask: Bool[Array, "*#batch steps"] | None = None
    ) -> tuple[Float[Array, "*batch num_steps"], Bool[Array, "*batch num_steps"]]:
        """Preprocess series.

        Args:
            series: Series, shape ``(*batch, steps)``; NaN at missing steps.
            mask: True at observed steps, broadcastable to ``(*batch, steps)``; ``None`` if all are.

        Returns:
            Series of ``num_steps`` steps, zero at unobserved ones, and True at observed steps.

        Raises:
            ValueError: for a wrong shape or dtype, or a series that does not fill a patch.
        """
        shape = np.shape(series)
        if len(shape) < 1:
            raise ValueError(f"series: expected shape (*batch, steps), got {shape}")
        check_floating("series", series)
        self._check_steps("series", shape[-1])
        mask = broadcast_mask(mask, shape)
        series = jnp.asarray(series)
        observed = ~jnp.isnan(series) if mask is None else mask & ~jnp.isnan(series)
        series = jnp.where(observed, series, 0)
        if shape[-1] > self.num_steps:
            return self._resample(series, observed)
        missing = [(0, 0)] * (len(shape) - 1) + [(self.num_steps - shape[-1], 0)]
        return jnp.pad(series, missing), jnp.pad(observed, missing)

    def describe(self, num_steps: int) -> dict[str, Any]:
        """What is done to a series of ``num_steps`` steps, for records.

        Args:
            num_steps: Steps of the series.

        Returns:
            ``steps``, and ``resampled_to`` or ``padded_to`` where they change. Where padding ends
            inside a patch, ``steps_in_padded_patch`` first steps stand in it and are in no real token.

        Raises:
            ValueError: for a series that does not fill a patch.
        """
        self._check_steps("num_steps", num_steps)
        if num_steps == self.num_steps:
            return {"steps": num_steps}
        if num_steps > self.num_steps:
            return {"steps": num_steps, "resampled_to": self.num_steps}
        found = {"steps": num_steps, "padded_to": self.num_steps}
        cut = num_steps % self.patch_len
        return {**found, "steps_in_padded_patch": cut} if cut else found

    def describe_for(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """See :meth:`Preprocess.describe_for`: what :meth:`describe` says of the steps of a series."""
        return self.describe(shape[-1])

    def _check_steps(self, name, num_steps):
        if num_steps < self.patch_len:
            raise ValueError(
                f"{name}: expected at least one patch of {self.patch_len} steps, got {num_steps}"
            )

    def _resample(self, series, observed):
        steps = series.shape[-1]
        # Twice num_steps times the place where each step is read: whole numbers, thus exact.
        place = (2 * np.arange(self.num_steps) + 1) * steps - self.num_steps
        left, rest = np.divmod(place, 2 * self.num_steps)
        right = np.minimum(left + 1, steps - 1)
        dtype = accumulation_dtype(series)
        weight = jnp.asarray(rest / (2 * self.num_steps), dtype)
        resampled = (1 - weight) * series[..., left].astype(dtype)
        resampled = resampled + weight * series[..., right].astype(dtype)
        seen = observed[..., left] & (observed[..., right] | (rest == 0))
        return jnp.where(seen, resampled, 0).astype(series.dtype), seen
