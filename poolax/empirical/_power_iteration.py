"""Norms of Jacobians from products with them, never forming them."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._checks import check_choice, check_count, check_number
from poolax._geometry import GEOMETRIES, dual_size, norms, steepest, support
from poolax._lanczos import LinearMap, lanczos, unit
from poolax._numerics import accumulation_dtype, at_highest_precision, safe_norm
from poolax._programs import kept_program
from poolax._threads import on_one_thread
from poolax._typing import AnyArray, Real
from poolax.empirical._jacobian import check_measurement, check_point, output_shape
from poolax.records import NormEstimate


@on_one_thread
@at_highest_precision
def power_iteration(
    fn: Callable[[Float[Array, "..."]], Float[Array, "..."]],
    x: Float[AnyArray, "..."],
    *,
    key: jax.Array,
    max_steps: int = 200,
    rtol: Real = 1e-4,
    method: str = "power",
    geometry: str = "frobenius",
) -> NormEstimate:
    r"""Norm of the Jacobian of ``fn`` at ``x``, without forming it.

    Each step takes one product with the Jacobian ``J`` and one with its transpose, so that ``k``
    steps are ``2 k`` products. With ``C`` the smaller of ``J^T J`` and ``J J^T``, ``"power"`` iterates
    ``v <- C v / |C v|`` and keeps two vectors. ``"lanczos"`` takes the best vector of the space that
    the steps have spanned and converges in far fewer of them; it keeps at most 21 vectors of the
    smaller of input and output, re-orthogonalises each against all, and restarts from the best eight
    when these are full. Both stop once ``|C v - value^2 v| <= rtol value^2``, Lanczos once three steps
    have passed this.

    The value is a lower bound of ``|J|`` up to rounding: ``value^2`` is within ``rtol value^2`` of a
    squared singular value. From a random start that is the largest but for rare exceptions, which
    take a start almost orthogonal to the vectors of the largest: with ``"power"`` about one in a
    hundred where the two largest are close to one another and far above the rest.

    With ``geometry="tokens"`` it is the largest norm of a token, a row of the last axis, of ``J v``
    over ``v`` whose tokens have norm at most one each; the token with the largest norm in ``J v``, as
    ``u``, and then

        ``v_k <- (J^T u)_k / |(J^T u)_k|``

    for each token ``k``, which never lowers the norm. That norm is hard to compute: what is found is a
    lower bound that no small change of ``v`` raises, which need not be the largest. It stops once these
    directions agree with ``v``: ``sum_k |w_k - |w_k| v_k| <= rtol sum_k |w_k|`` with ``w = J^T u``.

    One program for each ``fn``, method, ``max_steps`` and shape is compiled and kept for later calls,
    while ``fn``, what it closes over and the globals that it names are the same; attributes of modules
    are taken as constant. For an object that may have changed unseen it is compiled anew each time.

    Args:
        fn: Takes one array and returns one array.
        x: Input, any shape.
        key: Random key of the start.
        max_steps: Most steps to take.
        rtol: Tolerance of the residual, between 0 and 1.
        method: ``"power"`` or ``"lanczos"``, which is for the geometry ``"frobenius"`` alone.
        geometry: ``"frobenius"`` for the Euclidean norm of inputs and outputs, ``"tokens"`` for the
            largest norm of a token in both.

    Returns:
        Value, steps, whether it converged, and the residual. A zero Jacobian has converged.

    Raises:
        ValueError: for an unknown method or geometry, numbers out of range, an input that is empty, not
            floating or not finite, a function that returns anything but one floating array with
            entries, or a Jacobian that is not finite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> estimate = power_iteration(
        ...     lambda x: jnp.array([3.0, 2.0]) * x, jnp.ones(2), key=jax.random.key(0)
        ... )
        >>> print(f"{estimate.value:.3f} {estimate.converged}")
        3.000 True
        >>> estimate = power_iteration(
        ...     lambda x: x.mean(0), jnp.ones((4, 2)), key=jax.random.key(0), geometry="tokens"
        ... )
        >>> print(f"{estimate.value:.3f}")
        1.000

    Reference:
        Golub and Kahan, "Calculating the Singular Values and Pseudo-Inverse of a Matrix" (1965); Wu
        and Simon, "Thick-Restart Lanczos Method for Large Symmetric Eigenvalue Problems" (2000);
        Boyd, "The Power Method for l^p Norms" (1974); Theory, sections 10.2 and 10.6.
    """
    check_choice("geometry", geometry, GEOMETRIES)
    check_choice("method", method, ("power", "lanczos") if geometry == "frobenius" else ("power",))
    check_count("max_steps", max_steps)
    check_number("rtol", rtol, above=0.0, below=1.0)
    x = check_point(x)
    estimate = _program((x, key), fn, method, geometry, max_steps)(x, key, rtol)
    check_measurement(estimate.value)
    return estimate


@kept_program
def _program(fn, method, geometry, max_steps):
    solve = _power if method == "power" else _lanczos

    @jax.jit
    def estimate(x, key, rtol):
        output_shape(fn, x)
        if geometry == "tokens":
            start = steepest(geometry, jax.random.normal(key, x.shape, accumulation_dtype(x)))
            return largest_of_tokens(*jacobian_products(fn, x), start, max_steps, rtol)
        first, second, like = from_smaller_side(*jacobian_products(fn, x), x)
        start = unit(jax.random.normal(key, like.shape, accumulation_dtype(x)))
        return solve(first, second, start, max_steps, rtol)

    return estimate


def from_smaller_side(forward, backward, x):
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


def _lanczos(first, second, start, max_steps, rtol):
    found = lanczos(first, second, start, max_steps, rtol)
    return NormEstimate(found.value, found.steps, found.converged, found.residual)


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


def largest_of_tokens(
    forward: LinearMap, backward: LinearMap, start: Float[Array, "..."], max_steps: int, rtol: Real
) -> NormEstimate:
    """Norm of a linear map by the largest token, from below; ``start`` has tokens of norm one."""
    geometry = "tokens"

    def going_on(carry):
        _, value, steps, residual = carry
        return (steps < max_steps) & (residual > rtol) & jnp.isfinite(value)

    def step(carry):
        v, _, steps, _ = carry
        w = backward(support(geometry, forward(v)))
        value, lengths = dual_size(geometry, w), norms(geometry, w)
        residual = dual_size(geometry, w - lengths * v) / jnp.where(value > 0, value, 1)
        # A token that changes nothing now may do so later.
        v = jnp.where(lengths > 0, steepest(geometry, w), v)
        return v, value, steps + 1, residual

    dtype = start.dtype
    carry = (start, jnp.zeros((), dtype), jnp.zeros((), int), jnp.full((), jnp.inf, dtype))
    _, value, steps, residual = jax.lax.while_loop(going_on, step, carry)
    return NormEstimate(value, steps, residual <= rtol, residual)
