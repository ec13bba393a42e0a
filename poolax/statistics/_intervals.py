"""What a bootstrap says of a score, and of a difference."""

import dataclasses

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Interval:
    """A score with an interval of the percentiles of its draws.

    Attributes:
        value: The score over all examples, the mean over seeds.
        low: Lower end.
        high: Upper end.
        confidence: Share of the draws within.
        num_examples: Examples that are drawn from.
        num_seeds: Seeds that are drawn from.
        draws: Number of draws in which the score is defined.
    """

    value: float
    low: float
    high: float
    confidence: float
    num_examples: int
    num_seeds: int
    draws: int


@dataclasses.dataclass(frozen=True)
class Difference(Interval):
    """A difference of two scores, one less the other, in the same draws.

    Attributes:
        p_value: Twice the lesser share of draws on either side of 0, two-sided.
        p_greater: Share of draws of at most 0: small where the difference is above 0.
        p_less: Share of draws of at least 0: small where the difference is below 0.
        adjusted: The two-sided p-value, adjusted for all comparisons that it was made with by
            :func:`holm`; by itself ``p_value``.
    """

    p_value: float
    p_greater: float
    p_less: float
    adjusted: float


def ends(draws: Float[np.ndarray, " B"], confidence: float) -> tuple[float, float]:
    """The percentiles between which a share of the draws lies."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def shares(draws: Float[np.ndarray, " B"], limit: float) -> tuple[float, float]:
    """Shares of draws of at most and of at least a limit; the observed sample is a draw of both."""
    count = len(draws) + 1
    at_most, at_least = np.sum(draws <= limit) + 1, np.sum(draws >= limit) + 1
    return float(at_most / count), float(at_least / count)
