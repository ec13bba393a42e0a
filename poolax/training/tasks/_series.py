"""Tasks on series: what follows, and what is hidden."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from poolax import codec
from poolax._checks import check_count
from poolax.training.tasks._base import LeastSquares
from poolax.training.tasks._regression import _Regression


class _Series(_Regression):
    """Values of a series; heads predict ``(value - shift) / scale``, errors are in units of values.

    Shift and scale come from what a head may see, so that it need not find the level of a window.
    """

    _NAMES = ("values", "shift", "scale")

    def _errors(self, outputs, targets):
        shift, scale = (targets[name][..., None] for name in ("shift", "scale"))
        return super()._errors(outputs * scale + shift, targets["values"])

    def least_squares(self, targets):
        """In units of the outputs, each example weighted by its scale, where all values are scored."""
        values, shift, scale = (np.asarray(targets[name], np.float64) for name in self._NAMES)
        if np.isnan(values).any():
            return None
        return LeastSquares((values - shift[:, None]) / scale[:, None], np.square(scale))

    def _values(self, targets):
        return targets["values"]

    def constants(self, train_targets, targets):
        """The training split's mean, and what each window is shifted by: the mean of what is seen."""
        level = np.asarray(targets["shift"], np.float64)[:, None]
        values = np.asarray(targets["values"], np.float64)
        window = {"mean of each window": self._of_rule(level, values)}
        return {**super().constants(train_targets, targets), **window}

    def check_targets(self, targets):
        """Refuse anything but ``values``, NaN where not scored, ``shift`` and ``scale``."""
        if not isinstance(targets, Mapping) or set(targets) != set(self._NAMES):
            got = ", ".join(targets) if isinstance(targets, Mapping) else type(targets).__name__
            raise ValueError(f"targets: expected a mapping with values, shift and scale, got {got}")
        self._check_values(targets["values"], "targets['values']")
        for name in self._NAMES[1:]:
            if targets[name].ndim != 1 or not np.isfinite(targets[name]).all():
                raise ValueError(f"targets[{name!r}]: expected one finite number an example")
        if not (targets["scale"] > 0).all():
            raise ValueError("targets['scale']: expected numbers > 0")


@codec.register("task", "forecasting")
@dataclasses.dataclass(frozen=True)
class Forecasting(_Series):
    """Prediction of what follows a series: mean squared and mean absolute error.

    Attributes:
        horizon: Steps to predict.

    Example:
        >>> import jax.numpy as jnp
        >>> task = Forecasting(horizon=2)
        >>> targets = {"values": jnp.array([[3.0, 5.0]]), "shift": jnp.array([3.0]),
        ...            "scale": jnp.array([2.0])}
        >>> task.loss(jnp.array([[0.0, 0.0]]), targets)
        Array([2.], dtype=float32)
    """

    horizon: int = 96

    name = "forecasting"

    def rules(self, read, targets):
        """The last value that is seen of each window."""
        seen = np.asarray(read(), np.float64)
        known = ~np.isnan(seen)
        place = seen.shape[-1] - 1 - np.argmax(known[..., ::-1], axis=-1)
        last = np.take_along_axis(seen, place[..., None], axis=-1)
        return {"last value": self._of_rule(last, np.asarray(targets["values"], np.float64))}

    def __post_init__(self):
        """Refuse a horizon below one."""
        check_count("horizon", self.horizon)

    @property
    def num_outputs(self) -> int:
        """One output for each step."""
        return self.horizon


@codec.register("task", "imputation")
@dataclasses.dataclass(frozen=True)
class Imputation(_Series):
    """Prediction of masked steps of a series: mean squared and mean absolute error over these.

    Attributes:
        context: Steps of a window, masked or not.

    Example:
        >>> import jax.numpy as jnp
        >>> task = Imputation(context=2)
        >>> targets = {"values": jnp.array([[jnp.nan, 5.0]]), "shift": jnp.array([4.0]),
        ...            "scale": jnp.array([1.0])}
        >>> task.loss(jnp.array([[9.0, 0.0]]), targets)
        Array([1.], dtype=float32)
    """

    context: int = 512

    name = "imputation"

    def __post_init__(self):
        """Refuse a length below one."""
        check_count("context", self.context)

    @property
    def num_outputs(self) -> int:
        """One output for each step."""
        return self.context
