"""Exact spectral norms of Jacobians."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._checks import check_choice, check_count, check_finite, check_floating, is_concrete
from poolax._decompositions import spectral_norm
from poolax._numerics import accumulation_dtype, at_highest_precision
from poolax._programs import kept_program
from poolax._threads import on_one_thread
from poolax._typing import AnyArray


@on_one_thread
@at_highest_precision
def jacobian_norm(
    fn: Callable[[Float[Array, "..."]], Float[Array, "..."]],
    x: Float[AnyArray, "..."],
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

    One program for each ``fn``, options and shape is compiled and kept for later calls, while ``fn``,
    what it closes over and the globals that it names are the same; attributes of modules are taken as
    constant. For an object that may have changed unseen a program is compiled anew each time.

    Args:
        fn: Takes one array and returns one array.
        x: Input, any shape.
        mode: ``"forward"``, ``"reverse"``, or ``"auto"`` for the one with fewer products.
        batch_size: Number of products at a time.

    Returns:
        The norm, with respect to the Euclidean (Frobenius) norms of input and output.

    Raises:
        ValueError: for an unknown mode, a batch size below one, an input that is empty, not floating or
            not finite, a function that returns anything but one floating array with entries, or a
            Jacobian that is not finite.

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
    return check_measurement(_program((x,), fn, mode, batch_size)(x))


@kept_program
def _program(fn, mode, batch_size):
    @jax.jit
    def norm(x):
        out = output_shape(fn, x)
        # Of equally many products, those with tangents keep less.
        if mode == "forward" or (mode == "auto" and x.size <= math.prod(out.shape)):
            return spectral_norm(_rows(jax.linearize(fn, x)[1], x, batch_size))
        pull_back = jax.vjp(fn, x)[1]
        return spectral_norm(_rows(lambda cotangent: pull_back(cotangent)[0], out, batch_size))

    return norm


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
    # Not weakly typed, for which everything would be compiled a second time.
    x = jnp.asarray(x, jnp.result_type(x))
    check_finite("x", x)
    if x.size == 0:
        raise ValueError(f"x: expected at least one entry, got shape {x.shape}")
    return x


def output_shape(fn, x) -> jax.ShapeDtypeStruct:
    """Shape and dtype of ``fn(x)``, which has to be one array of real numbers with a Jacobian."""
    # Of a new function, for JAX keeps the shape of one whose globals have changed since.
    out = jax.eval_shape(lambda x: fn(x), x)
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise ValueError(f"fn: expected a function that returns one array, got {type(out).__name__}")
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(f"fn: expected a floating result, got dtype {out.dtype}")
    if math.prod(out.shape) == 0:
        raise ValueError(f"fn: expected a result with at least one entry, got shape {out.shape}")
    return out


def check_measurement(norm: Float[Array, ""]) -> Float[Array, ""]:
    """Refuse a measured norm that can be seen not to be finite."""
    if is_concrete(norm):
        check_finite("Jacobian of fn", norm)
    return norm
