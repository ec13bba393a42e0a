"""One-block models on a ball around an input, as two layers and a pooler.

Theory, section 5.6.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from poolax._layer_specs import AttentionSpec, FeedForwardSpec, LayerSpec, NormSpec
from poolax._numerics import accumulation_dtype, zero_masked
from poolax.blocks import TBM, PostLNBlock
from poolax.bounds._activations import activation_lipschitz
from poolax.bounds._ball_layers import LayerBall
from poolax.bounds._ball_ledger import Balls, carried, even_steps
from poolax.bounds._ball_poolers import pooled_on_ball
from poolax.bounds._block import block, with_pooler
from poolax.bounds._domain import domain_of
from poolax.bounds._linalg import round_up
from poolax.bounds._local_bound import block_bound
from poolax.bounds._overflow import or_infinite
from poolax.bounds._pooling import pooler as pooler_bound
from poolax.bounds._reach import Reach, whole_norm
from poolax.pooling import LastPool
from poolax.records import BlockBound, Bound


def layers_of(model: TBM, params: Mapping[str, Any], dtype: Any) -> list[LayerSpec]:
    """The block of a one-block model as layers: the feed-forward one has the identity behind it."""
    activation_lipschitz(model.activation)
    norms = [
        NormSpec("center", params[name]["scale"], params[name]["bias"]) for name in ("norm1", "norm2")
    ]
    identity = {"kernel": jnp.eye(params["ffn"]["kernel"].shape[0], dtype=dtype)}
    branches = [
        AttentionSpec(model.attention, params["attention"]),
        FeedForwardSpec({"hidden": params["ffn"], "out": identity}, model.activation),
    ]
    return [
        LayerSpec(name, branch, norm_after=norm)
        for name, branch, norm in zip(("attention", "ffn"), branches, norms, strict=True)
    ]


def attention_of(
    model: TBM, params: Mapping[str, Any], x: Float[Array, "n d"], mask: Bool[Array, " n"] | None
) -> Float[Array, "H n n"]:
    """The attention of a one-block model at an input."""
    applied: Any = PostLNBlock.of_tbm(model).apply({"params": params}, x, mask, return_weights=True)
    return applied[1]


@struct.dataclass
class BlockOnBall:
    """What is known on a ball of the block of a one-block model, whatever pooler stands on it.

    Attributes:
        balls: The ball behind the block, and smaller ones.
        mixed: Blocks of the attention's branch.
        last: Blocks of the feed-forward layer with the norm behind it.
        slopes: The most that each norm multiplies a token's change with at the centre, shape ``(2,)``.
        on_domain: Tight bounds on the domain that holds the ball.
        real: True at real tokens.
    """

    balls: Balls
    mixed: Float[Array, "n n"]
    last: Float[Array, "n n"]
    slopes: Float[Array, " 2"]
    on_domain: BlockBound
    real: Bool[Array, " n"]


def tbm_on_ball(model: TBM, geometry: str, params, x, mask, epsilon: Float[Array, ""]) -> Bound:
    """The bound of :func:`poolax.bounds.local_tbm` on a ball.

    In two programs, of which that of the block serves all poolers and that of a pooler all blocks.
    """
    own = {name: value for name, value in params.items() if name != "pooler"}
    # Which pooler the model has makes no other program of its block.
    found = _block_on_ball(model.copy(pooler=LastPool()), geometry, own, x, mask, epsilon)
    inner = {"params": params.get("pooler", {})}
    on_domain = found.on_domain
    pooled, reads = _pooled(
        model.pooler, inner, found.balls, found.real, on_domain.num_tokens, on_domain.spread
    )
    tight = with_pooler(on_domain, reads, geometry=geometry).lipschitz
    return _whole(geometry, found, pooled, tight)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _block_on_ball(model, geometry, params, x, mask, epsilon) -> BlockOnBall:
    x = zero_masked(x, mask).astype(accumulation_dtype(x, jnp.asarray(params["ffn"]["kernel"])))
    real = jnp.ones(x.shape[0], bool) if mask is None else mask
    maps = [attention_of(model, params, x, mask), None]
    balls, found = Balls.around(x, real, even_steps(epsilon), geometry), []
    for spec, weights in zip(layers_of(model, params, x.dtype), maps, strict=True):
        layer = LayerBall(spec, balls.x, weights, real)
        balls, (sums, _, wholes) = carried(layer, spec, balls)
        found.append((sums.branch[-1], wholes[-1], layer.after_slope))
    (mixed, _, first), (_, last, second) = found
    domain = domain_of(x, real)
    on_domain = block(
        model,
        {"params": params},
        num_tokens=jnp.maximum(jnp.sum(real), 1),
        radius=domain.radius + epsilon,
        spread=domain.spread + (epsilon if geometry == "tokens" else epsilon / math.sqrt(2)),
        method="tight",
    )
    return BlockOnBall(balls, mixed, last, jnp.stack([first, second]), on_domain, real)


@functools.partial(jax.jit, static_argnums=0)
def _pooled(pooler, variables, balls: Balls, real, num_tokens, spread):
    """The bound behind a pooler by blocks, and the pooler's own on the domain."""
    reach = Reach(balls.last, balls.geometry)
    pooled = pooled_on_ball(pooler, variables, balls.x, real, reach, balls.blocks[-1])
    sizes = {"num_tokens": num_tokens, "dim": balls.x.shape[-1]}
    return pooled, pooler_bound(pooler, variables, **sizes, spread=spread, method="tight")


@functools.partial(jax.jit, static_argnums=0)
def _whole(geometry, found: BlockOnBall, pooled, tight) -> Bound:
    lipschitz = jnp.minimum(or_infinite(round_up(pooled, 4)), tight)
    lipschitz = jnp.where(jnp.any(found.real), lipschitz, 0)
    return block_bound(
        lipschitz,
        whole_norm(geometry, found.mixed),
        jnp.max(jnp.diagonal(found.last)),
        *found.slopes,
        on_ball=True,
    )
