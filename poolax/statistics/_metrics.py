"""Metrics by name."""

import functools
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from poolax.records import Predictions
from poolax.statistics import _ranks, _sums
from poolax.statistics._sums import Weighted


class Metric(NamedTuple):
    """A metric of predictions.

    Attributes:
        of: From predictions to a function of weights of their examples, shape ``(N, B)``, which gives
            the metric ``(B,)`` over examples that count as often as their weight says; NaN where it is
            not defined.
        needs: Names of what has to be kept.
        higher_is_better: Whether a larger value of it is better.
        undefined: When it is not defined, in words.
    """

    of: Callable[[Predictions], Weighted]
    needs: tuple[str, ...]
    higher_is_better: bool
    undefined: str


_ONE_CLASS = "the targets are of one class"
_CONSTANT = "targets or predictions are the same for every example"
_NOTHING = "nothing is scored"
_NOT_FINITE = "predictions are not finite"
_BOTH = ("target", "prediction")
_F1_OF = "f1_of_"

#: Metrics by name; ``"f1_of_K"`` with the number of a class is one as well.
METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "score": Metric(_sums.mean_score, (), True, _NOTHING),
        "accuracy": Metric(_sums.accuracy, _BOTH, True, _NOTHING),
        "balanced_accuracy": Metric(_sums.balanced_accuracy, _BOTH, True, _ONE_CLASS),
        "macro_f1": Metric(_sums.macro_f1, _BOTH, True, _NOTHING),
        "mcc": Metric(_sums.mcc, _BOTH, True, _CONSTANT),
        "auroc": Metric(_ranks.auroc, ("target", "log_probability"), True, _ONE_CLASS),
        "calibration_error": Metric(_sums.calibration_error, (*_BOTH, "confidence"), False, _NOTHING),
        "spearman": Metric(_ranks.spearman, _BOTH, True, _CONSTANT),
        "pearson": Metric(_ranks.pearson, _BOTH, True, _CONSTANT),
        "mse": Metric(_sums.mean_squared_error, (), False, _NOTHING),
        "mae": Metric(_sums.mean_absolute_error, (), False, _NOTHING),
    }
)


class Measured(NamedTuple):
    """Metrics of predictions.

    Attributes:
        values: Those that are defined, by name.
        undefined: The others, with the reason.
    """

    values: dict[str, float]
    undefined: dict[str, str]


def measure(predictions: Predictions, names: Iterable[str]) -> Measured:
    """Metrics of predictions by name; of those that are not defined the reason.

    Args:
        predictions: What a head predicts.
        names: Some of :data:`METRICS`: ``"accuracy"``, ``"balanced_accuracy"``, ``"macro_f1"``,
            ``"f1_of_K"`` for the class ``K``, ``"mcc"``, ``"auroc"`` (of several classes the mean of
            one against the rest), ``"calibration_error"`` (15 equally wide bins), ``"spearman"``,
            ``"pearson"``, ``"mse"``, ``"mae"``.

    Returns:
        The metrics.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> kept = {"score": [1, 0], "target": [1, 0], "prediction": [1, 1]}
        >>> found = Predictions({name: np.array(values) for name, values in kept.items()})
        >>> measure(found, ["accuracy", "mcc"]).values
        {'accuracy': 0.5}
        >>> measure(found, ["mcc", "auroc"]).undefined["auroc"]
        'log_probability is not kept'
    """
    values, undefined = {}, {}
    for name in names:
        metric = metric_of(name)
        problem = problem_of(predictions, metric)
        value = np.nan
        if problem is None:
            value = value_of(predictions, metric)
        if np.isfinite(value):
            values[name] = float(value)
        else:
            undefined[name] = problem or metric.undefined
    return Measured(values, undefined)


def metric_of(name: str) -> Metric:
    """The metric of a name.

    Raises:
        ValueError: for an unknown one.
    """
    label = name.removeprefix(_F1_OF)
    if label != name and label.isdecimal():
        of = functools.partial(_sums.f1_of, int(label))
        return Metric(of, _BOTH, True, f"class {label} neither occurs nor is predicted")
    if name not in METRICS:
        known = ", ".join([*METRICS, f"{_F1_OF}K"])
        raise ValueError(f"metric: expected one of {known}, got {name!r}")
    return METRICS[name]


def value_of(predictions: Predictions, metric: Metric) -> float:
    """A metric over all examples; NaN where it is not defined."""
    return float(metric.of(predictions)(np.ones((len(predictions), 1)))[0])


def problem_of(predictions: Predictions, metric: Metric) -> str | None:
    """Why a metric cannot be made of predictions, or ``None``."""
    missing = [name for name in metric.needs if name not in predictions.kept]
    if missing:
        why = predictions.left_out.get(missing[0])
        return f"{missing[0]} is not kept" + (f": {why}" if why else "")
    if not len(predictions):
        return _NOTHING
    for name in metric.needs:
        array = predictions[name]
        if name != "target" and np.isnan(array[~_is_unscored(predictions)]).any():
            return _NOT_FINITE
    return None


def _is_unscored(predictions):
    """Examples without a target, or of which nothing is scored."""
    count = predictions.kept.get("num_scored")
    return np.zeros(len(predictions), bool) if count is None else count == 0


def main_metric(predictions: Predictions) -> Metric:
    """The metric that a task reports first: one of :data:`METRICS`, or the mean of its scores.

    Raises:
        ValueError: for a metric that is neither.
    """
    name = predictions.metric
    if name in METRICS or name.startswith(_F1_OF):
        metric = metric_of(name)
        if problem_of(predictions, metric) is None:
            return metric
    if predictions.value is not None:
        mean = value_of(predictions, METRICS["score"])
        if np.isclose(mean, predictions.value, rtol=1e-3, atol=1e-5):
            return METRICS["score"]._replace(higher_is_better=predictions.higher_is_better)
    raise ValueError(
        f"metric: expected one that is made of what is kept of each example, got {name!r}, which is no "
        "mean of their scores"
    )
