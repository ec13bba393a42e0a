"""Numerics that several parts share: dtypes and precision, masked softmax, roots without NaN."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Shaped

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def at_highest_precision(fn: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Evaluate ``fn`` with full matrix products: those of TPUs and of TF32 round to a few digits.

    A derivative that is written by hand is traced apart from its function and needs this as well.
    """

    @functools.wraps(fn)
    def wrapped(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with jax.default_matmul_precision("highest"):
            return fn(*args, **kwargs)

    return wrapped


def accumulation_dtype(*arrays) -> jnp.dtype:
    """The dtype that reductions run in: at least float32, and float64 stays float64."""
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def with_leading_axes(x: Shaped[ArrayLike, "..."], ndim: int) -> Shaped[Array, "..."]:
    """The same array with axes of length one in front, ``ndim`` in all.

    What NumPy does unasked, and ``jax_numpy_rank_promotion="raise"`` refuses to do.
    """
    return jnp.reshape(jnp.asarray(x), (1,) * (ndim - jnp.ndim(x)) + jnp.shape(x))


def zero_masked(x: Float[Array, "*batch n d"], mask: Bool[Array, "*batch n"] | None):
    """Replace masked tokens by zeros, so that neither their value nor their gradient is seen."""
    return x if mask is None else jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))


def softmax_numerator(
    logits: Float[Array, "*batch k"], where: Bool[Array, "*#batch k"] | None = None
) -> tuple[Float[Array, "*batch k"], Float[Array, "*batch 1"]]:
    """Exponentials over the last axis and their sums, in at least float32; empty rows have sum 1.

    Their quotient is the softmax, zero in a row without any entry; dividing what the exponentials
    are multiplied with instead is cheaper.
    """
    logits = logits.astype(accumulation_dtype(logits))
    if where is not None:
        logits = jnp.where(where, logits, -jnp.inf)
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    if where is not None:
        top = jnp.where(jnp.isfinite(top), top, 0)
    exponentials = jnp.exp(logits - top)
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    return exponentials, total if where is None else jnp.where(total > 0, total, 1)


def masked_softmax(
    logits: Float[Array, "*batch k"], where: Bool[Array, "*#batch k"] | None = None
) -> Float[Array, "*batch k"]:
    """Softmax over the last axis in at least float32; a row without any entry gives zeros."""
    exponentials, total = softmax_numerator(logits, where)
    return exponentials / total


def safe_sqrt(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Square root whose gradient at zero is zero rather than infinite; NaN stays NaN."""
    zero = x == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def divisor(largest: Float[Array, "..."]) -> Float[Array, "..."]:
    """What brings numbers of which ``largest`` is the largest into range; 1 for zero and infinity.

    No larger than a number whose inverse devices hold: they divide by multiplying with it.
    """
    smallest = float(jnp.finfo(accumulation_dtype(largest)).tiny)
    most = min(1 / (4 * smallest), float(jnp.finfo(largest.dtype).max))
    return jnp.where((largest > 0) & jnp.isfinite(largest), jnp.minimum(largest, most), 1)


@functools.partial(jax.jit, static_argnames="axis", inline=True)
def safe_norm(x: Float[Array, "..."], axis=None) -> Float[Array, "..."]:
    """Euclidean norm whose gradient at zero is zero, and whose squares neither over- nor underflow."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0.0))
    scale = divisor(largest)
    root = safe_sqrt(jnp.sum(jnp.square(x / scale), axis=axis, keepdims=True))
    return jnp.squeeze(scale * root, axis=axis)


def exponent_of(x: Float[Array, "..."], axis: int | None = None) -> Int[Array, "..."]:
    """The power of two next below the largest absolute value; 0 for zero and for what is not finite.

    Of each slice along ``axis``, which stays with length one.
    """
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(x)), axis=axis, keepdims=axis is not None)
    safe = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return jnp.floor(jnp.log2(safe)).astype(jnp.int32)


def times_power(x: Float[Array, "..."], exponent: Int[Array, "..."]) -> Float[Array, "..."]:
    """``x 2^exponent``."""
    # In two steps: a single factor may be below all numbers, or above them, where the product is not.
    half = exponent // 2
    one = jnp.ones((), x.dtype)
    return x * jnp.ldexp(one, half) * jnp.ldexp(one, exponent - half)
