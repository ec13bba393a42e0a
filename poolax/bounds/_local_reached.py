"""What is known of the Jacobian of some layers of a backbone at an input, and of a pooler behind them.

Theory, sections 5.3, 5.4 and 7.7.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from poolax._layer_specs import LayerSpec
from poolax._numerics import zero_masked
from poolax.bounds._ball_poolers import pooled_on_ball
from poolax.bounds._domain import domain_of
from poolax.bounds._linalg import spectral_norm
from poolax.bounds._local_layers import layer_at
from poolax.bounds._local_pooled import pooled_norm
from poolax.bounds._local_whole import (
    attention_jacobian,
    is_attention,
    may_form,
    then_by_token,
    token_jacobians,
    whole_jacobian_norm,
)
from poolax.bounds._reach import Reach, whole_norm
from poolax.pooling import Pooler
from poolax.records import LedgerRow


@struct.dataclass
class Reached:
    """What is known of the Jacobian of the layers so far.

    Attributes:
        blocks: Bounds of the norms of its blocks, output token first, over ``exp(log_scale)``.
        log_scale: A logarithm.
        log_norm: Logarithm of a bound of the norm of the Jacobian up to the last layer of attention, or
            of the whole if that is not formed; ``None`` where nothing but the blocks is known.
        formed: Blocks of the Jacobian from the last layer of attention on, output token first, where it
            is small enough.
    """

    blocks: Float[Array, "n n"]
    log_scale: Float[Array, ""]
    log_norm: Any
    formed: Any


@jax.jit
def closed(reached: Reached) -> Reached:
    """The norm of what is formed multiplied with what it stands behind."""
    if reached.formed is None or reached.log_norm is None:
        return reached
    log_norm = jnp.minimum(
        reached.log_norm + jnp.log(whole_jacobian_norm(reached.formed)),
        reached.log_scale + jnp.log(spectral_norm(reached.blocks)),
    )
    # No block has a larger norm than all of them together.
    blocks = jnp.minimum(reached.blocks, jnp.exp(log_norm - reached.log_scale))
    return Reached(blocks, reached.log_scale, log_norm, None)


@functools.partial(jax.jit, static_argnames=("with_branch", "geometry"))
def add_layer(spec: LayerSpec, x, reached: Reached, attention, real, *, with_branch, geometry):
    """What comes out of a layer at ``x``, the layers so far with it, and the layer's row.

    One program for all layers of one shape: a backbone has two of them, and a dozen layers.
    """
    before = domain_of(x, real)
    formed = reached.formed
    if is_attention(spec):
        formable = geometry == "frobenius" and may_form(x)
        formed = attention_jacobian(spec, x, attention, real) if formable else None
    elif formed is not None:
        formed = then_by_token(token_jacobians(spec, x, real), formed)
    x, matrix, log_branch, log_norm = layer_at(spec, x, attention, real, with_branch)
    matrix = jnp.where(real[:, None] & real[None, :], matrix, 0)
    log_factor = jnp.log(whole_norm(geometry, matrix))
    x = zero_masked(x, real)
    # Norms of blocks multiply as the blocks do: |(J K)_ik| <= sum_j |J_ij| |K_jk|; (n, n).
    blocks = matrix @ reached.blocks
    largest = jnp.max(blocks)
    # Nothing is left of an input without real tokens, or behind a layer that gives zeros.
    scale = jnp.where(largest > 0, largest, 1)
    after = domain_of(x, real)
    row = LedgerRow(
        name=spec.name,
        log_branch=log_branch,
        log_norm=log_norm,
        log_factor=log_factor,
        radius_in=before.radius,
        spread_in=before.spread,
        radius_out=after.radius,
        spread_out=after.spread,
        num_tokens=jnp.sum(real),
    )
    known = reached.log_norm if formed is not None else reached.log_norm + log_factor
    return x, Reached(blocks / scale, reached.log_scale + jnp.log(scale), known, formed), row


@functools.partial(jax.jit, static_argnames="geometry")
def whole_bound(reached: Reached, x, real, geometry):
    """Logarithm of the bound of all layers together, and the domain of what comes out of them."""
    by_blocks = reached.log_scale + jnp.log(whole_norm(geometry, reached.blocks))
    known = reached.log_norm is not None
    total = jnp.minimum(by_blocks, reached.log_norm) if known else by_blocks
    return total, domain_of(x, real)


@functools.partial(jax.jit, static_argnums=(0, 1))
def pooled_bound(
    pooler: Pooler, geometry, variables, reached: Reached, before: Reached, total, x, mask, reach
):
    """The row of a pooler: what it makes of ``total``, the logarithm of the bound of the layers.

    ``before`` is ``reached`` with what of the Jacobian is formed apart.
    """
    blocks, log_scale = reached.blocks, reached.log_scale

    def pool(z):
        return jnp.asarray(pooler.apply(variables, z, mask))

    real = jnp.ones(x.shape[0], bool) if mask is None else mask
    domain = domain_of(x, real)
    if reach is None:
        limits: list[tuple[Any, Any]] = []
        if geometry == "frobenius":
            limits.append((jnp.exp(total - log_scale), None))
        if before.formed is not None:
            limits.append((jnp.exp(before.log_norm - log_scale), before.formed))
        norm = pooled_norm(blocks, pool, x, geometry, limits)
    else:
        norm = pooled_on_ball(pooler, variables, x, real, Reach(reach, geometry), blocks)
    pooled = log_scale + jnp.log(norm)
    nothing = jnp.zeros(())
    # Minus infinity, the logarithm of zero, has no difference to itself.
    left = jnp.where(jnp.isneginf(pooled), pooled, pooled - total)
    row = LedgerRow(
        name="pooler",
        log_branch=left,
        log_norm=nothing,
        log_factor=left,
        radius_in=domain.radius,
        spread_in=domain.spread,
        radius_out=jnp.linalg.norm(pool(x)),
        spread_out=nothing,
        num_tokens=jnp.sum(real),
    )
    return row, pooled
