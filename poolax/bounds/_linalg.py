"""Norms and functions that the bounds are made of, with finite gradients everywhere."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from poolax._checks import check_floating
from poolax._decompositions import (
    MOST_TO_DECOMPOSE,
    eigenvectors,
    for_each_matrix,
    norm_derivative,
    scaled_gram,
)
from poolax._decompositions import spectral_norm as exact_norm
from poolax._lanczos import lanczos, unit
from poolax._numerics import accumulation_dtype, at_highest_precision
from poolax._squaring import largest_eigenvalue
from poolax._threads import on_one_thread

# Above this size a certificate of the largest eigenvalue is cheaper than squaring.
_MOST_FOR_EIGENVALUES = 1024
# Steps and tolerance of the estimate, which the certificate raises by several times as much.
_LANCZOS_STEPS, _LANCZOS_RTOL = 100, 1e-5


def round_up(bound: Float[Array, "..."], depth: int = 1) -> Float[Array, "..."]:
    """Raise a bound by more than its rounding error, for some bounds are attained."""
    return bound * (1 + 64 * depth * jnp.finfo(bound.dtype).eps)


@on_one_thread
def spectral_norm(matrix: Float[ArrayLike, "*batch m k"]) -> Float[Array, "*batch"]:
    """Largest singular values ``|W|``; of one matrix beyond 1,024 a certified bound within ``1e-4``.

    Unlike ``jax.numpy.linalg.norm(matrix, ord=2)`` it has a finite derivative at equal and zero
    singular values, and may be mapped over a batch on a CPU of few cores, where batched singular value
    decompositions wait for each other for ever.

    Args:
        matrix: Shape ``(*batch, m, k)``, no axis empty.

    Returns:
        The norms, shape ``(*batch,)``, at least in single precision; differentiable. Not finite where
        the matrix is not.

    Raises:
        ValueError: for another shape, and for anything but an array of floats.

    Example:
        >>> import jax.numpy as jnp
        >>> print(spectral_norm(jnp.asarray([[[3.0, 0.0], [0.0, 1.0]], [[0.0, 2.0], [0.0, 0.0]]])))
        [3. 2.]

    Reference:
        Theory, section 1.1.
    """
    check_floating("matrix", matrix)
    if jnp.ndim(matrix) < 2 or 0 in jnp.shape(matrix):
        raise ValueError(
            f"matrix: expected shape (*batch, m, k) without empty axes, got {jnp.shape(matrix)}"
        )
    matrix = jnp.asarray(matrix, accumulation_dtype(matrix))
    if matrix.ndim == 2 and min(matrix.shape) > _MOST_FOR_EIGENVALUES:
        return _certified_norm(matrix)
    return exact_norm(matrix)


@jax.custom_jvp
@jax.jit
@at_highest_precision
def _certified_norm(matrix):
    scale, gram = scaled_gram(matrix)
    return scale * jnp.sqrt(_largest_eigenvalue(gram)[0])


@_certified_norm.defjvp
@at_highest_precision
def _certified_norm_jvp(primals, tangents):
    (matrix,), (matrix_dot,) = primals, tangents
    scale, gram = scaled_gram(matrix)
    value, vector = _largest_eigenvalue(gram)
    norm = scale * jnp.sqrt(value)
    return norm, norm_derivative(matrix, matrix_dot, norm, vector)


def top_eigenpair(gram: Float[Array, "k k"]):
    """Largest eigenvalue of a positive matrix and its vector; of a large one certified from above."""
    if gram.shape[-1] > _MOST_FOR_EIGENVALUES:
        return _largest_eigenvalue(gram)
    if gram.shape[-1] > MOST_TO_DECOMPOSE:
        return largest_eigenvalue(gram)
    values, vectors = eigenvectors(gram)
    return values[-1], vectors[:, -1]


@jax.jit
@at_highest_precision
def _largest_eigenvalue(gram):
    """Largest eigenvalue of a large positive matrix, certified from above, and about its vector.

    Lanczos' iteration estimates it from below; the estimate is raised until ``value I - gram`` has a
    Cholesky factor, which only a value above all eigenvalues gives. That costs a fraction of an
    eigendecomposition.
    """
    size, dtype = gram.shape[0], gram.dtype
    start = unit(jax.random.normal(jax.random.key(0), (size,), dtype))
    found = lanczos(lambda v: v, lambda v: gram @ v, start, _LANCZOS_STEPS, _LANCZOS_RTOL)
    estimate = jnp.maximum(jnp.square(found.value), jnp.finfo(dtype).tiny)

    def is_below(margin):
        factor = jnp.linalg.cholesky(estimate * (1 + margin) * jnp.eye(size, dtype=dtype) - gram)
        # Entries that are not numbers mean that there is none; nothing raises such a matrix.
        return ~jnp.all(jnp.isfinite(factor)) & jnp.all(jnp.isfinite(gram))

    first = jnp.asarray(4e-5, dtype)
    margin = jax.lax.while_loop(is_below, lambda margin: 2 * margin, first)
    return estimate * (1 + margin), found.vector


@jax.custom_jvp
def product_norm(left: Float[Array, "*batch m k"], right: Float[Array, "*batch p k"]):
    """Largest singular value of ``left @ right.T``, from a matrix no larger than ``k`` by ``k``.

    With ``left = Q_l R_l`` and ``right = Q_r R_r`` it is that of ``R_l R_r^T``. The derivative is
    that of ``u^T left right^T v`` at the top singular vectors, which stays finite where a factor
    loses rank and the derivative of its QR decomposition does not.
    """
    return _top_triplet(left, right)[1]


@product_norm.defjvp
@at_highest_precision
def _product_norm_jvp(primals, tangents):
    left, right = primals
    left_dot, right_dot = tangents
    u, norm, v = _top_triplet(left, right)
    u_left, v_right = (jnp.einsum("...m,...mk->...k", *pair) for pair in ((u, left), (v, right)))
    u_dot = jnp.einsum("...m,...mk->...k", u, left_dot)
    v_dot = jnp.einsum("...m,...mk->...k", v, right_dot)
    return norm, jnp.sum(u_dot * v_right + u_left * v_dot, axis=-1)


def _top_triplet_of_one(left, right):
    q_left, r_left = jnp.linalg.qr(left)
    q_right, r_right = jnp.linalg.qr(right)
    u, s, vt = jnp.linalg.svd(r_left @ r_right.T, full_matrices=False)
    return q_left @ u[:, 0], s[0], q_right @ vt[0]


@jax.jit
@at_highest_precision
def _top_triplet(left, right):
    batch = jnp.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    left, right = (jnp.broadcast_to(side, (*batch, *side.shape[-2:])) for side in (left, right))
    return for_each_matrix(_top_triplet_of_one, left, right)


@jax.custom_jvp
@jax.jit
def lambert_w(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Principal branch of the Lambert W function, ``w exp(w) = x``, for ``x >= 0``.

    Six steps of Halley's iteration from ``log(1 + x)`` reach rounding error for every float64; the
    derivative is ``exp(-w) / (1 + w)``.
    """

    def halley(_, w):
        # f = w - x exp(-w) stays finite where w exp(w) - x would overflow.
        scaled = x * jnp.exp(-w)
        f = w - scaled
        return w - f / (1 + w - (w + 2) * f / (2 * w + 2))

    return jax.lax.fori_loop(0, 6, halley, jnp.log1p(x))


@lambert_w.defjvp
def _lambert_w_jvp(primals, tangents):
    w = lambert_w(primals[0])
    return w, tangents[0] * jnp.exp(-w) / (1 + w)
