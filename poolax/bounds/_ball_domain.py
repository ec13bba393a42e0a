"""Bounds on the domain that holds a ball around an input, which says nothing of where it is.

Theory, sections 2.2 and 8.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax.attention import DotProduct, Kind
from poolax.bounds._attention import attention
from poolax.bounds._domain import domain_of


def attention_on_domain(
    kind: Kind,
    params: Mapping[str, Any],
    x: Float[Array, "b n d"],
    real: Bool[Array, "b n"],
    epsilon: Float[Array, ""],
    *,
    rotary: Any,
    has_bias: bool,
) -> Float[Array, " b"]:
    """Tight bounds of whole sequences on domains that hold the balls; infinite where none is known."""
    if not isinstance(kind, DotProduct) and (rotary is not None or has_bias):
        return jnp.full(x.shape[0], jnp.inf, x.dtype)
    return _on_domains(kind, rotary, params, x, real, epsilon)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _on_domains(kind, rotary, params, x, real, epsilon):
    def at(one):
        domain = domain_of(*one)
        bound = attention(
            kind,
            params,
            num_tokens=jnp.maximum(jnp.sum(one[1]), 1),
            radius=domain.radius + epsilon,
            spread=domain.spread + epsilon / math.sqrt(2),
            rotary=rotary,
            method="tight",
            pattern="sequence",
        )
        return jnp.asarray(bound.sequence, x.dtype)

    return jax.lax.map(at, (x, real))
