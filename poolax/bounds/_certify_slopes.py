"""Radii from slopes: how far inputs may move before a lead is used up, from bounds of its gradient.

Theory, section 9.5.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax._numerics import safe_norm, with_leading_axes
from poolax.bounds._ball_poolers import lead_changes
from poolax.bounds._overflow import or_infinite
from poolax.bounds._reach import row_norm
from poolax.pooling import Pooler

# Passes, radii of each, and over how many octaves those of the first go.
_PASSES, _RADII, _OCTAVES = 3, 20, 110
# How far below what is found the next pass begins.
_BELOW = 4


def search(
    found_on: Callable[[Float[Array, " J"]], Float[Array, ""]], most: Float[Array, ""], *, traced: bool
) -> Float[Array, ""]:
    """The largest radius that is found, on balls that are ever closer to it.

    Bounds of deep models are finite on tiny balls alone: the first pass goes over 110 octaves, each
    next one over the step in which the one before it ended, or, where that found nothing, further down.

    Args:
        found_on: What is found on balls, by how much each radius is above that before it.
        most: The largest radius to look at.
        traced: Whether passes are one loop; otherwise they are as many calls.

    Returns:
        The radius, 0 if none is found.
    """
    # Radii below have too few digits.
    least = 1024 * jnp.finfo(most.dtype).tiny

    def again(carry, _):
        found, low, high = carry
        octaves = jnp.log2(high / low)
        shares = jnp.linspace(1, 0, _RADII, dtype=most.dtype)
        radii = high * jnp.exp2(-octaves * shares)
        found = jnp.maximum(found, found_on(jnp.diff(radii, prepend=0)))
        step = jnp.exp2(octaves / (_RADII - 1))
        ends = found / _BELOW, jnp.minimum(found * step, 2 * most)
        further = jnp.maximum(low * 2.0**-_OCTAVES, least), jnp.maximum(low, least)
        low, high = (jnp.where(found > 0, *both) for both in zip(ends, further, strict=True))
        return (found, low, high), None

    carry = jnp.zeros_like(most), jnp.maximum(most * 2.0**-_OCTAVES, least), jnp.maximum(most, least)
    if traced:
        return jax.lax.scan(again, carry, length=_PASSES)[0][0]
    for _ in range(_PASSES):
        carry, _ = again(carry, None)
    return carry[0]


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

    def found_on(widths):
        changes = jax.lax.map(on, jnp.cumsum(widths))  # (J, n)
        lipschitz = or_infinite(row_norm(geometry, slopes[None] + changes))
        return crossing(widths, lipschitz, margin)

    return search(found_on, most, traced=True)
