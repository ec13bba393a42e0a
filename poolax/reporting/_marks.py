"""How scores and their marks look in tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

_METRICS = {
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "macro_f1": "F1 by the mean of classes",
    "mcc": "Matthews correlation",
    "auroc": "area under the ROC curve",
    "spearman": "Spearman's rank correlation",
    "pearson": "Pearson's correlation",
}


def metric_name(metric: str) -> str:
    """A metric in words.

    Example:
        >>> metric_name("macro_f1"), metric_name("pixel_accuracy")
        ('F1 by the mean of classes', 'pixel accuracy')
    """
    return _METRICS.get(metric, metric.replace("_", " "))


def axis_label(what: str, metric: str) -> str:
    """What stands beside an axis of scores: whose they are, the metric in words, and its unit.

    Example:
        >>> axis_label("test", "accuracy"), axis_label("test", "mse")
        ('test accuracy (%)', 'test mean squared error')
    """
    return f"{what} {metric_name(metric)}{' (%)' if is_share(metric) else ''}".strip()


def shown(value: float, metric: str) -> float:
    """A score in the unit that it is told in."""
    return 100 * value if is_share(metric) else value


def is_share(metric: str) -> bool:
    """Whether a metric is told in percent."""
    return metric.endswith("accuracy") or metric == "attack_success_rate"


def unit(metric: str) -> str:
    """A metric in words, with its unit, as titles have it.

    Example:
        >>> unit("pixel_accuracy"), unit("spearman")
        ('pixel accuracy in %', "Spearman's rank correlation")
    """
    return f"{metric_name(metric)}{' in %' if is_share(metric) else ''}"


def score(value: float | None, metric: str, *, sign: str = "") -> str:
    """A score in the metric's unit; with ``sign="+"`` a difference of scores."""
    if value is None:
        return "–"
    return f"{100 * value:{sign}.2f}" if is_share(metric) else f"{value:{sign}.4f}"


def mean_and_std(entry: Mapping[str, Any] | None) -> str:
    """Mean and standard deviation of a summary."""
    if entry is None:
        return "–"
    if entry["mean"] is None:
        return "diverged"
    text = score(entry["mean"], entry["metric"])
    return text if entry["std"] is None else f"{text} ± {score(entry['std'], entry['metric'])}"


def mean_and_std_of(values: Sequence[float] | None, metric: str) -> str:
    """Mean and, of several scores, standard deviation; a dash where there is none."""
    if not values:
        return "–"
    text = score(float(np.mean(values)), metric)
    return text if len(values) < 2 else f"{text} ± {score(float(np.std(values, ddof=1)), metric)}"


def best_on_test(entries: Iterable[Mapping[str, Any]]) -> set[str]:
    """Names of the poolers whose mean test score no other one exceeds."""
    found = {entry["pooler"]: entry for entry in entries if entry["mean"] is not None}
    if not found:
        return set()
    signed = {name: e["mean"] if e["higher_is_better"] else -e["mean"] for name, e in found.items()}
    return {name for name, value in signed.items() if value == max(signed.values())}


def test_note(summaries: Sequence[Mapping[str, Any]]) -> str:
    """What a test score and its marks are."""
    several = sorted({entry["num_seeds"] for entry in summaries if entry["std"] is not None})
    over = f" ± standard deviation over {' to '.join(map(str, several))} seeds" if several else ""
    rated = any(entry["num_learning_rates"] > 1 for entry in summaries)
    rate = ", learning rates chosen by mean validation score" if rated else ""
    return (
        f"test: mean{over}{rate}; bold: what validation chose; underlined: best on test, which nobody "
        "knows before."
    )


def constant_scores(row: Mapping[str, Any]) -> dict[str, tuple[float | None, float | None]]:
    """Validation and test scores of what poolers are to exceed, by their names.

    Predictions that do not look at the input, rules on raw inputs, and ``"raw"``, a linear head on
    them, where the record holds these. The first is the training split's best constant, ``"baseline"``
    where the record does not call it otherwise; ``"best constant"`` is that of the test split itself.
    """
    baselines, metric = row.get("baselines") or {}, row["metric"]
    found = {
        name: (baselines.get("validation", {}).get(name, {}).get(metric), values.get(metric))
        for name, values in baselines.get("test", {}).items()
    }
    if not found.keys() - {"raw"}:
        found = {"baseline": (None, row["baseline"]), **found}
    if row.get("best_constant") is not None:
        found["best constant"] = (None, row["best_constant"])
    return found


def constants_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the rows below the poolers are."""
    names = {name for row in rows for name in constant_scores(row)}
    best = "; best constant: that of the test split itself, which no constant exceeds"
    told = "baseline: the training split's best constant prediction"
    if "baseline" not in names:
        told = "Below the poolers: predictions made of the training split that do not look at the input"
    raw = "; raw: a linear head on pixels, steps or weights of words, without a backbone"
    return f"{told}{best * ('best constant' in names)}{raw * ('raw' in names)}."


def renamed_notes(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which token the last one stands for."""
    is_first = any(e["pooler"] == "last" and e["resolved"] == "first" for e in summaries)
    return ["last is the first token here."] if is_first else []
