"""A claim: a statement about differences of poolers where they are named."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from poolax._checks import check_choice
from poolax.statistics import RELATIONS

#: The fixed pooler of the paper's four that has the best mean validation score.
BEST_FIXED = "best fixed"
FIXED = ("last", "avg", "sum", "max")


@dataclasses.dataclass(frozen=True)
class Contrast:
    """What is stated of two poolers.

    Attributes:
        label: Of which it is stated.
        other: Than which; ``"best fixed"`` is the one of last, average, sum and max that validation
            chose.
        relation: ``"better"``, ``"not_worse"`` or ``"equal"``, as of
            :func:`poolax.statistics.evidence`; the last two within the margin of the claim.
    """

    label: str
    other: str
    relation: Literal["better", "not_worse", "equal"] = "better"

    def __post_init__(self):
        """Refuse an unknown relation."""
        check_choice("relation", self.relation, RELATIONS)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim: that all of several statements hold, on all of several tasks.

    Attributes:
        name: A short one.
        text: In words.
        contrasts: What is stated of poolers.
        places: Data set and task, as records call them, of each backbone that it is tested on; each
            backbone has a verdict of its own.
        solvers: Protocols under which it is tested, each with a verdict of its own.
        source: Whose claim it is.
        margin: Within which poolers are equal, or one is not worse: in the metric's unit where more is
            better, else relative to the error of the constant prediction.
        missing: What it cannot be tested without, so that what it states is read in the paper alone;
            empty where it can be.

    Example:
        >>> claim = Claim(
        ...     "order", "Average is better than sum.", (Contrast("avg", "sum"),),
        ...     {"MiniLM": (("banking77", "classification"),)},
        ... )
        >>> claim.solvers
        ('adam', 'converged')
    """

    name: str
    text: str
    contrasts: tuple[Contrast, ...] = ()
    places: Mapping[str, tuple[tuple[str, str], ...]] = dataclasses.field(default_factory=dict)
    solvers: tuple[str, ...] = ("adam", "converged")
    source: str = "paper"
    margin: float = 0.01
    missing: str = ""

    def __post_init__(self):
        """Refuse a claim that states nothing and does not say what it lacks."""
        if not self.missing and not (self.contrasts and self.places):
            raise ValueError(
                f"missing: expected contrasts and places of {self.name!r}, or what is missing, got none"
            )
