"""What there is to say of a head beside its numbers: where these are to be read with care."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int, PyTree

from poolax.training.tasks import Classification, Task


def notes_on_targets(task: Task, targets: PyTree, train: Int[np.ndarray, " train"]) -> list[str]:
    """What the targets of a training split leave open.

    Args:
        task: What the heads predict.
        targets: Targets of all examples.
        train: The training split.

    Example:
        >>> notes_on_targets(Classification(4), np.array([0, 0, 1, 2]), np.array([0, 1, 2]))
        ['2 of 4 classes have no training example', '1 of 4 classes has one training example alone']
    """
    if not isinstance(task, Classification):
        return []
    counts = np.bincount(np.asarray(targets)[train], minlength=task.num_classes)
    texts = []
    for number, what in ((0, "no training example"), (1, "one training example alone")):
        found = int((counts == number).sum())
        if found:
            have = "has" if found == 1 else "have"
            texts.append(f"{found} of {task.num_classes} classes {have} {what}")
    return texts


def notes_on_head(row: Mapping[str, Any]) -> list[str]:
    """What a record of a head that was trained to the end says of itself, in words.

    Args:
        row: The record.

    Example:
        >>> notes_on_head({"converged": True, "test": 0.5, "baseline": 0.5, "diverged": False})
        ['its test score is that of the best constant prediction']
    """
    texts = []
    if row["diverged"]:
        texts.append("diverged")
    if not row["converged"]:
        how = "validation still improved at the last epoch"
        if "gradient" in row:
            how = f"the gradient is {row['gradient']:.2g} after {row['num_steps']} steps"
        texts.append(f"not converged: {how}")
    if row.get("at_edge"):
        what = "learning rate" if "learning_rates_tried" in row else "strength"
        texts.append(f"its {what} is the least or greatest that was tried")
    # One direction is missing behind every LayerNorm without biases, which is no news.
    if "rank" in row and row["rank"] < row["width"] - 1:
        texts.append(
            f"inputs vary in {row['rank']} of {row['width']} directions: "
            "in the others the penalty alone decides"
        )
    if math.isclose(row["test"], row.get("baseline", math.nan), rel_tol=1e-6):
        texts.append("its test score is that of the best constant prediction")
    return texts
