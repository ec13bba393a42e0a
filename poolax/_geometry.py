"""Norms of sequences by their geometry: of all tokens together, or of the largest token.

A token is a row of the last axis; a number is one, too. Theory, section 10.6.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._numerics import safe_norm

GEOMETRIES = ("frobenius", "tokens")


def norms(geometry: str, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The norm of all, or one for each token; it broadcasts with ``x``."""
    if geometry == "frobenius" or x.ndim == 0:
        return safe_norm(x).reshape((1,) * x.ndim)
    return safe_norm(x, axis=-1)[..., None]


def size(geometry: str, x: Float[Array, "..."]) -> Float[Array, ""]:
    """The norm of ``x``: Frobenius's, or the largest of a token."""
    return jnp.max(norms(geometry, x))


def dual_size(geometry: str, gradient: Float[Array, "..."]) -> Float[Array, ""]:
    """The largest ``<gradient, x>`` over ``x`` of norm one."""
    return jnp.sum(norms(geometry, gradient))


def steepest(geometry: str, gradient: Float[Array, "..."]) -> Float[Array, "..."]:
    """The ``x`` of norm one with the largest ``<gradient, x>``; zero where the gradient is."""
    return gradient / _or_one(norms(geometry, gradient))


def support(geometry: str, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The gradient of the norm at ``x``: of dual norm one, ``<support(x), x> = size(x)``."""
    lengths = norms(geometry, x)
    largest = jnp.arange(lengths.size) == jnp.argmax(lengths)
    return jnp.where(largest.reshape(lengths.shape), steepest(geometry, x), 0)


def into_ball(
    geometry: str, x: Float[Array, "..."], radius: Float[Array, ""] | float
) -> Float[Array, "..."]:
    """The point of the ball around zero that is nearest to ``x``."""
    return x * jnp.minimum(1, radius / _or_one(norms(geometry, x)))


def _or_one(norm):
    return jnp.where(norm > 0, norm, 1)
