"""Lanczos iteration with thick restarts for the largest singular value of a linear map.

Theory, section 10.2.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from poolax._decompositions import eigenvectors
from poolax._numerics import at_highest_precision, safe_norm
from poolax._typing import Real

# Vectors that Lanczos keeps before it restarts, and of these the Ritz vectors that it restarts from.
# Few enough that the small eigenvalue problem costs less than a step of a small model.
_MOST_VECTORS = 20
_KEPT_VECTORS = 8
# A start with little of the largest singular vector passes the test for a moment: it has to last.
_CALM_STEPS = 3

LinearMap = Callable[[Float[Array, "..."]], Float[Array, "..."]]


class Singular(NamedTuple):
    """The largest singular value of a linear map, from below.

    Attributes:
        value: The value.
        vector: About its vector in the space of the start, as a flat array; zero for a map to zero.
        steps: Calls of both maps.
        converged: Whether the residual stayed below the tolerance.
        residual: ``|C v - value^2 v| / value^2``.
    """

    value: Float[Array, ""]
    vector: Float[Array, " size"]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]
    residual: Float[Array, ""]


class _Space(NamedTuple):
    """A space that grows by a vector a step, and what ``C`` is on it.

    Attributes:
        basis: Orthonormal rows ``(most + 1, size)``, the last not mapped yet and zeros behind it.
        projected: ``C / scale^2`` in the basis ``(most, most)``, zeros where it is not known.
        size: Number of rows that are mapped.
        scale: Norm of the first image: ``C`` squares singular values, which could leave the range.
        value: Singular value divided by ``scale``.
        steps: Calls of both maps so far.
        calm: Steps in which the residual has stayed below the tolerance.
        residual: As of :class:`Singular`.
    """

    basis: Float[Array, "most_and_1 size"]
    projected: Float[Array, "most most"]
    size: Int[Array, ""]
    scale: Float[Array, ""]
    value: Float[Array, ""]
    steps: Int[Array, ""]
    calm: Int[Array, ""]
    residual: Float[Array, ""]


def unit(v: Float[Array, "..."]) -> Float[Array, "..."]:
    """Divide by the Euclidean norm; zero stays zero."""
    norm = safe_norm(v)
    return v / jnp.where(norm > 0, norm, 1)


@at_highest_precision
def lanczos(
    first: LinearMap,
    second: LinearMap,
    start: Float[Array, "..."],
    max_steps: int,
    rtol: Real,
) -> Singular:
    """Norm of ``C``'s root: Rayleigh-Ritz for ``C`` on a space that grows by ``C v`` each step.

    Args:
        first: Linear map from the space of ``start``, such as products with a Jacobian.
        second: Its transpose; ``C`` is ``first``, then ``second``. For a symmetric positive ``C`` the
            identity and ``C`` itself do as well.
        start: Unit vector.
        max_steps: Most steps to take, each one call of both maps.
        rtol: Tolerance of ``|C v - value^2 v| / value^2``.

    Returns:
        What was found.
    """
    most = min(_MOST_VECTORS, max_steps, start.size)
    kept = max(1, min(_KEPT_VECTORS, most - 1))
    eps = jnp.finfo(start.dtype).eps

    def going_on(now: _Space):
        is_finite = jnp.isfinite(now.scale * now.value)
        return (now.steps < max_steps) & (now.calm < _CALM_STEPS) & is_finite

    def step(now: _Space) -> _Space:
        basis, projected, size = jax.lax.cond(
            now.size < most, lambda *full: full, restart, now.basis, now.projected, now.size
        )
        u = first(basis[size].reshape(start.shape))
        scale = jnp.where((now.steps == 0) & jnp.any(u != 0), safe_norm(u), now.scale)
        w = second(u / scale).reshape(-1) / scale  # C v / scale^2, (size,)
        length = safe_norm(w)
        # Twice is enough: the first pass leaves a remainder of the size of the cancelled digits.
        column = basis[:most] @ w  # (most,)
        w = w - column @ basis[:most]
        w = w - (basis[:most] @ w) @ basis[:most]
        rest = safe_norm(w)
        # What rounding leaves of a vector inside the space is no direction.
        rest = jnp.where(rest > 10 * eps * length, rest, 0)
        basis = basis.at[size + 1].set(jnp.where(rest > 0, unit(w), 0))
        projected = projected.at[size].set(column).at[:, size].set(column)
        values, vectors = eigenvectors(projected)
        top = jnp.maximum(values[-1], 0)
        # Of C v what lies outside of the space comes by the vector that was mapped last, alone.
        residual = rest * jnp.abs(vectors[size, -1]) / jnp.where(top > 0, top, 1)
        # |J^T u| at u = J v / |J v| for the Ritz vector v is this much more than |J v|.
        value = jnp.sqrt(top * (1 + jnp.square(residual)))
        calm = jnp.where(residual <= rtol, now.calm + 1, 0)
        # A space that C maps to itself has no more to tell.
        calm = jnp.where(rest > 0, calm, _CALM_STEPS)
        return _Space(basis, projected, size + 1, scale, value, now.steps + 1, calm, residual)

    def restart(basis, projected, size):
        """The best Ritz vectors, on which ``C`` is diagonal, and the vector to be mapped."""
        values, vectors = eigenvectors(projected)
        best = vectors[:, -kept:].T @ basis[:most]
        basis = jnp.zeros_like(basis).at[:kept].set(best).at[kept].set(basis[size])
        projected = jnp.zeros_like(projected).at[:kept, :kept].set(jnp.diag(values[-kept:]))
        return basis, projected, jnp.full_like(size, kept)

    dtype = start.dtype
    begun = _Space(
        basis=jnp.zeros((most + 1, start.size), dtype).at[0].set(start.reshape(-1)),
        projected=jnp.zeros((most, most), dtype),
        size=jnp.zeros((), int),
        scale=jnp.ones((), dtype),
        value=jnp.zeros((), dtype),
        steps=jnp.zeros((), int),
        calm=jnp.zeros((), int),
        residual=jnp.full((), jnp.inf, dtype),
    )
    done = jax.lax.while_loop(going_on, step, begun)
    value = done.scale * done.value
    vector = eigenvectors(done.projected)[1][:, -1] @ done.basis[:most]
    converged = (done.calm >= _CALM_STEPS) & jnp.isfinite(value)
    return Singular(value, vector, done.steps, converged, done.residual)
