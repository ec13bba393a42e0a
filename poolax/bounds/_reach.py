"""How far tokens may move, at the input and behind some layers, in either geometry.

Theory, section 5.5.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from poolax._checks import is_concrete
from poolax._numerics import divisor, safe_norm, safe_sqrt
from poolax.bounds._linalg import spectral_norm


@dataclasses.dataclass(frozen=True)
class Reach:
    """Token ``i`` moves by at most ``sum_k matrix_ik t_k``, for some ``t >= 0`` of norm 1.

    The norm of ``t`` is Euclidean in the geometry ``"frobenius"``, the largest entry in ``"tokens"``.

    Attributes:
        matrix: Not negative, shape ``(n, n)``; the radius times the identity at the input.
        geometry: ``"frobenius"`` or ``"tokens"``.
    """

    matrix: Float[Array, "n n"]
    geometry: str

    @classmethod
    def of_input(cls, epsilon: Float[Array, ""], real: Bool[Array, " n"], geometry: str) -> "Reach":
        """Of the input itself, whose real tokens move by ``epsilon`` in all, or each."""
        return cls(jnp.diag(jnp.where(real, epsilon, 0)), geometry)

    @property
    def cosines(self) -> Float[Array, "n n"]:
        """How moves of two tokens go together, from 0 to 1.

        ``u`` times the move of ``i`` plus ``w`` times that of ``j`` is at most the root of ``a^2 +
        2 a b c_ij + b^2``, ``a`` and ``b`` these factors times the radii.
        """
        if self.geometry == "tokens":
            return jnp.ones_like(self.matrix)
        # Of rows of length one: squares of small radii may be below all numbers.
        rows = self.matrix / divisor(self.radii)[:, None]
        return jnp.minimum(rows @ rows.T, 1)

    @property
    def radii(self) -> Float[Array, " n"]:
        """How far each token may move."""
        return row_norm(self.geometry, self.matrix)


def on_ball(epsilon: Float[ArrayLike, ""], dtype) -> Float[Array, ""] | None:
    """The radius of a ball, or ``None`` where it is known to be a point."""
    if is_concrete(epsilon) and not np.any(np.asarray(epsilon)):
        return None
    return jnp.asarray(epsilon, dtype)


def row_norm(geometry: str, matrix: Float[Array, "*m n"]) -> Float[Array, "*m"]:
    """The largest entry of ``matrix @ t`` over ``t >= 0`` of norm one, for each row alone."""
    if geometry == "frobenius":
        return safe_norm(matrix, axis=-1)
    return jnp.sum(matrix, axis=-1)


def whole_norm(geometry: str, matrix: Float[Array, "m n"]) -> Float[Array, ""]:
    """The largest norm of ``matrix @ t`` in the same geometry."""
    if geometry == "frobenius":
        return spectral_norm(matrix)
    return jnp.max(jnp.sum(matrix, axis=-1))


def pooled_norm_of(geometry: str, matrix: Float[Array, "m n"]) -> Float[Array, ""]:
    """The largest Euclidean norm of ``matrix @ t``."""
    if geometry == "frobenius":
        return spectral_norm(matrix)
    # Nothing in the matrix is negative, so that all t_k are one.
    return safe_norm(jnp.sum(matrix, axis=-1))


def pair(cosines, radii, index, first, second):
    """The most of ``first`` times the move of token ``index`` plus ``second`` times each other's.

    Args:
        cosines: :attr:`Reach.cosines`.
        radii: :attr:`Reach.radii`.
        index: A token ``i``.
        first: ``u``, shape ``(H, n)``.
        second: ``w``, shape ``(H, n)``.

    Returns:
        Shape ``(H, n)``, for each token ``j`` beside ``i``.
    """
    own, others = first * radii[index], second * radii[None]
    scale = divisor(jax.lax.stop_gradient(jnp.maximum(own, others)))
    own, others = own / scale, others / scale
    square = jnp.square(own) + 2 * own * others * cosines[index][None] + jnp.square(others)
    return scale * safe_sqrt(square)


def cross(cosines, radii, index):
    """The largest product of the moves of token ``index`` and of each other one, shape ``(n,)``."""
    return radii[index] * radii * (1 + cosines[index]) / 2
