"""Lanczos iteration with thick restarts for the largest singular value of a linear map."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._decompositions import eigenvectors
from poolax._numerics import at_highest_precision, safe_norm
from poolax._typing import Real
from poolax.records import NormEstimate

# Vectors that Lanczos keeps before it restarts, and of these the Ritz vectors that it restarts from.
# Few enough that the small eigenvalue problem costs less than a step of a small model.
_MOST_VECTORS = 20
_KEPT_VECTORS = 8
# A start with little of the largest singular vector passes the test for a moment: it has to last.
_CALM_STEPS = 3


def unit(v: Float[Array, "..."]) -> Float[Array, "..."]:
    """Divide by the Euclidean norm; zero stays zero."""
    norm = safe_norm(v)
    return v / jnp.where(norm > 0, norm, 1)


@at_highest_precision
def lanczos(first, second, start: Float[Array, "..."], max_steps: int, rtol: Real) -> NormEstimate:
    """Norm of ``C``'s root: Rayleigh-Ritz for ``C`` on a space that grows by ``C v`` each step.

    Args:
        first: Linear map from the space of ``start``, such as products with a Jacobian.
        second: Its transpose; ``C`` is ``first``, then ``second``.
        start: Unit vector.
        max_steps: Most steps to take, each one call of both maps.
        rtol: Tolerance of ``|C v - value^2 v| / value^2``.

    Returns:
        Value, steps, whether the residual stayed below the tolerance, and the residual.
    """
    most = min(_MOST_VECTORS, max_steps, start.size)
    kept = max(1, min(_KEPT_VECTORS, most - 1))
    eps = jnp.finfo(start.dtype).eps

    def going_on(carry):
        *_, scale, value, steps, calm, _ = carry
        return (steps < max_steps) & (calm < _CALM_STEPS) & jnp.isfinite(scale * value)

    def step(carry):
        basis, projected, size, scale, _, steps, calm, _ = carry
        basis, projected, size = jax.lax.cond(
            size < most, lambda *full: full, restart, basis, projected, size
        )
        u = first(basis[size].reshape(start.shape))
        # C squares the singular values, which may take them out of the range of numbers.
        scale = jnp.where((steps == 0) & jnp.any(u != 0), safe_norm(u), scale)
        w = second(u / scale).reshape(-1) / scale
        length = safe_norm(w)
        # Twice is enough: the first pass leaves a remainder of the size of the cancelled digits.
        column = basis[:most] @ w
        w = w - column @ basis[:most]
        w = w - (basis[:most] @ w) @ basis[:most]
        rest = safe_norm(w)
        # What rounding leaves of a vector inside the space is no direction.
        rest = jnp.where(rest > 10 * eps * length, rest, 0)
        basis = basis.at[size + 1].set(jnp.where(rest > 0, unit(w), 0))
        projected = projected.at[size].set(column).at[:, size].set(column)
        values, vectors = eigenvectors(projected)
        top = jnp.maximum(values[-1], 0)
        residual = rest * jnp.abs(vectors[size, -1]) / jnp.where(top > 0, top, 1)
        # |J^T u| at u = J v / |J v| for the Ritz vector v is this much more than |J v|.
        value = jnp.sqrt(top * (1 + jnp.square(residual)))
        calm = jnp.where(residual <= rtol, calm + 1, 0)
        # A space that C maps to itself has no more to tell.
        calm = jnp.where(rest > 0, calm, _CALM_STEPS)
        return basis, projected, size + 1, scale, value, steps + 1, calm, residual

    def restart(basis, projected, size):
        values, vectors = eigenvectors(projected)
        best = vectors[:, -kept:].T @ basis[:most]
        basis = jnp.zeros_like(basis).at[:kept].set(best).at[kept].set(basis[size])
        projected = jnp.zeros_like(projected).at[:kept, :kept].set(jnp.diag(values[-kept:]))
        return basis, projected, jnp.full_like(size, kept)

    dtype = start.dtype
    carry = (
        jnp.zeros((most + 1, start.size), dtype).at[0].set(start.reshape(-1)),
        jnp.zeros((most, most), dtype),
        jnp.zeros((), int),
        jnp.ones((), dtype),
        jnp.zeros((), dtype),
        jnp.zeros((), int),
        jnp.zeros((), int),
        jnp.full((), jnp.inf, dtype),
    )
    *_, scale, value, steps, calm, residual = jax.lax.while_loop(going_on, step, carry)
    value = scale * value
    return NormEstimate(value, steps, (calm >= _CALM_STEPS) & jnp.isfinite(value), residual)
