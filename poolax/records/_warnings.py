"""What is to be known of heads before their scores are believed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

# Fewer validation examples say too little to choose by: 1 of 50 is two points of accuracy.
FEWEST_VALIDATION = 50


class HeadWarning(NamedTuple):
    """Something that is to be known of the heads of a pooler.

    Attributes:
        code: ``"diverged"``, ``"not_converged"``, ``"at_edge"``, ``"is_constant"`` or
            ``"few_validation"``.
        words: The same in words.
    """

    code: str
    words: str

    def __str__(self):
        return self.words


def warnings_of(
    chosen: Iterable[Mapping[str, Any]], tried: Iterable[Mapping[str, Any]] = ()
) -> list[HeadWarning]:
    """What is to be known of heads: of one record, or of the records of a pooler that were chosen.

    Args:
        chosen: Records of heads of one pooler, one for each seed.
        tried: Those of all heads from which they were chosen, with other learning rates among them.

    Returns:
        Warnings: heads that diverged, or did not converge; a penalty or learning rate at the edge of
        those that were tried, beyond which others may do better (of three rates at least: of two each
        is an edge); one prediction for all test examples, which for a classification is mostly the
        majority class; fewer than 50 validation examples, with what was done about it.

    Raises:
        ValueError: for no record.

    Example:
        >>> row = {"kind": "head", "diverged": False, "converged": True, "at_edge": True,
        ...        "strength": 1e-9, "is_constant": False, "chosen_by": "validation"}
        >>> [warning.words for warning in warnings_of([row])]
        ['the penalty 1e-09 lies at the edge of those that were tried']
    """
    rows = list(chosen)
    if not rows:
        raise ValueError("chosen: expected at least one record, got none")
    sound = [row for row in rows if not row["diverged"]]
    found = []

    def tell(code, count, words):
        if count:
            share = "" if len(rows) == 1 else f" ({count} of {len(rows)} heads)"
            found.append(HeadWarning(code, f"{words}{share}"))

    tell("diverged", len(rows) - len(sound), "diverged")
    unsettled = [row for row in sound if row.get("converged") is False]
    solved = sum("gradient" in row for row in unsettled)
    tell("not_converged", solved, "solving ended with a gradient above the tolerance")
    tell("not_converged", len(unsettled) - solved, "still improved when training ended")
    found += [
        HeadWarning("at_edge", f"{what} lies at the edge of those that were tried")
        for what in _at_edge(sound, list(tried))
    ]
    constant = sum(bool(row.get("is_constant")) for row in sound)
    tell("is_constant", constant, "predicts the same for all test examples")
    return found + _few(rows[0], list(tried))


def _at_edge(rows: Sequence[Mapping[str, Any]], tried: Sequence[Mapping[str, Any]]) -> list[str]:
    """Values that were chosen and are the least or the greatest that were tried."""
    names = {
        f"the penalty {row['strength']:g}"
        if row.get("strength") is not None
        else f"the learning rate {row['learning_rate']:g}"
        for row in rows
        if row.get("at_edge")
    }
    rates = {row["learning_rate"] for row in tried if row["learning_rate"] is not None}
    if len(rates) > 2 and not any("at_edge" in row for row in rows):
        edges = {min(rates), max(rates)}
        names |= {
            f"the learning rate {row['learning_rate']:g}"
            for row in rows
            if row["learning_rate"] in edges
        }
    return sorted(names)


def _few(row: Mapping[str, Any], tried: Sequence[Mapping[str, Any]]) -> list[HeadWarning]:
    """Whether validation has too few examples to choose by, where something was chosen."""
    if row.get("chosen_by") == "cross-validation":
        words = "fewer than 50 validation examples: cross-validation of training and validation chose"
        return [HeadWarning("few_validation", words)]
    count = row.get("num_examples", {}).get("validation")
    rates = {other["learning_rate"] for other in tried} | set(row.get("learning_rates_tried", ()))
    if count is None or count >= FEWEST_VALIDATION or len(rates) < 2:
        return []
    words = f"{count} validation examples chose the learning rate, which is little better than chance"
    return [HeadWarning("few_validation", words)]
