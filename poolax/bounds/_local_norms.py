"""Norms of the token width at given tokens: what they give, and their derivatives there.

Theory, section 5.4.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._layer_specs import NormSpec


@dataclasses.dataclass(frozen=True)
class NormAt:
    """The derivative of a norm at given tokens.

    Attributes:
        slopes: Upper bounds of the derivatives' norms, shape ``(n,)``.
        matrix: The derivative at a token, ``(d, d)``, acting on rows; a number for no norm.
    """

    slopes: Float[Array, " n"]
    matrix: Callable[[Any], Any]


def norm_at(norm: NormSpec | None, x) -> tuple[Float[Array, "n d"], NormAt]:
    """Normalised tokens, and the derivative there."""
    width = x.shape[-1]
    identity = jnp.eye(width, dtype=x.dtype)
    if norm is None:
        return x, NormAt(jnp.ones(x.shape[0], x.dtype), lambda index: identity)
    scale = jnp.asarray(norm.scale, x.dtype)[None]
    shift = 0.0 if norm.bias is None else jnp.asarray(norm.bias, x.dtype)[None]
    if norm.kind == "affine":
        slopes = jnp.full(x.shape[0], jnp.max(jnp.abs(scale)))
        return x * scale + shift, NormAt(slopes, lambda index: identity * scale)
    centred = x if norm.kind == "rms" else x - jnp.mean(x, axis=-1, keepdims=True)
    centring = identity if norm.kind == "rms" else identity - 1 / width
    if norm.kind == "center":
        # Linear, the same at every token.
        factor = width / (width - 1)
        slopes = jnp.full(x.shape[0], factor * jnp.max(jnp.abs(scale)))
        return factor * centred * scale + shift, NormAt(slopes, lambda index: factor * centring * scale)
    size = jnp.sqrt(jnp.mean(jnp.square(centred), axis=-1) + norm.eps)  # (n,)
    unit = centred / size[:, None]

    def matrix(index):
        # Dividing by the size takes away what lies along the unit row itself; (d, d).
        along = jnp.outer(unit[index], unit[index]) / width
        return (centring - along) * scale / size[index]

    return unit * scale + shift, NormAt(jnp.max(jnp.abs(scale)) / size, matrix)
