"""Slopes of activations on intervals.

Theory, section 5.6.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax.bounds._activations import activation_lipschitz, activation_name

# Where the slope is largest; at the negative of it, it is smallest, and between them it rises.
_STEEPEST_AT = {
    "gelu (exact)": 1.414213562,
    "gelu (tanh)": 1.418504009,
    "silu": 2.399357280,
    "quick gelu": 1.409728132,
}
# What the places above may be off by, and how far out a slope is its limit in every dtype.
_OFF, _FAR = 1e-6, 60.0


def slope_range(
    activation: Callable[[Array], Array], low: Float[Array, "*batch"], high: Float[Array, "*batch"]
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Smallest and largest slope of an activation on intervals.

    Args:
        activation: One whose Lipschitz constant is known.
        low: Lower ends.
        high: Upper ends.

    Returns:
        The slopes, as they are at the ends and, between them, at the steepest places.

    Raises:
        NoBoundError: for an activation whose slopes are not known.
    """
    most = activation_lipschitz(activation)
    name: Any = activation_name(activation)
    if name == "relu":
        # Written so that what is no number gives the widest range.
        zero, one = jnp.zeros_like(low), jnp.ones_like(low)
        return jnp.where(low > 0, one, zero), jnp.where(high < 0, zero, one)
    # What overflowed to no number at all bounds nothing.
    low = jnp.clip(jnp.where(jnp.isnan(low), -_FAR, low), -_FAR, _FAR)
    high = jnp.clip(jnp.where(jnp.isnan(high), _FAR, high), -_FAR, _FAR)
    ends = [jax.jvp(activation, (end,), (jnp.ones_like(end),))[1] for end in (low, high)]
    least, largest = jnp.minimum(*ends), jnp.maximum(*ends)
    if name == "tanh":
        return least, jnp.where((low <= 0) & (high >= 0), 1, largest)
    place = _STEEPEST_AT[name]

    def holds(place):
        return (low <= place + _OFF) & (high >= place - _OFF)

    return jnp.where(holds(-place), 1 - most, least), jnp.where(holds(place), most, largest)
