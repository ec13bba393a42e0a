"""Labels as numbers."""

from collections.abc import Iterable


def ordered_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels in the order of numbers, if all are, otherwise of letters.

    Example:
        >>> ordered_labels(["10", "9", "10"]), ordered_labels(["b", "1"])
        (('9', '10'), ('1', 'b'))
    """
    distinct = set(labels)
    try:
        return tuple(sorted(distinct, key=float))
    except ValueError:
        return tuple(sorted(distinct))
