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
    return for_each_matrix(jnp.linalg.eigvalsh, gram)


def eigenvectors(gram: Float[Array, "*batch k k"]):
    """Eigenvalues of symmetric matrices, smallest first, and their vectors."""
    return for_each_matrix(lambda matrix: tuple(jnp.linalg.eigh(matrix)), gram)
