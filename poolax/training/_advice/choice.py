"""Which pooler to take: chosen by validation, compared on test examples, the cheapest of equals."""

import dataclasses
from collections.abc import Mapping, Sequence

from poolax.statistics import Difference, Resampled

LEVEL = 0.05
# Poolers whose scores surely differ by less are one, as average and sum of as many tokens.
_ALIKE = 0.005
_SHOWN = 4


@dataclasses.dataclass(frozen=True)
class Price:
    """What a pooler costs, in the order in which it counts.

    Attributes:
        num_parameters: Numbers that it learns.
        factor: Its Lipschitz factor at the lengths and the spread of the tokens; infinite where none is
            proved.
    """

    num_parameters: int
    factor: float

    @property
    def key(self) -> tuple[int, float]:
        """Smaller is cheaper."""
        return self.num_parameters, self.factor


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        recommended: The pooler to take.
        runner_up: The next best by validation; ``None`` where there is no other.
        best: The one that validation chose.
        decided: Whether every other pooler is worse than it beyond noise, those apart that score alike
            in every draw.
        comparisons: Of each other pooler, its test score less that of ``best``.
        equals: Poolers that are not worse than ``best`` beyond noise, and itself.
    """

    recommended: str
    runner_up: str | None
    best: str
    decided: bool
    comparisons: Mapping[str, Difference]
    equals: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The advice in a sentence."""
        if self.runner_up is None:
            return f"Take {self.recommended}: no other pooler was tried."
        if self.decided:
            alike = [name for name in self.equals if name != self.recommended]
            but = f" but {', '.join(alike)}, which scores alike" if alike else ""
            return f"Take {self.recommended}: better beyond noise than every other pooler{but}."
        shown = ", ".join(self.equals[:_SHOWN]) + (", …" if len(self.equals) > _SHOWN else "")
        reason = no_difference(self.best, self.comparisons, self.equals)
        return f"Take {self.recommended}, the cheapest of {shown}: {reason}."

    @property
    def certainty(self) -> str:
        """How sure that is, by the comparison that it stands on; empty where there is none."""
        if not self.comparisons:
            return ""
        worse = [name for name in self.comparisons if name not in self.equals]
        if self.recommended != self.best:
            name = self.recommended
        else:  # that which is nearest to being another verdict
            name = max(worse if self.decided else self.comparisons, key=self._p_value)
        found = self.comparisons[name]
        return (
            f"{name} less {self.best}, the best by validation: {found.value:+#.3g} [{found.low:+#.3g}, "
            f"{found.high:+#.3g}] on {found.num_examples} test examples, "
            f"adjusted p = {found.adjusted:.2g}"
        )

    def _p_value(self, name: str) -> float:
        return self.comparisons[name].adjusted


def choose(
    validation: Mapping[str, float],
    test: Resampled,
    prices: Mapping[str, Price],
) -> Choice:
    """The pooler to take.

    The best by validation is compared with every other one on the test examples, which had no part in
    that choice, by a paired bootstrap over examples and seeds with Holm's correction. Where others are
    not worse beyond noise, the cheapest of them is recommended: of fewest parameters, then of the
    smallest Lipschitz factor.

    Args:
        validation: Mean validation score of each pooler.
        test: Their scores in draws of test examples and seeds.
        prices: What each costs.

    Returns:
        The choice.
    """
    sign = 1 if test.higher_is_better else -1
    order = sorted(validation, key=lambda name: (-sign * validation[name], *prices[name].key))
    best = order[0]
    comparisons = test.against(best) if len(order) > 1 else {}

    equals = [best, *(name for name in order[1:] if not is_worse(comparisons[name], sign))]
    recommended = min(equals, key=lambda name: prices[name].key)
    others = [name for name in order if name != recommended]
    scale = max(abs(value) for value in validation.values()) or 1.0
    distinct = [
        name
        for name in equals[1:]
        if max(abs(comparisons[name].low), abs(comparisons[name].high)) > _ALIKE * scale
    ]
    return Choice(
        recommended=recommended,
        runner_up=others[0] if others else None,
        best=best,
        decided=bool(comparisons) and not distinct and len(equals) < len(order),
        comparisons=comparisons,
        equals=tuple(equals),
    )


def no_difference(best: str, comparisons: Mapping[str, Difference], equals: Sequence[str]) -> str:
    """Why any of some equals may be taken: what test examples say of them.

    Args:
        best: What validation chose.
        comparisons: Of each of the others with it.
        equals: What is not worse than it beyond noise, and itself.

    Example:
        >>> from poolax.statistics import Difference
        >>> found = Difference(0.1, 0.05, 0.15, 0.95, 400, 1, 1000, 0.001, 0.001, 0.999, 0.002)
        >>> no_difference("avg", {"max": found}, ["avg", "max"])
        'on test examples, which have no say, max did better than avg beyond noise'
    """
    better = [name for name in equals if name != best and comparisons[name].adjusted < LEVEL]
    if not better:
        return "no difference is beyond noise"
    return (
        f"on test examples, which have no say, {', '.join(better)} did better than {best} beyond noise"
    )


def is_worse(found: Difference, sign: int) -> bool:
    """Whether a difference is one beyond noise, on the wrong side.

    Args:
        found: The difference.
        sign: 1 where larger scores are better, -1 otherwise.
    """
    return found.adjusted < LEVEL and sign * found.value < 0
