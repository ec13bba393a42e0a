"""Which part of an axis scores take, when a few of them are far from all others."""

from collections.abc import Sequence
from typing import NamedTuple

# A score is far off where the axis without it would be shorter than by this factor.
_FAR = 3.0
# At most this share of the scores stands outside.
_MOST_OUTSIDE = 0.34
_FEWEST_INSIDE = 3
# Errors further apart than by this factor need a logarithmic axis.
_WIDE = 20.0
_MARGIN = 0.07


class Range(NamedTuple):
    """What an axis shows.

    Attributes:
        low: Where it begins.
        high: Where it ends.
        is_log: Whether it is logarithmic.
    """

    low: float
    high: float
    is_log: bool

    def __contains__(self, value: object) -> bool:
        """Whether a value is on the axis."""
        return isinstance(value, int | float) and self.low <= value <= self.high


def range_of(
    points: Sequence[tuple[float, float, float]], *, higher_is_better: bool, log: bool = True
) -> Range:
    """The part of an axis that scores take, with their bars; those far worse than others are left out.

    Args:
        points: Value and ends of the bar of each.
        higher_is_better: Which side the worse ones are on.
        log: Whether errors that are far apart may have a logarithmic axis.

    Returns:
        The axis, wide enough for the bars of what is on it.

    Example:
        >>> errors = [0.44, 0.45, 0.46, 0.47, 3.0]
        >>> found = range_of([(e, e, e) for e in errors], higher_is_better=False)
        >>> [error for error in errors if error not in found]
        [3.0]
    """
    sign = 1 if higher_is_better else -1
    kept = sorted(points, key=lambda point: -sign * point[0])
    most = int(_MOST_OUTSIDE * len(points))
    for outside in range(most, 0, -1):
        inner = kept[: len(kept) - outside]
        if len(inner) < _FEWEST_INSIDE:
            continue
        gap = abs(kept[len(inner)][0] - inner[-1][0])
        # Far from the nearest one as well: what lies in the middle belongs to the others.
        if gap > (_FAR - 1) * _length(inner) > 0:
            kept = inner
            break
    low, high = min(point[1] for point in kept), max(point[2] for point in kept)
    if log and not higher_is_better and low > 0 and high > _WIDE * low:
        return Range(low / 1.3, high * 1.3, True)
    margin = _MARGIN * (high - low) or 0.05 * abs(high) or 1.0
    return Range(low - margin, high + margin, False)


def _length(points):
    """How long an axis for these is, without margins."""
    return max(point[2] for point in points) - min(point[1] for point in points)
