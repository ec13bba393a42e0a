"""Norms of the token width on balls around given tokens.

Theory, section 5.6.
"""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._layer_specs import NormSpec
from poolax._numerics import safe_norm
from poolax.bounds._linalg import spectral_norm
from poolax.bounds._normaliser import normaliser_change
from poolax.bounds._norms import norm_lipschitz


@dataclasses.dataclass(frozen=True)
class NormBall:
    """The derivative of a norm on balls around tokens, shape ``(n,)`` each.

    Attributes:
        steepest: Bounds of its norm.
        change: Of how much it changes from that at the centre.
    """

    steepest: Float[Array, " n"]
    change: Float[Array, " n"]


def normalises(norm: NormSpec | None) -> bool:
    """Whether a norm divides by the length of a token, so that its derivative changes with it."""
    return norm is not None and norm.kind in ("layer", "rms")


def norm_on_ball(norm: NormSpec | None, x: Float[Array, "n d"], moved: Float[Array, " n"]) -> NormBall:
    r"""Bounds of a norm's derivative where token ``i`` moves by at most ``moved_i``.

    LayerNorm is ``sqrt(d) scale`` times ``z / sqrt(|z|^2 + d eps)`` of the centred token ``z``, which
    moves no further than the token does.
    """
    flat = jnp.zeros_like(moved)
    if norm is None:
        return NormBall(flat + 1, flat)
    scale, width = jnp.asarray(norm.scale, x.dtype), x.shape[-1]
    if norm.kind == "center":
        # Linear, and known: its norm may be below the largest scale.
        centring = (jnp.eye(width, dtype=x.dtype) - 1 / width) * (width / (width - 1))
        return NormBall(flat + spectral_norm(centring * scale[None]), flat)
    if not normalises(norm):
        return NormBall(flat + norm_lipschitz(norm.kind, scale, 0.0), flat)
    centred = x if norm.kind == "rms" else x - jnp.mean(x, axis=-1, keepdims=True)
    found = normaliser_change(safe_norm(centred, axis=-1), width * norm.eps, moved)
    factor = math.sqrt(width) * jnp.max(jnp.abs(scale))
    return NormBall(factor * found.steepest, factor * found.slope)
