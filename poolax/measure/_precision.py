"""Numbers beyond single precision."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def without_overflow(evaluate: Callable[..., Any], *arrays: Any) -> Any:
    """``evaluate(*arrays)``, in double precision where single precision overflows on the way.

    Args:
        evaluate: Gives a tree of numbers; one that is infinite or undefined, but for the logarithm of
            zero, says that something overflowed.
        arrays: Trees of arrays; double precision from the start where one of them is.

    Returns:
        What ``evaluate`` gave; from double precision as NumPy arrays.

    Example:
        >>> print(f"{without_overflow(jnp.square, jnp.float32(1e30)):.0e}")
        1e+60
    """
    if not any(getattr(leaf, "dtype", None) == np.float64 for leaf in jax.tree.leaves(arrays)):
        # Numbers that do not fit show in what they lead to.
        with np.errstate(over="ignore"):
            found = evaluate(*arrays)
        if all(np.all(np.asarray(leaf) < np.inf) for leaf in jax.tree.leaves(found)):
            return found
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, evaluate(*jax.tree.map(_double, arrays)))


def _double(leaf):
    if isinstance(leaf, (jax.Array, np.ndarray)) and jnp.issubdtype(leaf.dtype, jnp.floating):
        return np.asarray(leaf, np.float64)
    return leaf
