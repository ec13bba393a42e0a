"""How far tokens may move before a score of query attention can have fallen by a margin.

A slice of the output gives a quotient of sums over tokens, ``sum_k p_k e^{a.x_k} (v_k + f.x_k) / sum_k
p_k e^{a.x_k}`` with ``x_k`` the move of token ``k``. It has fallen by ``m`` or more exactly where
``sum_k p_k e^{a.x_k} (v_k - theta + f.x_k) <= 0``, ``theta`` what is left of the quotient: a token
matters only by its own move, along ``a`` and across it.

Theory, section 9.4.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax._numerics import safe_norm
from poolax.bounds._query_slices import query_slices

_ANGLES = 16
# Radii of a pass, over 80 octaves at first and over one step of the pass before in each further one.
_PASSES, _RADII, _OCTAVES = 4, 16, 40.0
# Logits move by no more than this share of what overflows: of what is beyond nothing is said.
_MOST_LOGITS = 0.7
# Moves of single tokens, from a share of the least budget to the largest, and prices of their squares.
_PIECES, _SMALLEST, _PRICES, _PRICINGS = 24, 1 / 8, 24, 2
# How often the margin is shared out again among slices.
_SHARINGS = 4


class _Slice(NamedTuple):
    """A slice of the output, with what is left of its quotient taken off.

    Attributes:
        weights: ``p``, zero at masked tokens.
        offsets: ``v - theta``.
        rate: ``|a|``.
        along: ``f . a / |a|``.
        across: Norm of the rest of ``f``.
        size: ``|f|``.
        margin: ``m``.
    """

    weights: Float[Array, " n"]
    offsets: Float[Array, " n"]
    rate: Float[Array, ""]
    along: Float[Array, ""]
    across: Float[Array, ""]
    size: Float[Array, ""]
    margin: Float[Array, ""]


def query_radius(
    params,
    z: Float[Array, "n d"],
    real: Bool[Array, " n"],
    direction: Float[Array, " e"],
    margin: Float[Array, ""],
    geometry: str,
) -> Float[Array, ""]:
    """A lower bound of the least change of ``z`` that lowers a score of query attention by ``margin``.

    Slices share the margin: no change lowers the score by it that lowers none by its own share. Shares
    follow what slices lose on the way, until all have about the same radius.

    Args:
        params: Parameters of the pooler, which has no output layer.
        z: Tokens.
        real: True at real tokens.
        direction: ``u``, the score is ``u @ pooler(z)``.
        margin: What the score has to lose, above 0.
        geometry: ``"frobenius"`` or ``"tokens"``.

    Returns:
        The bound; infinite where no direction counts.
    """
    slices = query_slices(params, z, real)
    parts = direction.reshape(slices.kernels.shape[1], -1)
    along_values = jnp.einsum("dsv,sv->sd", slices.kernels, parts)

    def radius(weights, along_logits, along_values, margin):
        return _radius(weights, z, along_logits, along_values, margin, geometry)

    def radii(margins):
        return jax.vmap(radius)(slices.weights, slices.along_logits, along_values, margins)

    count = slices.weights.shape[0]
    shares = jnp.full(count, 1 / count, z.dtype)
    if count == 1:
        return radii(margin * shares)[0]

    def share_out(_, carry):
        shares, found = carry
        reached = radii(margin * shares)
        # What each has lost by unit length; those that lose none keep a little.
        losses = jnp.where((reached > 0) & jnp.isfinite(reached), shares / reached, 0)
        losses = losses + jnp.maximum(1e-3 * jnp.mean(losses), jnp.finfo(z.dtype).tiny)
        return losses / jnp.sum(losses), jnp.maximum(found, jnp.min(reached))

    return jax.lax.fori_loop(0, _SHARINGS, share_out, (shares, jnp.zeros_like(margin)))[1]


def _radius(weights, z, along_logits, along_values, margin, geometry):
    """The radius of one slice."""
    rate = safe_norm(along_logits)
    unit = along_logits / jnp.where(rate > 0, rate, 1)
    along = jnp.sum(unit * along_values)
    # Not a difference of squares, which would cancel.
    across = safe_norm(along_values - along * unit)
    values = z @ along_values
    values = values - jnp.sum(weights * values)
    # What sums of such values may have lost.
    lost = 16 * jnp.finfo(z.dtype).eps * jnp.sum(weights * jnp.abs(values))
    margin = jnp.maximum(margin - lost, jnp.finfo(z.dtype).tiny)
    size = safe_norm(along_values)
    part = _Slice(weights, values + margin, rate, along, across, size, margin)
    each = _radius_of_each(part)
    found = each if geometry == "tokens" else _radius_of_all(part, each)
    return jnp.where(size > 0, found, jnp.inf)


def _radius_of_each(part):
    """The largest radius at which the sum of the smallest terms is not negative."""
    scale = part.margin / jnp.where(part.size > 0, part.size, 1)
    dtype = scale.dtype
    shares = jnp.linspace(0, 1, _RADII, dtype=dtype)
    most = jnp.clip(jnp.log2(_farthest(part) / scale), -_OCTAVES, _OCTAVES)
    ends = jnp.asarray(-_OCTAVES, dtype), most

    def nearer(carry, _):
        (low, high), found = carry
        octaves = low + (high - low) * shares
        radii = scale * jnp.exp2(octaves)
        safe = jnp.sum(_smallest_terms(part, radii), axis=0) >= 0
        low = jnp.max(jnp.where(safe, octaves, low))
        step = (high - octaves[0]) / (_RADII - 1)
        found = jnp.maximum(found, jnp.max(jnp.where(safe, radii, 0)))
        return ((low, jnp.minimum(low + step, high)), found), None

    return jax.lax.scan(nearer, (ends, jnp.zeros_like(scale)), length=_PASSES)[0][1]


def _radius_of_all(part, each):
    """The radius where squares of moves add up, from that where each token has it for its own.

    For any price of what the sum loses, squares of moves are at least their least value with it paid
    for, in which tokens stand apart: piece by piece of a token's length a convex square.
    """
    dtype = each.dtype
    count = jnp.maximum(jnp.sum(part.weights > 0), 1).astype(dtype)
    # All together have to move at least as far as each, and at most by a root of their number more.
    smallest = _SMALLEST * each
    most = jnp.minimum(1.05 * jnp.sqrt(count) * each, _farthest(part))
    shares = jnp.linspace(0, 1, _PIECES, dtype=dtype)
    radii = smallest * (most / jnp.where(each > 0, smallest, 1)) ** shares
    inner = jnp.concatenate([jnp.zeros_like(radii[:1]), radii[:-1]])[None]  # (1, J)
    width = radii[None] - inner
    after = _smallest_terms(part, radii)  # (n, J)
    before = jnp.concatenate([(part.weights * part.offsets)[:, None], after[:, :-1]], axis=-1)
    # How fast, at most, the derivative of a term by the length of a move grows.
    largest = jnp.maximum(part.offsets[:, None] + (radii * part.size)[None], 0)
    bend = jnp.square(part.rate) * largest + part.rate * (part.size + part.along)
    bend = part.weights[:, None] * jnp.exp(part.rate * radii)[None] * bend

    def bound(price):
        # At a share s of a piece the square is (inner + s width)^2, and a term at most half of
        # bend width^2 s (1 - s) below its chord.
        bent = price * bend * jnp.square(width) / 2
        square = jnp.square(width) + bent
        slope = 2 * inner * width + price * (after - before) - bent
        share = jnp.clip(-slope / (2 * jnp.where(square > 0, square, 1)), 0, 1)
        least = jnp.square(inner) + price * before + share * (slope + share * square)
        # And no more than at its end.
        least = jnp.maximum(least, jnp.square(inner) + price * after)
        # No token moves further than all may: (J,).
        squares = jnp.sum(jax.lax.cummin(least, axis=1), axis=0)
        return jnp.max(jnp.minimum(radii, jnp.sqrt(jnp.where(squares > 0, squares, 0))))

    def nearer(carry, _):
        low, high, found = carry
        step = (high / low) ** (1 / (_PRICES - 1))
        prices = low * step ** jnp.arange(_PRICES, dtype=dtype)
        bounds = jax.vmap(bound)(prices)
        best = prices[jnp.argmax(bounds)]
        return (best / step, best * step, jnp.maximum(found, jnp.max(bounds))), None

    # The price is what the square of the radius grows by with the margin.
    scale = jnp.where(each > 0, jnp.square(each), 1) / part.margin
    carry = 0.1 * scale, 4 * count * scale, each
    return jax.lax.scan(nearer, carry, length=_PRICINGS)[0][2]


def _farthest(part):
    """The largest move of a token whose factor does not overflow."""
    limits = jnp.finfo(part.rate.dtype)
    return _MOST_LOGITS * math.log(limits.max) / jnp.maximum(part.rate, limits.tiny)


def _smallest_terms(part, radii):
    """Lower bounds of a token's term over moves of each of these lengths or less, ``(n, R)``.

    It is ``p e^{rate t} (v + along t - across sqrt(r^2 - t^2))`` at ``|t| <= r``. Moves along ``a`` are
    cut into pieces of equal angles. The second factor is convex in ``t``, so it is above its tangent in
    the middle of a piece; with the tangent the least value is known.
    """
    angles = jnp.linspace(-math.pi / 2, math.pi / 2, 2 * _ANGLES + 1, dtype=radii.dtype)
    edges = radii[:, None] * jnp.sin(angles[::2])[None]  # (R, T + 1)
    low, high, middle = edges[None, :, :-1], edges[None, :, 1:], angles[1::2]
    # The tangent of -sqrt(r^2 - t^2) at r sin(angle): slope tan(angle), at zero -r / cos(angle).
    slope = (part.along + part.across * jnp.tan(middle))[None, None]  # (1, 1, T)
    deepest = part.across * radii[:, None] / jnp.cos(middle)[None]
    offset = part.offsets[:, None, None] - deepest[None]  # (n, R, T)
    # Of the ends alike for all tokens.
    least = jnp.minimum(
        jnp.exp(part.rate * low) * (offset + slope * low),
        jnp.exp(part.rate * high) * (offset + slope * high),
    )
    # Where the product is stationary, if there is such a place.
    turns = (slope != 0) & (part.rate > 0)
    place = -offset / jnp.where(turns, slope, 1) - 1 / jnp.where(part.rate > 0, part.rate, 1)
    place = jnp.clip(jnp.where(turns, place, low), low, high)
    least = jnp.minimum(least, jnp.exp(part.rate * place) * (offset + slope * place))
    return part.weights[:, None] * jnp.min(least, axis=-1)
