"""Radii from slopes: how far inputs may move before a lead is used up, from bounds of its gradient.

Theory, section 9.5.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax._numerics import safe_norm, with_leading_axes
from poolax.bounds._ball_poolers import lead_changes
from poolax.bounds._overflow import or_infinite
from poolax.bounds._reach import row_norm
from poolax.pooling import Pooler

_STEPS = 32


def crossing(
    widths: Float[Array, " J"], lipschitz: Float[Array, "*k J"], margins: Float[Array, "*k"]
) -> Float[Array, "*k"]:
    """The radius at which upper sums of slopes use up margins; the largest radius where they do not.

    Args:
        widths: How much each of growing radii is above that before it.
        lipschitz: Bounds of the slopes on the balls of these radii.
        margins: What may be lost.

    Returns:
        The radii, 0 for a margin that is not positive.
    """
    widths = with_leading_axes(widths, lipschitz.ndim)
    falls = or_infinite(jnp.cumsum(widths * lipschitz, axis=-1))
    before = jnp.concatenate([jnp.zeros_like(falls[..., :1]), falls[..., :-1]], axis=-1)
    starts = jnp.cumsum(widths, axis=-1) - widths
    left = margins[..., None] - before
    # Within a step the lead falls at no more than the step's rate.
    inside = jnp.where(lipschitz > 0, left / jnp.where(lipschitz > 0, lipschitz, 1), widths)
    reached = jnp.where(left > 0, starts + jnp.minimum(inside, widths), 0)
    return jnp.max(jnp.where(jnp.isnan(reached), 0, reached), axis=-1)


def slope_radius(
    pooler: Pooler,
    variables: Mapping[str, Any],
    geometry: str,
    z: Float[Array, "n d"],
    real: Bool[Array, " n"],
    direction: Float[Array, " e"],
    margin: Float[Array, ""],
) -> Float[Array, ""]:
    """How far token states may move, from the gradient of ``direction @ pooler(z)`` and its changes.

    To first order it is exact, whatever the pooler is made of; what its parts change by is summed.
    """
    gradient = jax.grad(lambda z: direction @ jnp.asarray(pooler.apply(variables, z, real)))(z)
    slopes = safe_norm(gradient, axis=-1)  # (n,)
    size = row_norm(geometry, slopes)
    # No radius is larger than what the margin leaves of the gradient.
    most = margin / jnp.maximum(size, jnp.finfo(z.dtype).tiny)
    widths = jnp.full(_STEPS, 1 / _STEPS, z.dtype) * jnp.where(jnp.isfinite(most), most, 0)

    def on(radius):
        radii = jnp.where(real, radius, 0)
        return lead_changes(pooler, variables, z, real, radii, direction)

    changes = jax.lax.map(on, jnp.cumsum(widths))  # (J, n)
    return crossing(widths, or_infinite(row_norm(geometry, slopes[None] + changes)), margin)
