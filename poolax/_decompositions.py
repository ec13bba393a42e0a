"""Decompositions of matrices over leading axes, on every device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def for_each_matrix(fn, *matrices):
    """Apply ``fn`` of single matrices over leading axes.

    On a CPU one after the other: there a batched decomposition waits for threads of the pool that it
    runs on itself, so that as many at once as there are threads never end.
    """
    batch = matrices[0].shape[:-2]
    if not batch:
        return jax.lax.platform_dependent(
            *matrices, cpu=jax.custom_batching.sequential_vmap(fn), default=fn
        )
    flat = [matrix.reshape(-1, *matrix.shape[-2:]) for matrix in matrices]
    one = jax.custom_batching.sequential_vmap(fn)
    out = jax.lax.platform_dependent(
        *flat,
        cpu=lambda *rows: jax.lax.map(lambda row: one(*row), rows),
        default=lambda *rows: jax.vmap(fn)(*rows),
    )
    return jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), out)


def eigenvalues(gram: Float[Array, "*batch k k"]) -> Float[Array, "*batch k"]:
    """Eigenvalues of symmetric matrices, smallest first."""
    return for_each_matrix(lambda matrix: jnp.linalg.eigvalsh(matrix), gram)


def eigenvectors(gram: Float[Array, "*batch k k"]):
    """Eigenvalues of symmetric matrices, smallest first, and their vectors."""
    return for_each_matrix(lambda matrix: tuple(jnp.linalg.eigh(matrix)), gram)


@jax.custom_jvp
def spectral_norm(matrix: Float[Array, "*batch m k"]) -> Float[Array, "*batch"]:
    """Largest singular value: the root of the largest eigenvalue of the smaller Gram matrix.

    The derivative is that of ``u^T matrix v`` at the top singular vectors, which is finite everywhere.
    """
    scale, gram = scaled_gram(matrix)
    return scale * jnp.sqrt(jnp.maximum(eigenvalues(gram)[..., -1], 0))


@spectral_norm.defjvp
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
    scale = jnp.max(jnp.abs(matrix), axis=(-2, -1), initial=0.0)
    scale = jnp.where((scale > 0) & jnp.isfinite(scale), scale, 1)
    scaled = matrix / scale[..., None, None]
    turned = jnp.swapaxes(scaled, -1, -2)
    return scale, scaled @ turned if matrix.shape[-2] <= matrix.shape[-1] else turned @ scaled
