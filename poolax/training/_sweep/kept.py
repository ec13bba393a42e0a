"""What records of heads keep of predictions, and of those that do not look at the input."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, PyTree

from poolax.records import Predictions, packed
from poolax.statistics import measure
from poolax.training.tasks import Baseline, Task


def rows_of(targets: PyTree, examples: Int[np.ndarray, " N"]) -> PyTree:
    """Targets of some examples, on the host."""
    return jax.tree.map(lambda array: np.asarray(array)[examples], targets)


def kept_of(
    task: Task, scores: np.ndarray, answers: Mapping[str, Any], targets: PyTree
) -> dict[str, np.ndarray]:
    """What is kept of each example of a split: see :class:`poolax.records.Predictions`.

    Args:
        task: Loss and score.
        scores: What metrics are made of.
        answers: What :meth:`Task.answer` gives.
        targets: Targets of these examples.
    """
    kept = {name: np.asarray(array) for name, array in answers.items()}
    single = task.single_targets(targets)
    if single is not None:
        kept["target"] = np.asarray(single)
    return {"score": np.asarray(task.example_scores(np.asarray(scores), targets)), **kept}


def written(
    task: Task,
    metrics: Mapping[str, Mapping[str, float]],
    kept: dict[str, dict[str, np.ndarray]],
) -> dict[str, Any]:
    """What records say of a head's predictions: all metrics, and what is kept of single examples.

    Args:
        task: Loss and score.
        metrics: What :meth:`Task.metrics` gives of each split.
        kept: What is kept of each example of ``"test"``, and of ``"validation"`` where the head was not
            trained on it.
    """
    measured = {
        name: measure(Predictions(arrays), task.further_metrics) for name, arrays in kept.items()
    }
    whole = {name: {**found.values, **metrics[name]} for name, found in measured.items()}
    undefined = {name: found.undefined for name, found in measured.items() if found.undefined}
    # Scores of test examples are numbers that people read.
    test = {name: array for name, array in kept["test"].items() if name != "score"}
    return {
        **{f"{name}_metrics": values for name, values in whole.items()},
        "undefined_metrics": undefined,
        "is_constant": _is_constant(test),
        "test_scores": [float(f"{score:.6g}") for score in kept["test"]["score"]],
        "predictions": {name: packed(arrays) for name, arrays in (kept | {"test": test}).items()},
    }


def _is_constant(kept: Mapping[str, np.ndarray]) -> bool:
    """Whether all examples get the same prediction, as the majority class gives it."""
    predictions = kept.get("prediction", np.zeros(0))
    return len(predictions) > 1 and bool((predictions == predictions[0]).all())


def constants_of(
    task: Task,
    targets: PyTree,
    splits: Mapping[str, Int[np.ndarray, "_"]],
    read: Callable[[Int[np.ndarray, "_"]], np.ndarray] | None = None,
) -> dict[str, Any]:
    """What records say of rules that learn nothing, and of the sizes of splits.

    Args:
        task: Loss and score.
        targets: Targets of all examples.
        splits: Their splits.
        read: Gives raw inputs of examples; ``None`` where there are none.

    Returns:
        Test scores of the best constant of the training split and of the test split, and all metrics
        of all baselines on validation and test split, without those that are not defined.
    """
    own = {name: rows_of(targets, splits[name]) for name in ("train", "validation", "test")}
    baselines = {}
    for split in ("validation", "test"):
        found = dict(task.constants(own["train"], own[split]))
        if read is not None:
            found |= task.rules(functools.partial(read, splits[split]), own[split])
        baselines[split] = {
            name: _metrics_of(task, baseline, own[split]) for name, baseline in found.items()
        }
    return {
        "baseline": task.baseline(own["train"], own["test"]),
        "best_constant": task.baseline(own["test"], own["test"]),
        "baselines": baselines,
        "num_examples": {name: len(splits[name]) for name in own},
    }


def _metrics_of(task: Task, baseline: Baseline, targets: PyTree) -> dict[str, float]:
    kept = kept_of(task, baseline.scores, baseline.answers, targets)
    measured = measure(Predictions(kept), task.further_metrics)
    values = {**task.metrics(baseline.scores, targets), **measured.values}
    return {name: value for name, value in values.items() if name not in measured.undefined}
