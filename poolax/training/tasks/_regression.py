"""Tasks whose heads predict numbers, of which some may not be scored."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from poolax import codec
from poolax._checks import check_count
from poolax.training.tasks._base import (
    Baseline,
    LeastSquares,
    Task,
    check_some,
    score_of_first,
)


class _Regression(Task):
    """Squared error over the values that are not NaN.

    The metrics are means over all scored values, however many an example has; of single ones records
    hold correlations beside.
    """

    metric = "mse"
    higher_is_better = False
    is_convex = True

    @property
    def further_metrics(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Correlations, of single values."""
        return ("spearman", "pearson") if self.num_outputs == 1 else ()

    def _errors(self, outputs, targets):
        """Differences, 0 where not scored, and what is scored."""
        scored = ~jnp.isnan(targets)
        return jnp.where(scored, outputs - jnp.where(scored, targets, 0), 0), scored

    def loss(self, outputs, targets):
        """Mean squared error of an example's scored values; 0 where there are none."""
        errors, scored = self._errors(outputs, targets)
        return jnp.sum(jnp.square(errors), axis=-1) / jnp.maximum(jnp.sum(scored, axis=-1), 1)

    def least_squares(self, targets):
        """The values themselves, where all are scored."""
        return None if np.isnan(targets).any() else LeastSquares(targets)

    def score(self, outputs, targets):
        """Sums of squared and absolute errors, and the number of scored values."""
        errors, scored = self._errors(outputs, targets)
        sums = (jnp.square(errors).sum(-1), jnp.abs(errors).sum(-1), scored.sum(-1))
        return jnp.stack([total.astype(errors.dtype) for total in sums], axis=-1)

    def answer(self, outputs, targets):
        """Mean absolute error and number of scored values; the value too where there is but one."""
        errors, scored = self._errors(outputs, targets)
        count = jnp.sum(scored, axis=-1)
        error = jnp.sum(jnp.abs(errors), axis=-1) / jnp.maximum(count, 1)
        found = {"num_scored": count, "absolute_error": jnp.where(count > 0, error, jnp.nan)}
        if self.num_outputs == 1:
            found["prediction"] = jnp.where(scored, errors + self._values(targets), jnp.nan)[..., 0]
        return found

    def single_targets(self, targets):
        """The values, where an example has one."""
        return self._values(targets)[:, 0] if self.num_outputs == 1 else None

    def example_scores(self, scores, targets):
        """Mean squared error of each example; NaN where nothing is scored."""
        del targets
        squared, _, count = scores.T
        return np.where(count > 0, squared / np.maximum(count, 1), np.nan)

    def metrics(self, scores, targets):
        """Mean squared and mean absolute error."""
        del targets
        check_some("scores", scores[scores[:, 2] != 0])
        squared, absolute, count = scores.astype(np.float64).sum(axis=0)
        return {"mse": float(squared / count), "mae": float(absolute / count)}

    def _values(self, targets):
        return targets

    def baseline(self, train_targets, test_targets):
        """Error of predicting the training split's mean, place by place."""
        return score_of_first(self, train_targets, test_targets)

    def constants(self, train_targets, targets):
        """The training split's mean, place by place."""
        train, values = (np.asarray(self._values(t), np.float64) for t in (train_targets, targets))
        known = ~np.isnan(train)
        check_some("train_targets", train[known])
        check_some("test_targets", values[~np.isnan(values)])
        everywhere = train[known].mean()
        count = known.sum(axis=0)
        by_place = np.where(known, train, 0).sum(axis=0) / np.maximum(count, 1)
        return {"training mean": self._of_rule(np.where(count > 0, by_place, everywhere), values)}

    def _of_rule(self, predictions, values):
        """What comes of predictions, one for each place or the same for all of them."""
        scored = ~np.isnan(values)
        errors = np.where(scored, predictions - np.where(scored, values, 0), 0)
        count = scored.sum(axis=-1)
        sums = np.stack([np.square(errors).sum(-1), np.abs(errors).sum(-1), count], axis=-1)
        error = np.where(count > 0, sums[:, 1] / np.maximum(count, 1), np.nan)
        answers = {"num_scored": count, "absolute_error": error}
        if self.num_outputs == 1:
            answers["prediction"] = np.broadcast_to(predictions, values.shape)[:, 0]
        return Baseline(sums, answers)

    def _check_values(self, values, name="targets"):
        fits = isinstance(values, np.ndarray) and values.ndim == 2
        if not fits or not np.issubdtype(values.dtype, np.floating):
            got = (
                f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else values
            )
            raise ValueError(
                f"{name}: expected float values of shape (N, {self.num_outputs}), got {got}"
            )
        if values.shape[1] != self.num_outputs:
            raise ValueError(
                f"{name}: expected {self.num_outputs} values an example, got {values.shape[1]}"
            )
        if np.isinf(values).any() or np.isnan(values).all():
            raise ValueError(
                f"{name}: expected finite values, NaN where not scored, got none or infinite"
            )


@codec.register("task", "regression")
@dataclasses.dataclass(frozen=True)
class Regression(_Regression):
    """Prediction of numbers: mean squared and mean absolute error over those that are not NaN.

    Attributes:
        num_values: Numbers that a head predicts.

    Example:
        >>> Regression().loss(jnp.array([[0.5]]), jnp.array([[0.0]]))
        Array([0.25], dtype=float32)
    """

    num_values: int = 1

    name = "regression"

    def __post_init__(self):
        """Refuse a number below one."""
        check_count("num_values", self.num_values)

    @property
    def num_outputs(self) -> int:
        """One output for each number."""
        return self.num_values

    def check_targets(self, targets):
        """Refuse anything but floats of shape ``(N, num_values)``, NaN where not scored."""
        self._check_values(targets)


@codec.register("task", "inpainting")
@dataclasses.dataclass(frozen=True)
class Inpainting(_Regression):
    """Prediction of masked pixels: mean squared error over those that targets hold.

    Attributes:
        num_pixels: Values that a head predicts, channels counted one by one.

    Example:
        >>> task = Inpainting(num_pixels=2)
        >>> task.loss(jnp.array([[0.5, 0.1]]), jnp.array([[0.0, jnp.nan]]))
        Array([0.25], dtype=float32)
    """

    num_pixels: int

    name = "inpainting"

    def __post_init__(self):
        """Refuse a number below one."""
        check_count("num_pixels", self.num_pixels)

    @property
    def num_outputs(self) -> int:
        """One output for each value."""
        return self.num_pixels

    def check_targets(self, targets):
        """Refuse anything but floats of shape ``(N, num_pixels)``, NaN where not scored."""
        self._check_values(targets)
