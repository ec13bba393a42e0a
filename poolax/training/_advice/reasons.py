"""What the scores of an advice say, in words."""

from collections.abc import Mapping
from typing import Any

from poolax.statistics import Interval
from poolax.training._advice.choice import LEVEL, Choice

_MORE_DATA = 0.01


def reasons_of_scores(
    choice: Choice,
    test: Mapping[str, Interval],
    validation: Mapping[str, float],
    row: Mapping[str, Any],
    half: float | None,
) -> list[str]:
    """What scores say, a line each.

    Args:
        choice: What was chosen.
        test: Test scores with intervals.
        validation: Mean validation scores.
        row: A record of a head, for the metric.
        half: Test score of the recommended pooler at half of the training examples; ``None`` where the
            time was over.
    """
    metric, sign = row["metric"], 1 if row["higher_is_better"] else -1
    best, taken = choice.best, choice.recommended
    said = [
        f"{best} has the best validation {metric}, {validation[best]:.4g}; on test examples "
        f"{_of(test[best])}"
    ]
    if taken != best:
        found = choice.comparisons[taken]
        said.append(
            f"{taken} has {_of(test[taken])}: {found.value:+.4g} [{found.low:+.4g}, {found.high:+.4g}] "
            f"to {best}, adjusted p = {found.adjusted:.2g}: "
            + ("none beyond noise" if found.adjusted >= LEVEL else "better beyond noise")
            + ", and it costs less"
        )
    worse = [name for name in choice.comparisons if name not in choice.equals]
    if worse:
        said.append(f"worse than {best} beyond noise: {', '.join(worse)}")
    ahead = [
        name
        for name, found in choice.comparisons.items()
        if found.adjusted < LEVEL and sign * found.value > 0
    ]
    if ahead:
        said.append(
            f"on test examples {', '.join(ahead)} did better than {best}, which validation chose; more "
            "validation examples would choose more surely"
        )
    baseline = row.get("baseline")
    if baseline is not None and "avg" in test:
        gain, of_average = sign * (test[best].value - baseline), sign * (test["avg"].value - baseline)
        if gain > 0:
            said.append(
                f"a linear head on the average alone has {of_average / gain:.0%} of what {best} gains "
                f"over {baseline:.4g}, the score without any input"
            )
        else:
            said.append(f"no pooler is better than {baseline:.4g}, the score without any input")
    if half is not None:
        gain = sign * (test[taken].value - half)
        helps = gain > _MORE_DATA * abs(test[taken].value)
        more = "more data would help" if helps else "more data would help little"
        said.append(
            f"{taken} gains {gain:.4g} {metric} from half of the training examples to all: {more}"
        )
    return said


def _of(found: Interval) -> str:
    return f"{found.value:.4g} [{found.low:.4g}, {found.high:.4g}]"
