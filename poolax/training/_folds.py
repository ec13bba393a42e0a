"""Parts of examples that are held out in turn."""

from typing import Any

import numpy as np
from jaxtyping import Int

NUM_FOLDS = 5


def even_folds(
    examples: Int[np.ndarray, " N"], targets: Any, seed: int, num_folds: int = NUM_FOLDS
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and held-out examples of each fold; classes are spread evenly where there are any.

    Args:
        examples: Indices, at least two.
        targets: Targets of all examples; whole numbers ``(N,)`` are classes.
        seed: Of the folds.
        num_folds: Number of folds, or as many as there are examples.

    Example:
        >>> [held_out.size for _, held_out in even_folds(np.arange(11), np.zeros(11), 0)]
        [3, 2, 2, 2, 2]
    """
    order = np.random.default_rng(seed).permutation(examples)
    labels = targets if isinstance(targets, np.ndarray) else None
    if labels is not None and labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
        order = order[np.argsort(labels[order], kind="stable")]
    number = np.arange(len(order)) % min(num_folds, len(order))
    return [(order[number != fold], order[number == fold]) for fold in range(number.max() + 1)]
