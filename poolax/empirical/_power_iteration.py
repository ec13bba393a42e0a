"""Spectral norms of Jacobians from products with them, never forming them."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._checks import check_choice, check_count, check_number
from poolax._numerics import accumulation_dtype, safe_norm
from poolax._records import NormEstimate
from poolax.empirical._jacobian import check_measurement, check_point

# The small SVD that measures the residual costs more than a step of a small model.
_STEPS_BETWEEN_CHECKS = 5


def power_iteration(
    fn: Callable[[Float[Array, "..."]], Float[Array, "..."]],
    x: Float[Array, "..."],
    *,
    key: jax.Array,
    max_steps: int = 200,
    rtol: float = 1e-4,
    method: str = "power",
) -> NormEstimate:
    r"""Spectral norm of the Jacobian of ``fn`` at ``x``, without forming it.

    Each step takes one product with the Jacobian ``J`` and one with its transpose. ``"power"``
    iterates ``v <- J^T J v / |J^T J v|`` and keeps two vectors; ``"lanczos"`` (Golub, Kahan and
    Lanczos, with full re-orthogonalisation) keeps one pair of vectors a step and converges in far
    fewer of them. Both stop once ``|J^T J v - value^2 v| <= rtol value^2``.

    The value is a lower bound of ``|J|`` up to rounding: ``value^2`` is within ``rtol value^2`` of a
    squared singular value, which from a random start is the largest but for rare exceptions.

    Args:
        fn: Takes one array and returns one array.
        x: Input, any shape.
        key: Random key of the start.
        max_steps: Most steps to take.
        rtol: Tolerance of the residual, positive.
        method: ``"power"`` or ``"lanczos"``.

    Returns:
        Value, steps, whether it converged, and the residual. A zero Jacobian has converged.

    Raises:
        ValueError: for an unknown method, numbers out of range, an input that is not floating or
            not finite, or a Jacobian that is not finite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> estimate = power_iteration(
        ...     lambda x: jnp.array([3.0, 2.0]) * x, jnp.ones(2), key=jax.random.key(0)
        ... )
        >>> print(f"{estimate.value:.3f} {estimate.converged}")
        3.000 True

    Reference:
        Golub and Kahan, "Calculating the Singular Values and Pseudo-Inverse of a Matrix" (1965).
    """
    check_choice("method", method, ("power", "lanczos"))
    check_count("max_steps", max_steps)
    check_number("rtol", rtol, above=0.0)
    x = check_point(x)
    start = unit(jax.random.normal(key, x.shape, accumulation_dtype(x)))
    solve = _power if method == "power" else _lanczos
    with jax.default_matmul_precision("highest"):
        forward, backward = jacobian_products(fn, x)
        estimate = solve(forward, backward, start, max_steps, rtol)
    check_measurement(estimate.value)
    return estimate


def jacobian_products(fn, x):
    """Products with the Jacobian of ``fn`` at ``x`` and with its transpose."""
    _, forward = jax.linearize(fn, x)
    backward = jax.linear_transpose(forward, x)
    dtype = accumulation_dtype(x)

    def product(v):
        return forward(v.astype(x.dtype)).astype(accumulation_dtype(x))

    def transposed(u):
        (out,) = backward(u.astype(jax.eval_shape(forward, x).dtype))
        return out.astype(dtype)

    return product, transposed


def unit(v: Float[Array, "..."]) -> Float[Array, "..."]:
    """Divide by the Euclidean norm; zero stays zero."""
    norm = safe_norm(v)
    return v / jnp.where(norm > 0, norm, 1)


def _power(forward, backward, start, max_steps, rtol):
    def going_on(carry):
        _, value, steps, residual = carry
        return (steps < max_steps) & (residual > rtol) & jnp.isfinite(value)

    def step(carry):
        v, _, steps, _ = carry
        u = forward(v)
        value = safe_norm(u)
        w = backward(unit(u))
        residual = safe_norm(w - value * v) / jnp.where(value > 0, value, 1)
        return unit(w), value, steps + 1, residual

    dtype = start.dtype
    carry = (start, jnp.zeros((), dtype), jnp.zeros((), int), jnp.full((), jnp.inf, dtype))
    _, value, steps, residual = jax.lax.while_loop(going_on, step, carry)
    return NormEstimate(value, steps, residual <= rtol, residual)


def _lanczos(forward, backward, start, max_steps, rtol):
    """Golub-Kahan-Lanczos: ``J V = U B`` with B upper bidiagonal; ``|J|`` from the norm of B."""
    out = jax.eval_shape(forward, start)
    size = min(max_steps, start.size, math.prod(out.shape) + 1)

    def orthogonalise(w, basis):
        # Twice is enough: the first pass leaves a remainder of the size of the cancelled digits.
        for _ in range(2):
            w = w - (basis @ w) @ basis
        return w

    def step(index, carry):
        right, left, bidiagonal, v, beta = carry
        right = right.at[index].set(v)
        u = orthogonalise(forward(v.reshape(start.shape)).reshape(-1), left)
        left = left.at[index].set(unit(u))
        bidiagonal = bidiagonal.at[index, index].set(safe_norm(u))
        above = jnp.maximum(index - 1, 0)
        bidiagonal = bidiagonal.at[above, index].add(jnp.where(index > 0, beta, 0))
        w = orthogonalise(backward(left[index].reshape(out.shape)).reshape(-1), right)
        return right, left, bidiagonal, unit(w), safe_norm(w)

    def several_steps(carry):
        basis, _, steps, _ = carry
        last = jnp.minimum(steps + _STEPS_BETWEEN_CHECKS, size)
        basis = jax.lax.fori_loop(steps, last, step, basis)
        ritz, values, _ = jnp.linalg.svd(basis[2])
        # J^T J y = value^2 y + value beta p w at the Ritz vector y, p the last entry of its left twin
        rest = basis[4] * jnp.abs(ritz[last - 1, 0])
        return basis, values[0], last, rest / jnp.where(values[0] > 0, values[0], 1)

    def going_on(carry):
        _, value, steps, residual = carry
        return (steps < size) & (residual > rtol) & jnp.isfinite(value)

    dtype = start.dtype
    basis = (
        jnp.zeros((size, start.size), dtype),
        jnp.zeros((size, math.prod(out.shape)), dtype),
        jnp.zeros((size, size), dtype),
        start.reshape(-1),
        jnp.zeros((), dtype),
    )
    carry = (basis, jnp.zeros((), dtype), jnp.zeros((), int), jnp.full((), jnp.inf, dtype))
    _, value, steps, residual = jax.lax.while_loop(going_on, several_steps, carry)
    return NormEstimate(value, steps, residual <= rtol, residual)
