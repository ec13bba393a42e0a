"""What is known of the Jacobian of some layers of a backbone at an input, and of a pooler behind them.

Theory, sections 5.3, 5.4 and 7.7.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from poolax._layer_specs import LayerSpec
from poolax._numerics import zero_masked
from poolax.bounds._ball_poolers import pooled_on_ball
from poolax.bounds._domain import domain_of
from poolax.bounds._local_layers import layer_at
from poolax.bounds._local_pooled import PoolerAt
from poolax.bounds._overflow import or_infinite
from poolax.bounds._reach import Reach, whole_norm
from poolax.bounds._whole_jacobian import WholeJacobian
from poolax.pooling import Pooler
from poolax.records import LedgerRow


@struct.dataclass
class Reached:
    """What is known of the Jacobian of the layers so far.

    Attributes:
        blocks: Bounds of the norms of its blocks, output token first, over ``exp(log_scale)``.
        log_scale: A logarithm.
        whole: The Jacobian itself where it is formed, of all layers together.
    """

    blocks: Float[Array, "n n"]
    log_scale: Float[Array, ""]
    whole: WholeJacobian | None = None


@functools.partial(jax.jit, static_argnames=("with_branch", "geometry"))
def add_layer(spec: LayerSpec, x, reached: Reached, attention, real, *, with_branch, geometry):
    """What comes out of a layer at ``x``, the layers so far with it, and the layer's row.

    One program for all layers of one shape: a backbone has two of them, and a dozen layers.
    """
    before = domain_of(x, real)
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
    return x, Reached(blocks / scale, reached.log_scale + jnp.log(scale)), row


@functools.partial(jax.jit, static_argnames="geometry")
def whole_bound(reached: Reached, x, real, geometry):
    """Logarithm of the bound of all layers together, and the domain of what comes out of them."""
    total = reached.log_scale + jnp.log(whole_norm(geometry, reached.blocks))
    if reached.whole is not None:
        total = jnp.minimum(total, or_infinite(reached.whole.log_norm(geometry)))
    return total, domain_of(x, real)


@functools.partial(jax.jit, static_argnums=(0, 1))
def pooled_bound(pooler: Pooler, geometry, variables, reached: Reached, total, x, mask, reach):
    """The row of a pooler: what it makes of ``total``, the logarithm of the bound of the layers."""

    def pool(z):
        return jnp.asarray(pooler.apply(variables, z, mask))

    real = jnp.ones(x.shape[0], bool) if mask is None else mask
    domain = domain_of(x, real)
    if reach is None:
        at = PoolerAt.of(pool, x)
        pooled = reached.log_scale + jnp.log(at.norm_behind(reached.blocks, geometry))
        if reached.whole is not None:
            pooled = jnp.minimum(pooled, or_infinite(reached.whole.log_pooled_norm(at, geometry)))
    else:
        reach = Reach(reach, geometry)
        norm = pooled_on_ball(pooler, variables, x, real, reach, reached.blocks)
        pooled = reached.log_scale + jnp.log(norm)
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
