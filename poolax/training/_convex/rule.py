"""Which strength of the penalty is taken, by what its head predicts of examples that were held out."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from poolax.training.tasks import Task

RULE = "least loss of those within a standard error of the best score"

# Scores and losses are one within what rounding makes of equal heads.
_ALIKE = 1e-5
_FACTOR = 10.0
_LOWEST, _HIGHEST = 1e-9, 1e4


class HeldOut(NamedTuple):
    """What a head is worth on examples that it was not trained on.

    Attributes:
        score: The task's metric.
        loss: The task's mean loss, without penalty.
        scores: What the metric is the mean of, one number an example; ``None`` where it is no mean.
    """

    score: float
    loss: float
    scores: Float[np.ndarray, " N"] | None = None


def best_of(held: Mapping[float, HeldOut], task: Task) -> float:
    """The strength to take: of least loss among those that score as the best one does, up to noise.

    Scores of neighbouring strengths differ by a few examples, so that the best of them is a draw of
    lots, and another one where rounding turns a single example. A strength stays in the choice whose
    score is within one standard error of the best one, which is that of their difference over the same
    examples if they were equally good: ``sqrt(b + c) / N`` where one alone is right ``b`` times and the
    other ``c`` times (metrics that are no mean of examples have none). Of these the loss decides, which
    does not jump; of equal losses, up to rounding, the strongest is taken.

    Args:
        held: What the head of each strength is worth.
        task: Which metric, and which way it goes.

    Example:
        >>> from poolax.training.tasks import Classification
        >>> right = np.arange(100) < 90
        >>> held = {
        ...     1e-2: HeldOut(0.90, 0.31, right * 1.0),
        ...     1e-3: HeldOut(0.91, 0.40, (np.arange(100) < 91) * 1.0),
        ...     1e-1: HeldOut(0.50, 0.30, (np.arange(100) < 50) * 1.0),
        ... }
        >>> best_of(held, Classification(2))
        0.01
    """
    sign = 1 if task.higher_is_better else -1
    # What is no number is worse than any.
    values = {s: sign * one.score if np.isfinite(one.score) else -np.inf for s, one in held.items()}
    best = max(values, key=lambda strength: (values[strength], strength))
    if not np.isfinite(values[best]):
        return max(held)
    alike = [
        strength
        for strength, value in values.items()
        if values[best] - value
        <= _standard_error(held[best], held[strength]) + _ALIKE * abs(values[best])
    ]
    losses = {s: held[s].loss if np.isfinite(held[s].loss) else np.inf for s in alike}
    least = min(losses.values())
    return max(s for s in alike if losses[s] <= least + (_ALIKE * abs(least) if least < np.inf else 0))


def _standard_error(one: HeldOut, other: HeldOut) -> float:
    """Of the mean difference over examples, were it 0; 0 where the metric is no mean.

    That of two heads which differ in one example is that example.
    """
    if one.scores is None or other.scores is None:
        return 0.0
    return float(np.linalg.norm(one.scores - other.scores) / len(one.scores))


def beyond_the_edge(held: Mapping[float, HeldOut], task: Task) -> list[float]:
    """Strengths to try beside those that were, where the best of them is the last on its side."""
    best = best_of(held, task)
    beyond = []
    if best == min(held):
        beyond += [best / _FACTOR, best / _FACTOR**2]
    if best == max(held):
        beyond += [best * _FACTOR, best * _FACTOR**2]
    return sorted(s for s in beyond if _LOWEST <= s <= _HIGHEST)
