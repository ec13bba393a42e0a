"""Few examples of each class, drawn several times."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from poolax.training.tasks import Classification


def draw_examples(
    labels: Int[np.ndarray, " N"],
    train: Int[np.ndarray, " train"],
    task: Classification,
    shots: int | Sequence[int],
    draws: int,
    seed: int,
) -> dict[int, list[Int[np.ndarray, " drawn"]]]:
    """Examples of a training split, as many of each class, several times.

    Args:
        labels: Of all examples.
        train: Indices of the training split.
        task: Says the classes.
        shots: Examples of each class, or several such numbers.
        draws: How often.
        seed: Of all draws.

    Returns:
        For each number, indices of each draw, ascending.

    Raises:
        ValueError: for a class with fewer examples.

    Example:
        >>> labels = np.array([0, 1, 0, 1, 0])
        >>> drawn = draw_examples(labels, np.arange(5), Classification(2), [2], 3, seed=0)
        >>> [sorted(labels[part].tolist()) for part in drawn[2]]
        [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
    """
    train = np.sort(np.asarray(train))
    of_class = [train[labels[train] == number] for number in range(task.num_classes)]
    for wanted in numbers_of(shots):
        scarce = next((c for c, own in enumerate(of_class) if len(own) < wanted), None)
        if scarce is not None:
            raise ValueError(
                f"shots: expected at most {len(of_class[scarce])}, as many examples as class {scarce} "
                f"has in the training split, got {wanted}"
            )
    orders = [
        [_generator(seed, draw, number).permutation(own) for number, own in enumerate(of_class)]
        for draw in range(draws)
    ]
    return {
        wanted: [np.sort(np.concatenate([own[:wanted] for own in order])) for order in orders]
        for wanted in numbers_of(shots)
    }


def numbers_of(shots: int | Sequence[int]) -> list[int]:
    """The numbers of examples that are asked for."""
    return [shots] if isinstance(shots, int) or not isinstance(shots, Sequence) else list(shots)


def _generator(seed, draw, number):
    """Of each class one of its own: what others hold changes nothing of it."""
    return np.random.default_rng((seed, draw, number))
