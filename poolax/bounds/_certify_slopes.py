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

# Radii of a pass; in the first of two each is that much larger than the one before, and how much larger
# than what is found then the largest of the second is.
_RADII, _RATIO, _BEYOND = 40, 1.6, 1.4


def first_widths(most: Float[Array, ""]) -> Float[Array, " J"]:
    """How much each radius of a first pass up to ``most`` is above that before it."""
    radii = most * _RATIO ** -jnp.arange(_RADII - 1.0, -1.0, -1.0).astype(most.dtype)
    return jnp.diff(radii, prepend=0)


def next_widths(
    found: Float[Array, ""], most: Float[Array, ""], widths: Float[Array, " J"]
) -> Float[Array, " J"]:
    """Those of a second pass: even steps, whose sums are nearer to the integrals.

    Where the first found nothing, smaller balls than its own.
    """
    end = _BEYOND * jnp.where(jnp.isfinite(found), found, most)
    even = jnp.broadcast_to(end / _RADII, widths.shape)
    return jnp.where(found > 0, even, widths * _RATIO**-_RADII)


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
    most = jnp.where(jnp.isfinite(most), most, 1)
    changes_of = lead_changes(pooler, variables, z, real)

    def on(radius):
        return changes_of(jnp.where(real, radius, 0), direction)

    def again(carry, _):
        found, widths = carry
        changes = jax.lax.map(on, jnp.cumsum(widths))  # (J, n)
        lipschitz = or_infinite(row_norm(geometry, slopes[None] + changes))
        found = jnp.maximum(found, crossing(widths, lipschitz, margin))
        return (found, next_widths(found, most, widths)), None

    carry = jnp.zeros_like(most), first_widths(most)
    return jax.lax.scan(again, carry, length=2)[0][0]
