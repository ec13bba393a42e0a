"""How far token states may move before a difference of logits of a head can be lost.

Theory, sections 9.2 to 9.4.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax._numerics import safe_norm
from poolax.bounds._certify_max import max_radius
from poolax.bounds._certify_query import query_radius
from poolax.bounds._certify_slopes import slope_radius
from poolax.bounds._domain import domain_of
from poolax.bounds._linear_poolers import is_linear
from poolax.bounds._pooling import pooler as pooler_bound
from poolax.pooling import HybridPool, LatentAttentionPool, MaxPool, Pooler, QueryAttentionPool

# Radii from 2^-40 to 2^40 of a scale, to six digits.
_OCTAVES, _HALVINGS = 40.0, 28


def head_radius(
    pooler: Pooler,
    variables: Mapping[str, Any],
    geometry: str,
    z: Float[Array, "n d"],
    real: Bool[Array, " n"],
    direction: Float[Array, " e"],
    margin: Float[Array, ""],
) -> Float[Array, ""]:
    """How far tokens may move before ``direction @ pooler(z)`` can fall by ``margin``."""
    if is_linear(pooler):
        gradient = jax.grad(lambda z: direction @ jnp.asarray(pooler.apply(variables, z, real)))(z)
        by_token = safe_norm(gradient, axis=-1)
        dual = safe_norm(by_token) if geometry == "frobenius" else jnp.sum(by_token)
        return jnp.where(dual > 0, margin / jnp.where(dual > 0, dual, 1), jnp.inf)
    if isinstance(pooler, MaxPool):
        return max_radius(z, real, direction, margin, geometry)
    if isinstance(pooler, QueryAttentionPool) and not pooler.full:
        found = query_radius(variables["params"], z, real, direction, margin, geometry)
    else:
        falls = _bounded_falls(pooler, variables, z, real, direction, geometry)
        found = _largest(lambda epsilon: falls(epsilon) < margin, margin, direction)
    if not _has_slopes(pooler, variables):
        return found
    # Of parts apart, or of all together, exact to first order.
    together = slope_radius(pooler, variables, geometry, z, real, direction, margin)
    return jnp.maximum(found, together)


def _has_slopes(pooler, variables):
    """Whether gradients, whose changes are known, may certify more than parts that are taken apart."""
    if isinstance(pooler, QueryAttentionPool):
        return not pooler.full and math.prod(jnp.shape(variables["params"]["query"])[:2]) > 1
    return isinstance(pooler, HybridPool | LatentAttentionPool)


def _largest(is_safe, margin, direction):
    """The largest radius that is found to be safe, over 80 octaves."""
    size = safe_norm(direction)
    scale = margin / jnp.where(size > 0, size, 1)

    def halve(_, ends):
        low, high, found = ends
        middle = (low + high) / 2
        epsilon = scale * jnp.exp2(middle)
        safe = is_safe(epsilon)
        found = jnp.where(safe, jnp.maximum(found, epsilon), found)
        return jnp.where(safe, middle, low), jnp.where(safe, high, middle), found

    ends = jnp.asarray(-_OCTAVES, margin.dtype), jnp.asarray(_OCTAVES, margin.dtype)
    found = jax.lax.fori_loop(0, _HALVINGS, halve, (*ends, jnp.zeros_like(margin)))[2]
    return jnp.where(size > 0, found, jnp.inf)


def _bounded_falls(pooler, variables, z, real, direction, geometry):
    """How much any score may fall at a radius, by the pooler's bound on the ball."""
    domain, count = domain_of(z, real), jnp.sum(real).astype(z.dtype)
    size = safe_norm(direction)
    # Two tokens move by at most sqrt(2) of the whole, or by twice what each does.
    wider = 1.0 if geometry == "tokens" else 2**-0.5

    def falls(epsilon):
        sizes = {"num_tokens": jnp.maximum(count, 1), "dim": z.shape[-1], "method": "tight"}
        bound = pooler_bound(pooler, variables, spread=domain.spread + wider * epsilon, **sizes)
        return size * epsilon * (bound.l1 if geometry == "tokens" else bound.l2)

    return falls
