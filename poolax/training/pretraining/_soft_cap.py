"""A soft cap on singular values: an odd polynomial of a matrix, by matrix products alone."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# A round at its strongest brings the largest singular value to this share of what it was.
_SHARE = 62 / 81
_STRENGTH = 1 / 3
_NEWTON_STEPS = 5


def soft_cap(
    w: Float[Array, "*apart m n"], cap: Float[Array, ""] | float, norm: Float[Array, "*apart"]
) -> Float[Array, "*apart m n"]:
    r"""Bring singular values that are at most ``norm`` to at most ``cap``, the large ones most.

    A round applies ``p(s) = s - a s^3`` and then ``q(s) = s + a s^3`` to the singular values, which is

        ``q(p(s)) = s - 3 a^2 s^5 + 3 a^3 s^7 - a^4 s^9``,  or  ``W - W (3 B^2 - 3 B^3 + B^4)``

    with ``B = a W^T W``. Its slope ``1 - 15 u^2 + 21 u^3 - 9 u^4`` with ``u = a s^2`` is positive for
    ``u < 1/3`` and zero there. So for ``a <= 1 / (3 norm^2)`` nothing becomes larger than what becomes
    of ``norm``, and the weakest ``a`` that brings it to the cap is the least root of

        ``1 - 3 u^2 + 3 u^3 - u^4 = cap / norm``,  ``u = a norm^2``.

    Where that lies beyond 1/3, as ``norm`` is more than 81/62 of the cap, a round at ``u = 1/3`` makes
    62/81 of it first.

    Args:
        w: Matrices.
        cap: What singular values come to at most, up to rounding.
        norm: What they are at most; where that is below the cap, nothing changes.

    Returns:
        The matrices.

    Reference:
        Newhouse et al., "Training Transformers with Enforced Lipschitz Constants" (2025); the proof of
        the bound and the rounds are ours.
    """
    tall = w.shape[-2] >= w.shape[-1]
    w = w if tall else jnp.swapaxes(w, -1, -2)
    cap = jnp.asarray(cap, w.dtype)

    def is_above(state):
        return jnp.any(state[1] > cap)

    def one_round(state):
        w, norm = state
        after = jnp.where(norm > cap, jnp.maximum(cap, _SHARE * norm), norm)
        a = _strength((norm - after) / norm) / norm**2
        b = a[..., None, None] * _product(jnp.swapaxes(w, -1, -2), w)
        b2 = _product(b, b)
        return w - _product(w, 3 * b2 + _product(b2, b2 - 3 * b)), after

    w, _ = jax.lax.while_loop(is_above, one_round, (w, jnp.asarray(norm, w.dtype)))
    return w if tall else jnp.swapaxes(w, -1, -2)


def norm_bound(w: Float[Array, "*apart m n"]) -> Float[Array, "*apart"]:
    """A bound on the spectral norm by matrix products: ``(sum of s^8)^(1/8)``, the Schatten norm.

    It is at most ``min(m, n)^(1/8)`` times the norm.
    """
    # A matrix of Frobenius norm 1: powers of eight are in the range of numbers.
    frobenius = jnp.sqrt(jnp.sum(w**2, axis=(-2, -1)))
    w = w / jnp.where(frobenius > 0, frobenius, 1)[..., None, None]
    w = w if w.shape[-2] >= w.shape[-1] else jnp.swapaxes(w, -1, -2)
    gram = _product(jnp.swapaxes(w, -1, -2), w)
    eighth = jnp.sum(_product(gram, gram) ** 2, axis=(-2, -1)) ** 0.125
    return frobenius * eighth * (1 + 8 * w.shape[-1] * jnp.finfo(w.dtype).eps)


def _strength(drop: Float[Array, "*apart"]) -> Float[Array, "*apart"]:
    """The root ``u`` of ``3 u^2 - 3 u^3 + u^4 = drop`` in ``[0, 1/3]``."""
    safe = jnp.where(drop > 0, drop, 1)
    # The left side is convex there: from the first step on Newton stays above the root.
    u = jnp.sqrt(safe / 3)
    for _ in range(_NEWTON_STEPS):
        value = u**2 * (3 - 3 * u + u**2)
        u = u - (value - safe) / (u * (6 - 9 * u + 4 * u**2))
    return jnp.where(drop > 0, jnp.minimum(u, _STRENGTH), 0)


def _product(one, other):
    return jnp.matmul(one, other, precision="highest")
