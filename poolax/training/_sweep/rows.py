"""Records of trained heads."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import PyTree

from poolax.training._engine.train import TrainedHeads
from poolax.training.tasks import Task


def row_of(
    fields: Mapping[str, Any],
    task: Task,
    heads: TrainedHeads,
    place: tuple[int, int],
    test_targets: PyTree,
) -> dict[str, Any]:
    """The record of one head.

    Args:
        fields: What it says of its head, trained or not.
        task: Loss and score.
        heads: All heads of one structure after training.
        place: Group and run of the head.
        test_targets: Targets of the test split.
    """
    diverged_step = int(heads.diverged_step[place])
    scores = task.example_scores(np.asarray(heads.test_scores[place]), test_targets)
    validation = heads.validation_score[place]
    return {
        **fields,
        "validation": float(heads.validation_metrics[task.metric][place]),
        "test": float(heads.test_metrics[task.metric][place]),
        "test_metrics": {name: float(value[place]) for name, value in heads.test_metrics.items()},
        "test_scores": [float(f"{score:.6g}") for score in scores],
        "train_loss": heads.train_loss[place].tolist(),
        "gradient_norm": heads.gradient_norm[place].tolist(),
        "validation_loss": heads.validation_loss[place].tolist(),
        "validation_score": validation.tolist(),
        "steps_to_95_percent": steps_to_share(
            validation, heads.num_steps, higher_is_better=task.higher_is_better
        ),
        "lipschitz": heads.lipschitz[place].tolist(),
        "diverged": bool(heads.diverged[place]),
        "diverged_step": diverged_step if diverged_step >= 0 else None,
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
