"""Records of trained heads."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from poolax.records import packed
from poolax.training._convex.head import SolvedHead
from poolax.training._engine.train import TrainedHeads
from poolax.training.tasks import Task


def row_of(
    fields: Mapping[str, Any],
    task: Task,
    heads: TrainedHeads,
    place: tuple[int, int],
    targets: PyTree,
    splits: Mapping[str, Int[np.ndarray, "_"]],
) -> dict[str, Any]:
    """The record of one head.

    Args:
        fields: What it says of its head, trained or not.
        task: Loss and score.
        heads: All heads of one structure after training.
        place: Group and run of the head.
        targets: Targets of all examples.
        splits: Their splits.
    """
    diverged_step = int(heads.diverged_step[place])
    kept = {
        name: kept_of(
            task,
            scores[place],
            {part: array[place] for part, array in heads.answers[name].items()},
            rows_of(targets, splits[name]),
        )
        for name, scores in (("validation", heads.validation_scores), ("test", heads.test_scores))
    }
    validation = heads.validation_score[place]
    stopped, num_epochs = {}, validation.size
    if heads.best is not None:
        num_epochs = int(heads.best.num_epochs[place])
        stopped = {
            "epochs_trained": num_epochs,
            "best_epoch": int(heads.best.epoch[place]),
            "converged": bool(heads.best.stopped[place]) or not still_improves(validation),
        }
        validation = validation[:num_epochs]

    def curve(values):
        return values[place][:num_epochs].tolist()

    return {
        **fields,
        "validation": float(heads.validation_metrics[task.metric][place]),
        "test": float(heads.test_metrics[task.metric][place]),
        "test_metrics": {name: float(value[place]) for name, value in heads.test_metrics.items()},
        **_written(kept),
        "train_loss": curve(heads.train_loss),
        "gradient_norm": curve(heads.gradient_norm),
        "validation_loss": curve(heads.validation_loss),
        "validation_score": validation.tolist(),
        "steps_to_95_percent": steps_to_share(
            validation, heads.num_steps, higher_is_better=task.higher_is_better
        ),
        "lipschitz": curve(heads.lipschitz),
        "diverged": bool(heads.diverged[place]),
        "diverged_step": diverged_step if diverged_step >= 0 else None,
        **stopped,
    }


def still_improves(scores: np.ndarray) -> bool:
    """Whether the last tenth of a curve moved on from the tenth before it by more than its noise.

    Noise is the standard deviation within the last tenth.

    Example:
        >>> still_improves(np.linspace(0, 1, 40)), still_improves(np.tile([0.5, 0.6], 20))
        (True, False)
    """
    tenth = max(2, len(scores) // 10)
    before, last = scores[-2 * tenth : -tenth], scores[-tenth:]
    return before.size > 0 and bool(abs(last.mean() - before.mean()) > last.std())


def solved_row(
    fields: Mapping[str, Any],
    task: Task,
    head: SolvedHead,
    vectors: Float[np.ndarray, "N *parts d"],
    targets: PyTree,
    splits: Mapping[str, Int[np.ndarray, "_"]],
) -> dict[str, Any]:
    """The record of one head that was solved.

    Args:
        fields: What it says of its head, solved or not.
        task: Loss and score.
        head: The head.
        vectors: Pooled vectors of all examples.
        targets: Their targets.
        splits: Their splits.
    """
    metrics, kept = {}, {}
    for name in ("train", "validation", "test"):
        own = rows_of(targets, splits[name])
        outputs = jnp.asarray(vectors[splits[name]], jnp.float32) @ head.kernel + head.bias
        scores = np.asarray(task.score(outputs, own))
        metrics[name] = task.metrics(scores, own)
        if name != "train":
            kept[name] = kept_of(task, scores, task.answer(outputs, own), own)
    return {
        **fields,
        "train": metrics["train"][task.metric],
        # A split that was trained on says nothing.
        "validation": head.score_tried if head.refitted else metrics["validation"][task.metric],
        "test": metrics["test"][task.metric],
        "test_metrics": metrics["test"],
        **_written(kept),
        "convex": task.is_convex,
        "strength": head.strength,
        "strengths_tried": list(head.tried),
        "scores_tried": list(head.tried_scores),
        "chosen_by": head.chosen_by,
        "at_edge": head.at_edge,
        "gradient": head.gradient,
        "num_steps": head.num_steps,
        "refitted": head.refitted,
        **({"starts": [dataclasses.asdict(start) for start in head.starts]} if head.starts else {}),
        "converged": head.converged,
        "diverged": not all(np.isfinite(value) for value in metrics["test"].values()),
        **constants_of(task, targets, splits),
    }


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


def _written(kept: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """What records say of single examples."""
    # Scores of test examples are numbers that people read.
    test = {name: array for name, array in kept["test"].items() if name != "score"}
    return {
        "test_scores": [float(f"{score:.6g}") for score in kept["test"]["score"]],
        "predictions": {"validation": packed(kept["validation"]), "test": packed(test)},
    }


def constants_of(
    task: Task, targets: PyTree, splits: Mapping[str, Int[np.ndarray, "_"]]
) -> dict[str, float]:
    """Test scores of the best constant prediction of the training split, and of the test split."""
    train, test = (rows_of(targets, splits[name]) for name in ("train", "test"))
    return {"baseline": task.baseline(train, test), "best_constant": task.baseline(test, test)}


def steps_to_share(
    scores: np.ndarray, num_steps: int, *, higher_is_better: bool, share: float = 0.95
) -> int | None:
    """Steps after which a validation score first reached a share of its final value.

    Args:
        scores: The score after each epoch.
        num_steps: Steps of an epoch, in which the result is counted.
        higher_is_better: Whether it grows; of a score that falls, ``1 / share`` times the final one.
        share: The share.

    Returns:
        Steps, or ``None`` for a score that is not finite at the end.

    Example:
        >>> steps_to_share(np.array([0.5, 0.8, 0.79, 0.8]), 10, higher_is_better=True)
        20
    """
    final = scores[-1]
    if not math.isfinite(final):
        return None
    if higher_is_better:
        reached = scores >= final - (1 - share) * abs(final)
    else:
        reached = scores <= final + (1 / share - 1) * abs(final)
    return (int(np.argmax(reached)) + 1) * num_steps
