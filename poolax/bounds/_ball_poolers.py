"""What a pooler leaves of changes of its tokens, on balls around given ones.

Theory, section 5.6.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from poolax._numerics import safe_norm
from poolax.bounds._ball_latent import LatentBall
from poolax.bounds._domain import domain_of
from poolax.bounds._linalg import spectral_norm
from poolax.bounds._linear_poolers import is_linear
from poolax.bounds._overflow import or_infinite
from poolax.bounds._pooling import pooler as pooler_bound
from poolax.bounds._query_slices import query_slices
from poolax.bounds._reach import Reach, pooled_norm_of, row_norm
from poolax.bounds._softmax_box import largest_mean, weight_range
from poolax.pooling import HybridPool, LatentAttentionPool, MaxPool, Pooler, QueryAttentionPool

# Of what sums of products lose.
_LOST = 64


@struct.dataclass
class ReadOnBall:
    """Bounds of a pooler's derivative on a ball.

    Attributes:
        tokens: Of its part of each token; nothing is read of a token where it is zero.
        whole: Of all of it.
    """

    tokens: Float[Array, " n"]
    whole: Float[Array, ""]


def pooled_on_ball(
    pooler: Pooler,
    variables: Mapping[str, Any],
    z: Float[Array, "n d"],
    real: Bool[Array, " n"],
    reach: Reach,
    blocks: Float[Array, "n n"],
) -> Float[Array, ""]:
    """Bound of a pooled Jacobian on a ball, from bounds of the blocks of the states' Jacobian.

    Args:
        pooler: The pooler.
        variables: Its variables.
        z: What it pools at the centre, shape ``(n, d)``.
        real: True at tokens that are real.
        reach: How far they move.
        blocks: Bounds of the blocks' norms.

    Returns:
        The smallest of what the pooler's own bounds and its derivative on the ball leave.
    """
    geometry = reach.geometry
    found = _read(pooler, variables, z, real, reach.radii)
    if found is None:
        return _by_bound(pooler, variables, z, real, reach, blocks)
    rows = jnp.where(found.tokens[:, None] > 0, blocks, 0)
    one_by_one = row_norm(geometry, found.tokens @ blocks)
    whole = or_infinite(found.whole * pooled_norm_of(geometry, rows))
    if is_linear(pooler):
        return jnp.minimum(or_infinite(one_by_one), whole)
    known = _by_bound(pooler, variables, z, real, reach, blocks)
    return jnp.minimum(jnp.minimum(or_infinite(one_by_one), whole), known)


def _by_bound(pooler, variables, z, real, reach: Reach, blocks):
    """By the pooler's own constants on the domain that holds the ball."""
    count = jnp.maximum(jnp.sum(real), 1).astype(z.dtype)
    # Two tokens move by no more than twice what the farthest does.
    spread = domain_of(z, real).spread + jnp.max(reach.radii)
    sizes = {"num_tokens": count, "dim": z.shape[-1], "method": "tight"}
    bound = pooler_bound(pooler, variables, spread=spread, **sizes)
    together = bound.l2 * pooled_norm_of(reach.geometry, blocks)
    each = bound.l1 * jnp.max(row_norm(reach.geometry, blocks))
    return jnp.minimum(or_infinite(together), or_infinite(each))


def _read(pooler, variables, z, real, radii) -> ReadOnBall | None:
    """What is read of each token, or ``None`` where nothing is known but the pooler's constants."""
    if is_linear(pooler):
        return _derivative(pooler, variables, z, real)
    if isinstance(pooler, MaxPool):
        read = jnp.any(candidates(z, real, radii), axis=-1).astype(z.dtype)
        return ReadOnBall(read, jnp.ones((), z.dtype))
    if isinstance(pooler, LatentAttentionPool):
        return ReadOnBall(*LatentBall(pooler, variables["params"], z, real).derivative(radii))
    if isinstance(pooler, QueryAttentionPool) and not pooler.full:
        at = _derivative(pooler, variables, z, real)
        moved = _query_changes(variables["params"], z, real, radii)
        return ReadOnBall(at.tokens + moved, at.whole + safe_norm(moved))
    if isinstance(pooler, HybridPool):
        params = variables["params"]
        shares = jax.nn.softmax(jnp.asarray(params["mixture"], z.dtype))
        parts = [
            _read(part, {"params": params.get(f"poolers_{index}", {})}, z, real, radii)
            for index, part in enumerate(pooler.poolers)
        ]
        if any(part is None for part in parts):
            return None
        # Bounds of a sum: sums of bounds.
        return ReadOnBall(
            jnp.einsum(
                "j,jn->n", shares, jnp.stack([part.tokens for part in parts if part is not None])
            ),
            jnp.einsum("j,j->", shares, jnp.stack([part.whole for part in parts if part is not None])),
        )
    return None


def _derivative(pooler, variables, z, real) -> ReadOnBall:
    """The exact derivative at the centre: everywhere, if the pooler is linear."""
    derivative = jax.jacrev(lambda z: jnp.asarray(pooler.apply(variables, z, real)))(z)  # (e, n, d)
    tokens = jax.lax.map(spectral_norm, jnp.moveaxis(derivative, 1, 0))
    return ReadOnBall(tokens, spectral_norm(derivative.reshape(derivative.shape[0], -1)))


def candidates(
    z: Float[Array, "n d"], real: Bool[Array, " n"], radii: Float[Array, " n"]
) -> Bool[Array, "n d"]:
    """Which entries may be the largest of their column where tokens move by at most ``radii``."""
    low = jnp.where(real[:, None], z - radii[:, None], -jnp.inf)
    return real[:, None] & (z + radii[:, None] >= jnp.max(low, axis=0, keepdims=True))


def _query_changes(params, z, real, radii, direction=None):
    """How much the derivative by each token changes, over all slices together or along a direction."""
    slices = query_slices(params, z, real)
    kernels = slices.kernels  # (d, S, v)
    if direction is not None:
        parts = direction.reshape(kernels.shape[1], -1)
        kernels = jnp.einsum("dsv,sv->ds", kernels, parts)[..., None]
    sizes = spectral_norm(jnp.moveaxis(kernels, 1, 0))  # |W_s|, (S,)
    rates = safe_norm(slices.along_logits, axis=-1)[:, None]  # (S, 1)
    values = jnp.einsum("nd,dsv->snv", z, kernels)
    mean = jnp.einsum("sn,snv->sv", slices.weights, values)
    apart = safe_norm(values - mean[:, None], axis=-1)  # (S, n)
    logit_moves = rates * radii[None]
    moves = sizes[:, None] * radii[None]
    # A weight that fell below all numbers may still rise.
    box = slices.weights + float(jnp.finfo(z.dtype).tiny) * real[None], logit_moves, logit_moves
    low, high = weight_range(*box)
    shift = jnp.maximum(jnp.maximum(high - slices.weights, slices.weights - low), 0)
    apart_moves = moves + (largest_mean(*box, moves) + jnp.sum(shift * apart, axis=-1))[:, None]
    whole = sizes[:, None] + rates * apart
    # With what sums over slices may have lost of the derivative itself.
    change = (shift + _LOST * jnp.finfo(z.dtype).eps * high) * whole + high * rates * apart_moves
    change = jnp.where(real[None], change, 0)
    return safe_norm(change, axis=0) if direction is None else jnp.sum(change, axis=0)


def lead_changes(
    pooler: Pooler, variables: Mapping[str, Any], z: Float[Array, "n d"], real: Bool[Array, " n"]
) -> Callable[[Float[Array, " n"], Float[Array, " e"]], Float[Array, " n"]]:
    """How much the derivative of ``direction @ pooler(z)`` by each token changes on a ball.

    Args:
        pooler: The pooler.
        variables: Its variables.
        z: What it pools at the centre, shape ``(n, d)``.
        real: True at tokens that are real.

    Returns:
        Gives bounds for how far tokens move and a direction; infinite ones where nothing is known but
        the pooler's constants.
    """
    if is_linear(pooler):
        return lambda radii, direction: jnp.zeros_like(radii)
    if isinstance(pooler, MaxPool):
        return functools.partial(_max_changes, z, real)
    if isinstance(pooler, LatentAttentionPool):
        return LatentBall(pooler, variables["params"], z, real).changes
    if isinstance(pooler, QueryAttentionPool) and not pooler.full:
        return functools.partial(_query_changes, variables["params"], z, real)
    if isinstance(pooler, HybridPool):
        params = variables["params"]
        shares = jax.nn.softmax(jnp.asarray(params["mixture"], z.dtype))
        parts = [
            lead_changes(part, {"params": params.get(f"poolers_{index}", {})}, z, real)
            for index, part in enumerate(pooler.poolers)
        ]

        def mixed(radii, direction):
            lost = _LOST * jnp.finfo(z.dtype).eps * safe_norm(direction)
            changes = jnp.stack([part(radii, direction) for part in parts])
            return lost * real + or_infinite(jnp.sum(shares[:, None] * changes, axis=0))

        return mixed
    return lambda radii, direction: jnp.full_like(radii, jnp.inf)


def _max_changes(z, real, radii, direction):
    """A coordinate that only one token can be the largest of is read as before."""
    may = candidates(z, real, radii)
    open_to_more = jnp.sum(may, axis=0) > 1
    return safe_norm(jnp.where(may & open_to_more[None], direction[None], 0), axis=-1)
