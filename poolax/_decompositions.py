"""Decompositions of matrices over leading axes, on every device."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._numerics import at_highest_precision, divisor
from poolax._squaring import largest_eigenvalue

# Above this size squaring a Gram matrix until its largest eigenvalue is left is far cheaper than all.
MOST_TO_DECOMPOSE = 64
# Below this size a matrix product gains nothing from being split.
_ROWS_TO_SPLIT = 1024


@functools.partial(jax.jit, static_argnums=0)
def for_each_matrix(fn: Callable[..., Any], *matrices: Float[Array, "*batch _ _"]) -> Any:
    """Apply ``fn`` of single matrices over leading axes; compiled once for each ``fn`` and shape.

    On a CPU one after the other: there a batched decomposition waits for threads of the pool that it
    runs on itself, so that as many at once as there are threads never end.
    """
    batch = matrices[0].shape[:-2]
    one = jax.custom_batching.sequential_vmap(fn)
    if not batch:
        return jax.lax.platform_dependent(*matrices, cpu=one, default=fn)
    flat = [matrix.reshape(-1, *matrix.shape[-2:]) for matrix in matrices]
    out = jax.lax.platform_dependent(
        *flat,
        cpu=lambda *rows: jax.lax.map(lambda row: one(*row), rows),
        default=lambda *rows: jax.vmap(fn)(*rows),
    )
    return jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), out)


def _eigenvalues_of_one(gram):
    return jnp.linalg.eigvalsh(gram)


def _eigenvectors_of_one(gram):
    return tuple(jnp.linalg.eigh(gram))


def eigenvalues(gram: Float[Array, "*batch k k"]) -> Float[Array, "*batch k"]:
    """Eigenvalues of symmetric matrices, smallest first."""
    return for_each_matrix(_eigenvalues_of_one, gram)


def eigenvectors(gram: Float[Array, "*batch k k"]):
    """Eigenvalues of symmetric matrices, smallest first, and their vectors."""
    return for_each_matrix(_eigenvectors_of_one, gram)


@jax.custom_jvp
@jax.jit
@at_highest_precision
def spectral_norm(matrix: Float[Array, "*batch m k"]) -> Float[Array, "*batch"]:
    """Largest singular value: the root of the largest eigenvalue of the smaller Gram matrix.

    The derivative is that of ``u^T matrix v`` at the top singular vectors, which is finite everywhere.
    """
    scale, gram = scaled_gram(matrix)
    if gram.shape[-1] > MOST_TO_DECOMPOSE:
        return scale * jnp.sqrt(largest_eigenvalue(gram)[0])
    return scale * jnp.sqrt(jnp.maximum(eigenvalues(gram)[..., -1], 0))


@spectral_norm.defjvp
@at_highest_precision
def _spectral_norm_jvp(primals, tangents):
    (matrix,), (matrix_dot,) = primals, tangents
    scale, gram = scaled_gram(matrix)
    values, vectors = eigenvectors(gram)
    norm = scale * jnp.sqrt(jnp.maximum(values[..., -1], 0))
    return norm, norm_derivative(matrix, matrix_dot, norm, vectors[..., -1])


def norm_derivative(matrix, matrix_dot, norm, vector):
    """Derivative of the norm in a direction, from the top eigenvector of the smaller Gram matrix."""
    wide = matrix.shape[-2] <= matrix.shape[-1]
    other = jnp.einsum("...m,...mk->...k" if wide else "...k,...mk->...m", vector, matrix)
    other = other / jnp.where(norm > 0, norm, 1)[..., None]
    left, right = (vector, other) if wide else (other, vector)
    return jnp.einsum("...m,...mk,...k->...", left, matrix_dot, right)


def scaled_gram(matrix):
    """The smaller Gram matrix of a matrix divided by its largest entry, whose squares stay in range."""
    scale = divisor(jnp.max(jnp.abs(matrix), axis=(-2, -1), initial=0.0))
    scaled = matrix / scale[..., None, None]
    wide = matrix.shape[-2] <= matrix.shape[-1]
    return scale, _gram(scaled if wide else jnp.swapaxes(scaled, -1, -2))


def _gram(rows):
    """``rows @ rows.T``; of many rows only the blocks on one side of the diagonal are computed."""
    size = rows.shape[-2]
    if size < _ROWS_TO_SPLIT:
        return rows @ jnp.swapaxes(rows, -1, -2)
    upper, lower = rows[..., : size // 2, :], rows[..., size // 2 :, :]
    corner = lower @ jnp.swapaxes(upper, -1, -2)
    return jnp.concatenate(
        [
            jnp.concatenate([_gram(upper), jnp.swapaxes(corner, -1, -2)], axis=-1),
            jnp.concatenate([corner, _gram(lower)], axis=-1),
        ],
        axis=-2,
    )
