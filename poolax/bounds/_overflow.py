"""Bounds that a dtype cannot hold: infinite, never undefined, and refused where that can be seen."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poolax._checks import is_concrete


def or_infinite(record: Any) -> Any:
    """The same with infinity, which bounds everything, for what overflow left undefined."""
    return jax.tree.map(lambda leaf: jnp.where(jnp.isnan(leaf), jnp.inf, leaf), record)


def check_held(
    name: str,
    numbers: Any,
    held: str = "the model and its bound",
    error: type[ValueError] = ValueError,
) -> None:
    """Refuse sizes, or their logarithms, that overflowed at the argument ``name``."""
    if not is_concrete(numbers):
        return
    numbers = np.asarray(numbers)
    bad = numbers[np.isnan(numbers) | np.isposinf(numbers)]
    if bad.size:
        raise error(
            f"{name}: expected sizes for which {numbers.dtype} holds {held}, got {bad.flat[0]}; double "
            "precision (jax.enable_x64) holds more"
        )
