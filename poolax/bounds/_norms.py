"""Lipschitz constants of norms, and the domains that they map to.

Theory, section 7.5.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._layer_specs import NormSpec
from poolax._numerics import safe_norm
from poolax.records import Domain


def norm_lipschitz(kind: str, scale: Float[Array, " d"], eps: float) -> Float[Array, ""]:
    """Global Lipschitz constant of a norm of the token width.

    CenterNorm ``max|scale| d / (d - 1)``; an affine map ``max|scale|``; LayerNorm and RMSNorm
    ``max|scale| / sqrt(eps)``, which a token without variance attains.
    """
    largest = jnp.max(jnp.abs(scale))
    if kind == "center":
        width = scale.shape[-1]
        return largest * (width / (width - 1))
    if kind == "affine":
        return largest
    return largest / math.sqrt(eps)


def normalised_domain(norm: NormSpec, domain: Domain) -> Domain:
    """The domain of normalised tokens.

    CenterNorm and affine maps: ``(c R + |bias|, c spread)``. LayerNorm and RMSNorm, whatever comes in:
    rows before scale and bias are at most ``sqrt(d)`` long.
    """
    bias = 0.0 if norm.bias is None else safe_norm(norm.bias)
    if norm.kind in ("center", "affine"):
        factor = norm_lipschitz(norm.kind, norm.scale, 0.0)
        radius, spread = factor * domain.radius, factor * domain.spread
    else:
        radius = spread = jnp.max(jnp.abs(norm.scale)) * math.sqrt(norm.scale.shape[-1])
    return Domain(radius=radius + bias, spread=jnp.minimum(spread, radius + bias))
