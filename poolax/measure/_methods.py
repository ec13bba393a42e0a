"""Bounds of all methods side by side."""

from collections.abc import Callable
from typing import Any, TypeVar

from poolax.bounds import METHODS, PROVED, NoBoundError

_Bound = TypeVar("_Bound")


def known(bound: Callable[..., _Bound], *args: Any, **options: Any) -> _Bound | None:
    """``bound(*args, **options)``, ``None`` where no bound is known.

    Example:
        >>> from poolax import bounds, pooling
        >>> sizes = {"num_tokens": 4, "dim": 8}
        >>> known(bounds.pooling_factor, "avg", **sizes) is None
        False
    """
    try:
        return bound(*args, **options)
    except NoBoundError:
        return None


def by_method(bound: Callable[[str], _Bound]) -> dict[str, _Bound | None]:
    """A bound by each method.

    Args:
        bound: Gives the bound by a method.

    Returns:
        Bounds by method; ``None`` where nothing was published.

    Raises:
        NoBoundError: where this library proves nothing either.

    Example:
        >>> import jax.numpy as jnp
        >>> from poolax import attention, bounds
        >>> x = jnp.ones((4, 2, 2))
        >>> kernels = {"query": x, "key": x, "value": x, "out": jnp.ones((2, 2, 4))}
        >>> found = by_method(lambda method: bounds.attention(
        ...     attention.DotProduct(), kernels, num_tokens=3, radius=1.0, method=method
        ... ).sequence)
        >>> bool(found["tight"] <= found["sharp"] <= found["published"])
        True
    """
    return {method: bound(method) if method in PROVED else known(bound, method) for method in METHODS}
