"""Learning rates of heads that are searched for: where the best stands at an edge, beyond it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

_FACTOR = 10**0.5
_LARGEST = 1.0


class Search(NamedTuple):
    """How far the search for a learning rate is.

    Attributes:
        tried: Those that were tried, ascending.
        scores: Validation scores of each.
        next: Those to try next; none once one is chosen.
        chosen: The best one; ``None`` before.
        at_edge: Whether no smaller one was tried than the best one, or no greater one.
    """

    tried: tuple[float, ...]
    scores: tuple[float, ...]
    next: tuple[float, ...]
    chosen: float | None
    at_edge: bool


def all_rates(rates: Sequence[float], further: int = 2) -> tuple[float, ...]:
    """These, and those that a search among them may come to; a single one is taken as it is.

    Args:
        rates: Those that were asked for.
        further: How many there are on either side of them.

    Example:
        >>> all_rates((1e-3, 1e-2))
        (0.001, 0.01, 0.000316, 0.0001, 0.0316, 0.1)
    """
    rates = tuple(rates)
    if len(rates) == 1:
        return rates
    steps = range(1, further + 1)
    lower = [_rounded(min(rates) / _FACTOR**step) for step in steps]
    higher = [_rounded(max(rates) * _FACTOR**step) for step in steps]
    return (*rates, *(rate for rate in lower + higher if rate <= _LARGEST))


def search(
    rates: Sequence[float],
    scores: Mapping[float, float],
    *,
    higher_is_better: bool,
    further: int = 2,
) -> Search:
    """What to try next, or what to take.

    Args:
        rates: Learning rates to try in any case.
        scores: Validation score of each that was tried; NaN where it diverged.
        higher_is_better: Whether a larger score is better.
        further: As for :func:`all_rates`.

    Returns:
        The next ones; one beyond the edge where the best so far stands there, until there is none.

    Example:
        >>> search((1e-3, 1e-2), {1e-3: 0.7, 1e-2: 0.8}, higher_is_better=True).next
        (0.0316,)
        >>> search((1e-3, 1e-2), {1e-3: 0.7, 1e-2: 0.8, 0.0316: 0.6}, higher_is_better=True).chosen
        0.01
    """
    missing = tuple(rate for rate in rates if rate not in scores)
    tried = tuple(sorted(scores))
    found = tuple(scores[rate] for rate in tried)
    if missing:
        return Search(tried, found, missing, None, at_edge=False)
    sign = 1 if higher_is_better else -1
    values = [sign * score if np.isfinite(score) else -np.inf for score in found]
    # Of equal ones that in the middle: what is as good beyond an edge is no reason to go there.
    alike = [rate for rate, value in zip(tried, values, strict=True) if value == max(values)]
    best = alike[len(alike) // 2]
    known = all_rates(rates, further)
    beyond = []
    if best == tried[0]:
        beyond += [max((rate for rate in known if rate < best), default=None)]
    if best == tried[-1]:
        beyond += [min((rate for rate in known if rate > best), default=None)]
    to_try = tuple(rate for rate in beyond if rate is not None)
    at_edge = len(known) > 1 and best in (tried[0], tried[-1])
    return Search(tried, found, to_try, None if to_try else best, at_edge)


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")
