"""Classes by the nearest neighbours among pooled vectors, where nothing is trained."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from poolax._checks import check_count, check_number

NUM_NEIGHBOURS = 20
TEMPERATURE = 0.07
_QUERIES, _MOST_ROWS = 256, 8192


def neighbour_votes(
    vectors: Float[np.ndarray, "N d"],
    labels: Int[np.ndarray, " N"],
    queries: Float[np.ndarray, "M d"],
    num_classes: int,
    *,
    num_neighbours: int = NUM_NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Float[np.ndarray, "M k"]:
    r"""Share of each class among the nearest neighbours, as in DINO's evaluation.

    The neighbours are those of largest cosine :math:`s`, each of which votes for its class with weight
    :math:`e^{s / T}`. Of equal ones the first are taken; a vector of length zero has cosine 0 with all.

    Args:
        vectors: Pooled vectors whose classes are known, shape ``(N, d)``.
        labels: Their classes, shape ``(N,)``.
        queries: Pooled vectors to classify, shape ``(M, d)``.
        num_classes: Number of classes.
        num_neighbours: How many vote; all of fewer vectors.
        temperature: What cosines are divided by.

    Returns:
        Shares that add up to one, shape ``(M, num_classes)``; the largest is the class.

    Raises:
        ValueError: for numbers out of range, or no vector.

    Example:
        >>> known = np.array([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
        >>> votes = neighbour_votes(known, np.array([0, 1, 1]), np.array([[5.0, 0.1]]), 2)
        >>> votes.argmax(axis=-1).tolist()
        [0]

    Reference:
        Caron et al., Emerging properties in self-supervised vision transformers, 2021, appendix F.
    """
    check_count("num_classes", num_classes)
    check_count("num_neighbours", num_neighbours)
    check_number("temperature", temperature, above=0.0)
    vectors, queries = (np.asarray(array, np.float32) for array in (vectors, queries))
    if not len(vectors):
        raise ValueError("vectors: expected at least one, got none")
    count = min(num_neighbours, len(vectors))
    # Powers of two, so that folds and draws of about a size are one program.
    rows = min(_MOST_ROWS, 2 ** max(count - 1, len(vectors) - 1).bit_length())
    padding = -len(vectors) % rows
    known = np.pad(vectors, [(0, padding), (0, 0)]).reshape(-1, rows, vectors.shape[-1])
    # A label that no class has marks what is padding.
    classes = np.pad(np.asarray(labels, np.int32), (0, padding), constant_values=-1).reshape(-1, rows)
    found = []
    for start in range(0, len(queries), _QUERIES):
        part = queries[start : start + _QUERIES]
        padded = np.pad(part, [(0, _QUERIES - len(part)), (0, 0)])
        votes = _votes(known, classes, padded, np.float32(temperature), count, num_classes)
        found.append(np.asarray(votes)[: len(part)])
    return np.concatenate(found) if found else np.zeros((0, num_classes), np.float32)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _votes(known, classes, queries, temperature, count, num_classes):
    """Shares of classes; the nearest so far go from one stretch of vectors to the next."""

    def unit(rows: Array) -> Array:
        length = jnp.linalg.norm(rows, axis=-1, keepdims=True)
        return rows / jnp.where(length > 0, length, 1)

    queries = unit(queries)

    def nearer(nearest, stretch):
        rows, own = stretch
        cosines = jnp.matmul(queries, unit(rows).T, precision=jax.lax.Precision.HIGHEST)
        cosines = jnp.where(own >= 0, cosines, -jnp.inf)
        # Of equal ones the first are kept: those of stretches before stand in front.
        both = jnp.concatenate([nearest[0], cosines], axis=-1)
        labels = jnp.concatenate([nearest[1], jnp.broadcast_to(own, cosines.shape)], axis=-1)
        best, places = jax.lax.top_k(both, count)
        return (best, jnp.take_along_axis(labels, places, axis=-1)), None

    shape = (len(queries), count)
    none = (jnp.full(shape, -jnp.inf, queries.dtype), jnp.full(shape, -1, jnp.int32))
    (cosines, labels), _ = jax.lax.scan(nearer, none, (known, classes))
    # No cosine is above 1, so that nothing overflows.
    weights = jnp.exp((cosines - jnp.max(cosines, axis=-1, keepdims=True)) / temperature)
    votes = jnp.einsum("mn,mnk->mk", weights, jax.nn.one_hot(labels, num_classes, dtype=weights.dtype))
    return votes / jnp.sum(votes, axis=-1, keepdims=True)
