"""Records of trained heads."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from poolax.training._convex.head import SolvedHead
from poolax.training._convex.rule import RULE
from poolax.training._engine.train import TrainedHeads
from poolax.training._sweep.kept import kept_of, rows_of, written
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
    metrics = {"validation": heads.validation_metrics, "test": heads.test_metrics}
    metrics = {
        name: {part: float(value[place]) for part, value in own.items()}
        for name, own in metrics.items()
    }
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
        validation = validation[:num_epochs]
        improves = still_improves(
            validation, len(splits["validation"]), higher_is_better=task.higher_is_better
        )
        stopped = {
            "epochs_trained": num_epochs,
            "best_epoch": int(heads.best.epoch[place]),
            "converged": bool(heads.best.stopped[place]) or not improves,
        }

    def curve(values):
        return values[place][:num_epochs].tolist()

    return {
        **fields,
        "validation": metrics["validation"][task.metric],
        "test": metrics["test"][task.metric],
        **written(task, metrics, kept),
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


def still_improves(scores: np.ndarray, num_examples: int, *, higher_is_better: bool) -> bool:
    """Whether the last tenth of a curve is better than the tenth before it by more than its noise.

    Noise is the standard deviation within the last tenth, and no less than what four examples make up
    of a mean.

    Args:
        scores: Validation score after each epoch.
        num_examples: Examples of the validation split.
        higher_is_better: Whether it grows.

    Example:
        >>> still_improves(np.linspace(0, 1, 40), 500, higher_is_better=True)
        True
        >>> still_improves(np.tile([0.5, 0.6], 20), 500, higher_is_better=True)
        False
    """
    tenth = max(2, len(scores) // 10)
    before, last = scores[-2 * tenth : -tenth], scores[-tenth:]
    if before.size == 0:
        return False
    gain = (last.mean() - before.mean()) * (1 if higher_is_better else -1)
    return bool(gain > max(last.std(), 4 / num_examples * abs(last.mean())))


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
        # A split that was trained on says nothing.
        if name == "test" or (name == "validation" and not head.refitted):
            kept[name] = kept_of(task, scores, task.answer(outputs, own), own)
    return {
        **fields,
        "train": metrics["train"][task.metric],
        "validation": head.score_tried if head.refitted else metrics["validation"][task.metric],
        "test": metrics["test"][task.metric],
        **written(task, metrics, kept),
        "convex": task.is_convex,
        "strength": head.strength,
        "strengths_tried": list(head.tried),
        "scores_tried": list(head.tried_scores),
        "losses_tried": list(head.tried_losses),
        "chosen_by": head.chosen_by,
        "rule": RULE,
        "at_edge": head.at_edge,
        "gradient": head.gradient,
        "num_steps": head.num_steps,
        "refitted": head.refitted,
        "rank": head.rank,
        "width": len(head.kernel),
        **({"starts": [dataclasses.asdict(start) for start in head.starts]} if head.starts else {}),
        "converged": head.converged,
        "diverged": not all(np.isfinite(value) for value in metrics["test"].values()),
    }


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
