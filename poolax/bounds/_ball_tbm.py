"""One-block models on a ball around an input, as two layers and a pooler.

Theory, section 5.6.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax._layer_specs import AttentionSpec, FeedForwardSpec, LayerSpec, NormSpec
from poolax._numerics import accumulation_dtype, zero_masked
from poolax.blocks import TBM, PostLNBlock
from poolax.bounds._activations import activation_lipschitz
from poolax.bounds._ball_layers import LayerBall
from poolax.bounds._ball_ledger import Balls, carried, even_steps
from poolax.bounds._ball_poolers import pooled_on_ball
from poolax.bounds._block import tbm
from poolax.bounds._domain import domain_of
from poolax.bounds._linalg import round_up
from poolax.bounds._local_bound import block_bound
from poolax.bounds._overflow import or_infinite
from poolax.bounds._reach import Reach, whole_norm
from poolax.records import Bound


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


@functools.partial(jax.jit, static_argnums=(0, 1))
def tbm_on_ball(model: TBM, geometry: str, params, x, mask, epsilon: Float[Array, ""]) -> Bound:
    """The bound of :func:`poolax.bounds.local_tbm` on a ball."""
    x = zero_masked(x, mask).astype(accumulation_dtype(x, jnp.asarray(params["ffn"]["kernel"])))
    real = jnp.ones(x.shape[0], bool) if mask is None else mask
    maps = [attention_of(model, params, x, mask), None]
    balls, found = Balls.around(x, real, even_steps(epsilon), geometry), []
    for spec, weights in zip(layers_of(model, params, x.dtype), maps, strict=True):
        layer = LayerBall(spec, balls.x, weights, real)
        balls, (sums, _, wholes), _ = carried(layer, spec, balls)
        found.append((sums.branch[-1], wholes[-1], layer.after_slope))
    (mixed, _, first), (_, last, second) = found
    inner = {"params": params.get("pooler", {})}
    reach = Reach(balls.last, geometry)
    pooled = pooled_on_ball(model.pooler, inner, balls.x, real, reach, balls.blocks[-1])
    lipschitz = or_infinite(round_up(pooled, 4))
    domain = domain_of(x, real)
    on_domain = tbm(
        model,
        {"params": params},
        num_tokens=jnp.maximum(jnp.sum(real), 1),
        radius=domain.radius + epsilon,
        spread=domain.spread + (epsilon if geometry == "tokens" else epsilon / math.sqrt(2)),
        method="tight",
        geometry=geometry,
    )
    lipschitz = jnp.where(jnp.any(real), jnp.minimum(lipschitz, on_domain.lipschitz), 0)
    return block_bound(
        lipschitz, whole_norm(geometry, mixed), jnp.max(jnp.diagonal(last)), first, second, on_ball=True
    )
