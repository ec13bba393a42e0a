"""Largest eigenvalues of positive matrices from products of matrices alone."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._numerics import at_highest_precision


@jax.jit
@at_highest_precision
def largest_eigenvalue(
    gram: Float[Array, "*batch k k"],
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch k"]]:
    r"""Largest eigenvalue of positive semi-definite matrices, from above, and about its vector.

    For ``G`` of trace 1 and ``m = 2^j``,

        ``tr(G^2m) / tr(G^m) <= lambda^m <= tr(G^m)``,

    so that squaring, divided by the trace each time, encloses the eigenvalue until nothing but
    rounding is left: after some ten products of matrices, and after as many as there are digits where
    the largest eigenvalues are equal. That costs a fraction of a decomposition, which on a CPU computes
    all vectors even if it is asked for eigenvalues. A column of ``G^m`` is about the vector.

    Args:
        gram: Positive semi-definite matrices.

    Returns:
        Eigenvalues, not below the true ones but for rounding, and unit vectors, zero for a matrix of
        zeros. Not numbers where the matrix is not finite.
    """
    eps = jnp.finfo(gram.dtype).eps
    trace = jnp.trace(gram, axis1=-2, axis2=-1)

    def going_on(carry):
        _, _, share, excess = carry
        return jnp.any((excess > 2 * eps) & (share > eps))

    def step(carry):
        power, log, share, _ = carry
        square = power @ power
        left = jnp.trace(square, axis1=-2, axis2=-1)
        left = jnp.where(left == 0, 1, left)
        excess = -share / 2 * jnp.log(left)
        return square / left[..., None, None], log - excess, share / 2, excess

    safe = jnp.where(trace == 0, 1, trace)
    nothing = jnp.zeros_like(trace)
    carry = (gram / safe[..., None, None], nothing, jnp.ones_like(trace), jnp.inf + nothing)
    power, log, *_ = jax.lax.while_loop(going_on, step, carry)
    steepest = jnp.argmax(jnp.diagonal(power, axis1=-2, axis2=-1), axis=-1)
    vector = jnp.take_along_axis(power, steepest[..., None, None], axis=-1)[..., 0]
    length = jnp.sqrt(jnp.sum(jnp.square(vector), axis=-1, keepdims=True))
    return trace * jnp.exp(log), vector / jnp.where(length > 0, length, 1)


def eigenvalue_above(gram: Float[Array, "k k"]) -> Float[Array, ""]:
    """``tr(G^8)^(1/8)``, at most the eighth root of ``k`` times the largest eigenvalue; two products.

    Args:
        gram: A positive semi-definite matrix.

    Returns:
        The bound. Not a number where the matrix is not finite.
    """
    trace = jnp.trace(gram)
    power, log, share = gram / jnp.where(trace == 0, 1, trace), jnp.zeros_like(trace), 1.0
    for _ in range(2):
        power, share = power @ power, share / 2
        left = jnp.trace(power)
        left = jnp.where(left == 0, 1, left)
        power, log = power / left, log + share * jnp.log(left)
    # The last squaring needs its trace alone.
    last = jnp.sum(jnp.square(power))
    return trace * jnp.exp(log + share / 2 * jnp.log(jnp.where(trace == 0, 1, last)))
