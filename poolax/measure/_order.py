"""What is measured is never above a bound, nor a better bound above a worse one."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from poolax.bounds import METHODS

# What was computed beside it is rounded as well, and some bounds are attained.
_ROUNDING = 1e-4


def check_order(
    measured: Any, bounds: Mapping[str, Any], *, what: str, rounding: float = _ROUNDING
) -> None:
    """Refuse norms and bounds that are not finite, or not in order.

    Args:
        measured: A norm, or an array of them.
        bounds: Bounds of them by name, of a shape that broadcasts with it; ``None`` where none is
            known. Those on a domain (``"tight"``, ``"sharp"``, ``"published"``) are compared among
            themselves, too.
        what: Whose they are, for the error.
        rounding: How far above a bound, relative to it, a norm may be.

    Raises:
        RuntimeError: if one is not finite, or above one that it has to be below.

    Example:
        >>> check_order([1.0, 2.0], {"local": [1.5, 2.5], "tight": 3.0, "published": None}, what="W")
        >>> check_order(4.0, {"tight": 3.0}, what="W")
        Traceback (most recent call last):
        ...
        RuntimeError: measured <= tight does not hold for W: 4.0 and 3.0
    """
    given = {name: np.asarray(bound) for name, bound in bounds.items() if bound is not None}
    norms = np.asarray(measured)
    for name, values in {"measured": norms, **given}.items():
        if not np.isfinite(values).all():
            raise RuntimeError(f"expected finite constants for {what}, got {name} {values}")
    on_domain = [name for name in reversed(METHODS) if name in given]
    pairs = [("measured", norms, name, bound * (1 + rounding)) for name, bound in given.items()]
    pairs += [(low, given[low], high, given[high]) for low, high in itertools.pairwise(on_domain)]
    for low, below, high, above in pairs:
        if (below > above).any():
            worst = np.unravel_index(np.argmax(below - above), np.broadcast(below, above).shape)
            low_values, high_values = np.broadcast_arrays(below, given[high])
            raise RuntimeError(
                f"{low} <= {high} does not hold for {what}: {low_values[worst]} and "
                f"{high_values[worst]}"
            )
