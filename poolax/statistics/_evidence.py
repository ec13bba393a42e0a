"""Statements about differences, and verdicts on several of them at once."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from poolax._checks import check_choice, check_number
from poolax.statistics._bootstrap import Resampled
from poolax.statistics._holm import holm
from poolax.statistics._intervals import shares

RELATIONS = ("better", "not_worse", "equal")
VERDICTS = ("supported", "contradicted", "undecided")


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What draws say of a statement.

    Attributes:
        p_for: Small where the statement holds: p-value of the hypothesis that it does not.
        p_against: Small where its contrary holds: p-value of the hypothesis that it does.
    """

    p_for: float
    p_against: float

    @property
    def p_value(self) -> float:
        """Of both hypotheses, by Bonferroni's correction of the lesser."""
        return min(1.0, 2 * min(self.p_for, self.p_against))


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is decided of a statement, among others.

    Attributes:
        verdict: ``"supported"``, ``"contradicted"`` or ``"undecided"``.
        adjusted: The p-value of either, adjusted for all statements by :func:`holm`.
    """

    verdict: str
    adjusted: float


def evidence(
    resampled: Resampled,
    label: str,
    other: str,
    relation: Literal["better", "not_worse", "equal"] = "better",
    *,
    margin: float = 0.0,
) -> Evidence:
    """What draws say of a statement about two poolers.

    With ``g`` the gain of one over the other, positive where it is better, ``"better"`` states that
    ``g > margin``, ``"not_worse"`` that ``g > -margin``, and ``"equal"`` that ``|g| < margin``: an
    equivalence, which no absence of a difference shows. P-values are shares of draws on the wrong side
    of the limit, the observed sample among them; of an equivalence the larger one of its two sides.

    Args:
        resampled: The poolers in the same draws.
        label: Of which it is stated.
        other: Than which.
        relation: What is stated.
        margin: In the metric's unit; above 0 for an equivalence.

    Returns:
        The evidence.

    Raises:
        ValueError: for unknown names, a negative margin, or an equivalence without one.

    Example:
        >>> import numpy as np
        >>> from poolax.statistics import resample
        >>> right = np.random.default_rng(0).random(300) < 0.9
        >>> drawn = resample({"avg": right, "sum": right}, draws=1000)
        >>> evidence(drawn, "avg", "sum", "equal", margin=0.01).p_for < 0.01
        True
        >>> evidence(drawn, "avg", "sum").p_for
        1.0
    """
    check_choice("relation", relation, RELATIONS)
    check_number("margin", margin, at_least=0.0)
    gain = resampled.gain(label, other)
    if relation != "equal":
        return Evidence(*shares(gain, margin if relation == "better" else -margin))
    if margin == 0:
        raise ValueError("margin: expected a number above 0 for an equivalence, got 0")
    above, below = shares(gain, -margin), shares(gain, margin)
    return Evidence(max(above[0], below[1]), min(1.0, 2 * min(above[1], below[0])))


def all_of(parts: Sequence[Evidence]) -> Evidence:
    """Evidence that all of several statements hold, or that one of them does not.

    That all hold is decided by the weakest of them, without a correction (the intersection-union
    test). That one does not hold is decided by the strongest against, corrected for their number.

    Args:
        parts: Evidence of each.

    Returns:
        The evidence.

    Raises:
        ValueError: if there is none.

    Example:
        >>> all_of([Evidence(0.01, 0.99), Evidence(0.03, 0.97)])
        Evidence(p_for=0.03, p_against=1.0)
    """
    if not parts:
        raise ValueError("parts: expected evidence of at least one statement, got none")
    against = min(part.p_against for part in parts)
    return Evidence(max(part.p_for for part in parts), min(1.0, len(parts) * against))


def verdicts(statements: Sequence[Evidence], *, level: float = 0.05) -> list[Verdict]:
    """What is decided of several statements, with Holm's correction over all of them.

    The probability that any of them is decided wrongly, one way or the other, is at most ``level``, as
    far as the bootstrap's p-values are: with few seeds that differ more than examples do these are too
    small, see :func:`resample`.

    Args:
        statements: Evidence of each.
        level: Up to which adjusted p-value one is decided.

    Returns:
        The verdicts, in the same order.

    Raises:
        ValueError: for a level out of range.

    Example:
        >>> found = verdicts([Evidence(0.001, 1.0), Evidence(1.0, 0.001), Evidence(0.02, 0.98)])
        >>> [one.verdict for one in found]
        ['supported', 'contradicted', 'supported']
        >>> verdicts([Evidence(0.02, 0.98), Evidence(0.4, 0.6)])[0]
        Verdict(verdict='undecided', adjusted=0.08)
    """
    check_number("level", level, above=0.0, below=1.0)
    adjusted = holm([one.p_value for one in statements])
    found = []
    for one, p_value in zip(statements, adjusted.tolist(), strict=True):
        side = "supported" if one.p_for < one.p_against else "contradicted"
        found.append(Verdict(side if p_value <= level else "undecided", p_value))
    return found
