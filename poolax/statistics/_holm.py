"""Several comparisons at once."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def holm(p_values: Sequence[float] | Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Holm's correction: p-values of which the least may be read as if there were no others.

    With ``p_(1) <= ... <= p_(m)`` the adjusted value of the k-th is the largest of
    ``(m - j + 1) p_(j)`` over ``j <= k``, at most 1. The probability that any true null hypothesis has
    an adjusted value of at most ``a`` is at most ``a``, whatever they have to do with each other.

    Args:
        p_values: One p-value for each comparison, from 0 to 1.

    Returns:
        The adjusted values, in the same order.

    Raises:
        ValueError: for anything but numbers from 0 to 1.

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]

    Reference:
        Holm, "A simple sequentially rejective multiple test procedure" (1979).
    """
    values = np.asarray(p_values, np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p_values: expected numbers from 0 to 1, got {p_values}")
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * values[order]), 1)
    return adjusted
