"""Norms of sums over tokens that move by a budget each.

Theory, section 5.4.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._numerics import divisor
from poolax.bounds._linalg import top_eigenpair
from poolax.bounds._local_whole import raised_norm

# Weights are about the best ones after so many steps; all are bounds.
_STEPS = 6
# What is left of the first weights, so that none falls to zero.
_KEPT = 1 / 16


def summed_norm(blocks: Float[Array, "n e d"], starts: Float[Array, " n"]) -> Float[Array, ""]:
    r"""Bound of ``|sum_k B_k x_k|`` over all ``|x_k| <= 1``, which may be attained.

    For any ``w >= 0`` with ``sum_k w_k = 1`` the square is at most the largest eigenvalue of
    ``sum_k B_k B_k^T / w_k``. Where that is smallest, ``w_k`` is in proportion to ``|B_k^T u|``, ``u``
    its vector, which says how the next weights follow from the last; and if no other eigenvalue is as
    large there, it is the square itself, at ``x_k`` along ``B_k^T u``.

    Args:
        blocks: ``B_k``.
        starts: Bounds of their norms. What is returned is never above their sum.

    Returns:
        The bound, with what rounding may have taken from it. Its derivative is that at the weights
        that are found, as if these stayed the same.
    """
    grams = jax.lax.stop_gradient(blocks)
    grams = grams / divisor(jnp.max(jnp.abs(grams)))
    grams = jnp.einsum("ned,nfd->nef", grams, grams)
    first = jax.lax.stop_gradient(starts / divisor(jnp.sum(starts)))

    def step(carry, _):
        weights, best, least = carry
        value, vector = top_eigenpair(jnp.sum(grams / _or_one(weights)[:, None, None], axis=0))
        smaller = value < least
        best, least = jnp.where(smaller, weights, best), jnp.where(smaller, value, least)
        sizes = jnp.sqrt(jnp.maximum(jnp.einsum("e,nef,f->n", vector, grams, vector), 0))
        then = (weights + sizes / divisor(jnp.sum(sizes))) / 2
        then = jnp.where(first > 0, (1 - _KEPT) * then + _KEPT * first, 0)
        return (then / divisor(jnp.sum(then)), best, least), None

    carry = (first, first, jnp.full((), jnp.inf, grams.dtype))
    (_, weights, _), _ = jax.lax.scan(step, carry, None, length=_STEPS)
    weighted = blocks / jnp.sqrt(_or_one(weights))[:, None, None]
    return raised_norm(jnp.moveaxis(weighted, 0, 1).reshape(blocks.shape[1], -1))


def _or_one(weights):
    """Of a token of which nothing is read, whatever it is divided by."""
    return jnp.where(weights > 0, weights, 1)
