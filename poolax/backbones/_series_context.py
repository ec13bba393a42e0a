"""The last steps of raw series, for backbones that were trained on those before a forecast."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from poolax import codec
from poolax._checks import broadcast_mask, check_count, check_divides, check_floating
from poolax.backbones._preprocess import Preprocess


@codec.register("preprocess", "series_context")
@dataclasses.dataclass(frozen=True)
class SeriesContext(Preprocess):
    """Take the last steps of longer series, and pad shorter ones on the left.

    Steps that are NaN are missing: they become unobserved.

    Attributes:
        num_steps: Most steps of what comes out.
        multiple: What comes out has a multiple of so many steps, such as those of a patch; divides
            ``num_steps``.

    Example:
        >>> import jax.numpy as jnp
        >>> context = SeriesContext(num_steps=4, multiple=2)
        >>> context(jnp.array([1.0, 2.0, 3.0]))[1]
        Array([False,  True,  True,  True], dtype=bool)
        >>> context(jnp.arange(6.0))[0]
        Array([2., 3., 4., 5.], dtype=float32)
        >>> context.describe_for((3, 6))
        {'steps': 6, 'last': 4}

    Reference:
        Das et al., "A decoder-only foundation model for time-series forecasting" (ICML 2024).
    """

    takes_mask: ClassVar[bool] = True

    num_steps: int = 512
    multiple: int = 1

    def __post_init__(self):
        """Refuse sizes that do not fit."""
        check_count("num_steps", self.num_steps)
        check_count("multiple", self.multiple)
        check_divides("multiple", self.multiple, "num_steps", self.num_steps)

    def __call__(
        self, series: Float[Array, "*batch steps"], mask: Bool[Array, "*#batch steps"] | None = None
    ) -> tuple[Float[Array, "*batch left"], Bool[Array, "*batch left"]]:
        """Preprocess series.

        Args:
            series: Series, shape ``(*batch, steps)``; NaN at missing steps.
            mask: True at observed steps, broadcastable to ``(*batch, steps)``; ``None`` if all are.

        Returns:
            Series, zero at unobserved steps, and True at observed steps.

        Raises:
            ValueError: for a wrong shape or dtype.
        """
        shape = np.shape(series)
        if len(shape) < 1 or shape[-1] < 1:
            raise ValueError(f"series: expected shape (*batch, steps), steps >= 1, got {shape}")
        check_floating("series", series)
        mask = broadcast_mask(mask, shape)
        series = jnp.asarray(series)
        observed = ~jnp.isnan(series) if mask is None else mask & ~jnp.isnan(series)
        series, observed = (part[..., -self.num_steps :] for part in (series, observed))
        missing = [(0, 0)] * (len(shape) - 1) + [(-series.shape[-1] % self.multiple, 0)]
        return jnp.pad(jnp.where(observed, series, 0), missing), jnp.pad(observed, missing)

    def describe_for(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """See :meth:`Preprocess.describe_for`: ``steps``, and ``last`` or ``padded_to``."""
        steps = shape[-1]
        left = min(steps, self.num_steps)
        padded = left + -left % self.multiple
        found = {"steps": steps} if left == steps else {"steps": steps, "last": left}
        return found if padded == left else {**found, "padded_to": padded}
