"""Exact spectral norms of Jacobians."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._checks import check_choice, check_count, check_finite, check_floating, is_concrete
from poolax._decompositions import spectral_norm
from poolax._numerics import accumulation_dtype, at_highest_precision


@at_highest_precision
def jacobian_norm(
    fn: Callable[[Float[Array, "..."]], Float[Array, "..."]],
    x: Float[Array, "..."],
    *,
    mode: str = "auto",
    batch_size: int = 64,
) -> Float[Array, ""]:
    r"""Exact spectral norm of the Jacobian of ``fn`` at ``x``, the local Lipschitz constant.

    The Jacobian of a map from ``N`` to ``M`` numbers is built from ``N`` products with unit tangents
    (forward) or ``M`` products with unit cotangents (reverse), ``batch_size`` of them at a time, so
    that memory holds the Jacobian and the intermediate values of that many evaluations. The norm is
    the root of the largest eigenvalue of the smaller Gram matrix,

        ``|J| = sqrt(lambda_max(J J^T)) = sqrt(lambda_max(J^T J))``.

    Args:
        fn: Takes one array and returns one array.
        x: Input, any shape.
        mode: ``"forward"``, ``"reverse"``, or ``"auto"`` for the one with fewer products.
        batch_size: Number of products at a time.

    Returns:
        The norm, with respect to the Euclidean (Frobenius) norms of input and output.

    Raises:
        ValueError: for an unknown mode, a batch size below one, an input that is not floating or not
            finite, a function that returns anything but one floating array, or a Jacobian that is not
            finite.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{jacobian_norm(lambda x: jnp.array([3.0 * x[0], 2.0 * x[1]]), jnp.ones(2)):.1f}")
        3.0

    Reference:
        Theory, section 10.1.
    """
    check_choice("mode", mode, ("auto", "forward", "reverse"))
    check_count("batch_size", batch_size)
    x = check_point(x)
    out = output_shape(fn, x)
    num_in, num_out = x.size, math.prod(out.shape)
    # Of equally many products, those with tangents keep less.
    if mode == "forward" or (mode == "auto" and num_in <= num_out):
        rows = _rows(jax.linearize(fn, x)[1], x, batch_size)
    else:
        pull_back = jax.vjp(fn, x)[1]
        rows = _rows(lambda cotangent: pull_back(cotangent)[0], out, batch_size)
    return check_measurement(spectral_norm(rows))


def _rows(product, like, batch_size):
    """Stack ``product(e_k)`` for all unit vectors ``e_k`` of the shape of ``like``."""
    size = math.prod(like.shape)
    dtype = accumulation_dtype(like)

    def row(index):
        unit = (jnp.arange(size) == index).astype(like.dtype).reshape(like.shape)
        return product(unit).reshape(-1).astype(dtype)

    return jax.lax.map(row, jnp.arange(size), batch_size=min(batch_size, size))


def check_point(x) -> Array:
    """Check the point where a function is measured: one floating, finite array."""
    check_floating("x", x)
    check_finite("x", x)
    return jnp.asarray(x)


def output_shape(fn, x) -> jax.ShapeDtypeStruct:
    """Shape and dtype of ``fn(x)``, which has to be one floating array."""
    out = jax.eval_shape(fn, x)
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise ValueError(f"fn: expected a function that returns one array, got {type(out).__name__}")
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(f"fn: expected a floating result, got dtype {out.dtype}")
    return out


def check_measurement(norm: Float[Array, ""]) -> Float[Array, ""]:
    """Refuse a measured norm that can be seen not to be finite."""
    if is_concrete(norm):
        check_finite("Jacobian of fn", norm)
    return norm
