"""``z / sqrt(|z|^2 + eps)`` on a ball: how steep it is, and how much its derivative changes.

Cosine attention normalises rows so, and LayerNorm and RMSNorm are ``sqrt(d)`` times it.

Theory, section 5.5.
"""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float

_CURVATURE = 2 / math.sqrt(3)


@dataclasses.dataclass(frozen=True)
class NormaliserChange:
    """Bounds on a ball of radius ``rho`` around a row.

    Attributes:
        steepest: Of the derivative's norm.
        slope: Of how much the derivative changes from that at the centre.
        value: Of how far the normalised row moves.
        remainder: Of what a linear change at the centre leaves of that move.
    """

    steepest: Float[Array, "..."]
    slope: Float[Array, "..."]
    value: Float[Array, "..."]
    remainder: Float[Array, "..."]


def normaliser_change(
    size: Float[Array, "..."], eps: float | Float[Array, ""], moved: Float[Array, "..."]
) -> NormaliserChange:
    r"""What ``z / r``, ``r = sqrt(|z|^2 + eps)``, does where ``z`` moves by at most ``moved``.

    The derivative is positive semidefinite and at most ``1 / r``, its own derivative at most ``2 /
    (sqrt(3) r^2)``; ``r`` is at least ``sqrt(max(|z| - moved, 0)^2 + eps)``.

    Args:
        size: ``|z|`` at the centre.
        eps: What is added to the square.
        moved: Radius of the ball.

    Returns:
        The bounds.
    """
    steepest = 1 / jnp.sqrt(jnp.square(jnp.maximum(size - moved, 0)) + eps)
    curvature = _CURVATURE * jnp.square(steepest)
    value = jnp.minimum(steepest * moved, 1 + size / jnp.sqrt(jnp.square(size) + eps))
    return NormaliserChange(
        steepest=steepest,
        slope=jnp.minimum(curvature * moved, steepest),
        value=value,
        remainder=curvature * jnp.square(moved) / 2,
    )
