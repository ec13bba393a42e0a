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

# Vectors that Lanczos keeps before it restarts, and of these the Ritz vectors that it restarts from.
# Few enough that the small eigenvalue problem costs less than a step of a small model.
_MOST_VECTORS = 20
_KEPT_VECTORS = 8
# A start with little of the largest singular vector passes the test for a moment: it has to last.
_CALM_STEPS = 3


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

    Each step takes one product with the Jacobian ``J`` and one with its transpose, so that ``k`` steps
    are ``2 k`` products. With ``C`` the smaller of ``J^T J`` and ``J J^T``, ``"power"`` iterates ``v <- C v
    / |C v|`` and keeps two vectors. ``"lanczos"`` takes the best vector of the space that the steps have
    spanned and converges in far fewer of them; it keeps at most 21 vectors, re-orthogonalises each
    against all, and restarts from the best eight when they are full. Both stop once ``|C v - value^2 v|
    <= rtol value^2``.

    The value is a lower bound of ``|J|`` up to rounding: ``value^2`` is within ``rtol value^2`` of a
    squared singular value. From a random start that is the largest but for rare exceptions, which take
    a start almost orthogonal to the largest one's vector. Where the two largest are close and far above
    the rest they happen to ``"power"`` in up to a few of a hundred starts; no such start of
    ``"lanczos"`` is known.

    Wrap the call in ``jax.jit`` to compile once for many inputs and keys.

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
        Golub and Kahan, "Calculating the Singular Values and Pseudo-Inverse of a Matrix" (1965); Wu
        and Simon, "Thick-Restart Lanczos Method for Large Symmetric Eigenvalue Problems" (2000).
    """
    check_choice("method", method, ("power", "lanczos"))
    check_count("max_steps", max_steps)
    check_number("rtol", rtol, above=0.0)
    x = check_point(x)
    solve = _power if method == "power" else _lanczos
    with jax.default_matmul_precision("highest"):
        first, second, like = _from_smaller_side(*jacobian_products(fn, x), x)
        start = unit(jax.random.normal(key, like.shape, accumulation_dtype(x)))
        estimate = solve(first, second, start, max_steps, rtol)
    check_measurement(estimate.value)
    return estimate


def _from_smaller_side(forward, backward, x):
    """The two products in the order in which they map the smaller of both spaces to itself."""
    out = jax.eval_shape(forward, x)
    if math.prod(out.shape) < x.size:
        return backward, forward, out
    return forward, backward, x


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


def _power(first, second, start, max_steps, rtol):
    def going_on(carry):
        _, value, steps, residual = carry
        return (steps < max_steps) & (residual > rtol) & jnp.isfinite(value)

    def step(carry):
        v, _, steps, _ = carry
        u = first(v)
        norm = safe_norm(u)
        w = second(unit(u))
        residual = safe_norm(w - norm * v) / jnp.where(norm > 0, norm, 1)
        return unit(w), safe_norm(w), steps + 1, residual

    dtype = start.dtype
    carry = (start, jnp.zeros((), dtype), jnp.zeros((), int), jnp.full((), jnp.inf, dtype))
    _, value, steps, residual = jax.lax.while_loop(going_on, step, carry)
    return NormEstimate(value, steps, residual <= rtol, residual)


def _lanczos(first, second, start, max_steps, rtol):
    """Thick-restart Lanczos: Rayleigh-Ritz for ``C`` on a space that grows by ``C v`` each step."""
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
        values, vectors = jnp.linalg.eigh(projected)
        top = jnp.maximum(values[-1], 0)
        residual = rest * jnp.abs(vectors[size, -1]) / jnp.where(top > 0, top, 1)
        # |J^T u| at u = J v / |J v| for the Ritz vector v is this much more than |J v|.
        value = jnp.sqrt(top * (1 + jnp.square(residual)))
        calm = jnp.where(residual <= rtol, calm + 1, 0)
        # A space that C maps to itself has no more to tell.
        calm = jnp.where(rest > 0, calm, _CALM_STEPS)
        return basis, projected, size + 1, scale, value, steps + 1, calm, residual

    def restart(basis, projected, size):
        values, vectors = jnp.linalg.eigh(projected)
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
    *_, scale, value, steps, _, residual = jax.lax.while_loop(going_on, step, carry)
    return NormEstimate(scale * value, steps, residual <= rtol, residual)
