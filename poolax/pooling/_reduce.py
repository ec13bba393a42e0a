"""The poolers without parameters: first, last, average, sum and max."""

from typing import final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax._numerics import accumulation_dtype, zero_masked
from poolax._typing import AnyArray
from poolax.pooling._base import Pooler, check_input, check_pooled

# A power of two changes no digit.
_SMALL = 2.0**-30


def first_pool(
    z: Float[AnyArray, "*batch n d"], mask: Bool[AnyArray, "*#batch n"] | None = None
) -> Float[Array, "*batch d"]:
    """The first real token, which is the CLS token where a model puts one in front.

    Args:
        z: Tokens, shape ``(*batch, n, d)``.
        mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

    Returns:
        ``z[..., i, :]`` with ``i`` the first position where ``mask`` is True, shape
        ``(*batch, d)``; zeros for a sequence without real tokens.

    Raises:
        ValueError: for a wrong shape, dtype or mask, ``n = 0``, or non-finite real tokens.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([[9.0, 9.0], [1.0, 2.0], [3.0, 4.0]])
        >>> first_pool(z, jnp.array([False, True, True]))
        Array([1., 2.], dtype=float32)
    """
    z, mask = check_input(z, mask)
    if mask is None:
        return z[..., 0, :]
    return _take(z, mask, jnp.argmax(mask, axis=-1))


def last_pool(
    z: Float[AnyArray, "*batch n d"], mask: Bool[AnyArray, "*#batch n"] | None = None
) -> Float[Array, "*batch d"]:
    """The last real token, which has seen the whole sequence in a causal model.

    Args:
        z: Tokens, shape ``(*batch, n, d)``.
        mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

    Returns:
        ``z[..., i, :]`` with ``i`` the last position where ``mask`` is True, shape
        ``(*batch, d)``; zeros for a sequence without real tokens.

    Raises:
        ValueError: for a wrong shape, dtype or mask, ``n = 0``, or non-finite real tokens.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]])
        >>> last_pool(z, jnp.array([True, True, False]))
        Array([3., 4.], dtype=float32)
    """
    z, mask = check_input(z, mask)
    if mask is None:
        return z[..., -1, :]
    return _take(z, mask, z.shape[-2] - 1 - jnp.argmax(jnp.flip(mask, axis=-1), axis=-1))


def average_pool(
    z: Float[AnyArray, "*batch n d"], mask: Bool[AnyArray, "*#batch n"] | None = None
) -> Float[Array, "*batch d"]:
    """The mean of the real tokens.

    Args:
        z: Tokens, shape ``(*batch, n, d)``.
        mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

    Returns:
        ``sum_i mask_i z_i / sum_i mask_i``, shape ``(*batch, d)``, accumulated in at least
        float32; zeros for a sequence without real tokens.

    Raises:
        ValueError: for a wrong shape, dtype or mask, ``n = 0``, or non-finite real tokens.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([[1.0, 2.0], [3.0, 4.0], [jnp.nan, 9.0]])
        >>> average_pool(z, jnp.array([True, True, False]))
        Array([2., 3.], dtype=float32)
    """
    z, mask = check_input(z, mask)
    dtype, tokens = accumulation_dtype(z), zero_masked(z, mask)
    count = None if mask is None else jnp.maximum(jnp.sum(mask, axis=-1, dtype=dtype)[..., None], 1)
    largest = float(jnp.finfo(z.dtype).max)
    # A sum of halves fits in float32, and that of one token, as of heads on pooled vectors, is itself.
    if largest * largest <= float(jnp.finfo(dtype).max) or z.shape[-2] == 1:
        return _mean(tokens, count, dtype).astype(z.dtype)
    return _mean_in_range(tokens, count)


def _mean(tokens, count, dtype):
    if count is None:
        return jnp.mean(tokens, axis=-2, dtype=dtype)
    return jnp.sum(tokens, axis=-2, dtype=dtype) / count


@jax.custom_jvp
def _mean_in_range(tokens, count):
    """The mean where a sum may overflow whose mean does not; its derivative is that of one mean."""
    dtype = accumulation_dtype(tokens)
    largest = float(jnp.finfo(tokens.dtype).max)
    average = _mean(tokens, count, dtype)
    small = _mean(tokens.astype(dtype) * _SMALL, count, dtype)
    scaled = jnp.clip(small / _SMALL, -largest, largest)
    overflowed = ~jnp.isfinite(average) & jnp.isfinite(small)
    return jnp.where(overflowed, scaled, average).astype(tokens.dtype)


@_mean_in_range.defjvp
def _mean_in_range_jvp(primals, tangents):
    tokens, count = primals
    moved = _mean(tangents[0], count, accumulation_dtype(tokens)).astype(tokens.dtype)
    return _mean_in_range(tokens, count), moved


def sum_pool(
    z: Float[AnyArray, "*batch n d"], mask: Bool[AnyArray, "*#batch n"] | None = None
) -> Float[Array, "*batch d"]:
    """The sum of the real tokens.

    Args:
        z: Tokens, shape ``(*batch, n, d)``.
        mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

    Returns:
        ``sum_i mask_i z_i``, shape ``(*batch, d)``, accumulated in at least float32; zeros for a
        sequence without real tokens.

    Raises:
        ValueError: for a wrong shape, dtype or mask, ``n = 0``, non-finite real tokens, or a sum beyond
            the range of the dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> sum_pool(jnp.array([[1.0, 2.0], [3.0, 4.0]]))
        Array([4., 6.], dtype=float32)
    """
    z, mask = check_input(z, mask)
    total = jnp.sum(zero_masked(z, mask), axis=-2, dtype=accumulation_dtype(z))
    return check_pooled(total.astype(z.dtype))


def max_pool(
    z: Float[AnyArray, "*batch n d"], mask: Bool[AnyArray, "*#batch n"] | None = None
) -> Float[Array, "*batch d"]:
    """The largest value of each coordinate over the real tokens.

    Args:
        z: Tokens, shape ``(*batch, n, d)``.
        mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

    Returns:
        ``max_i z_ij`` over real ``i``, shape ``(*batch, d)``; zeros for a sequence without real
        tokens. Where several tokens attain the maximum they share its gradient equally.

    Raises:
        ValueError: for a wrong shape, dtype or mask, ``n = 0``, or non-finite real tokens.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([[1.0, -4.0], [-3.0, -2.0], [9.0, 9.0]])
        >>> max_pool(z, jnp.array([True, True, False]))
        Array([ 1., -2.], dtype=float32)
    """
    return masked_max(*check_input(z, mask))


def masked_max(
    z: Float[Array, "*batch n d"], mask: Bool[Array, "*batch n"] | None
) -> Float[Array, "*batch d"]:
    """The largest of each coordinate where ``mask`` is True; zeros where it nowhere is."""
    if mask is None:
        return _largest(z)
    return zero_empty(_largest(jnp.where(mask[..., None], z, -jnp.inf)), mask)


@jax.custom_jvp
def _largest(z: Float[Array, "*batch n d"]) -> Float[Array, "*batch d"]:
    """The largest value of each coordinate, with a derivative that is finite in any program.

    XLA may compute ``z`` once for the maximum and again to find what attains it, rounded otherwise.
    JAX's own derivative then finds nothing and divides by zero; the position of the maximum is always
    found.
    """
    return jnp.max(z, axis=-2)


@_largest.defjvp
def _largest_jvp(primals, tangents):
    (z,), (tangent,) = primals, tangents
    largest = jnp.max(z, axis=-2)
    position = jnp.argmax(z, axis=-2)[..., None, :]
    index = jax.lax.broadcasted_iota(position.dtype, z.shape, z.ndim - 2)
    attained = (z == largest[..., None, :]) | (index == position)
    share = attained / jnp.sum(attained, axis=-2, keepdims=True, dtype=z.dtype)
    return largest, jnp.sum(share * tangent, axis=-2)


def zero_empty(
    pooled: Float[Array, "*batch d"], mask: Bool[Array, "*batch n"]
) -> Float[Array, "*batch d"]:
    """Zeros, with zero gradient, in place of what came from a sequence without real tokens."""
    some = jnp.any(mask, axis=-1, keepdims=True)
    return jnp.where(some, pooled, jnp.zeros((), pooled.dtype))


def _take(z, mask, index):
    taken = jnp.take_along_axis(z, index[..., None, None], axis=-2)[..., 0, :]
    return zero_empty(taken, mask)


@final
class FirstPool(Pooler):
    """The first real token; see :func:`first_pool`."""

    def __call__(self, z, mask=None):
        """Pool ``z``; see :func:`first_pool`."""
        return first_pool(z, mask)


@final
class LastPool(Pooler):
    """The last real token; see :func:`last_pool`."""

    def __call__(self, z, mask=None):
        """Pool ``z``; see :func:`last_pool`."""
        return last_pool(z, mask)


@final
class AveragePool(Pooler):
    """The mean of the real tokens; see :func:`average_pool`."""

    def __call__(self, z, mask=None):
        """Pool ``z``; see :func:`average_pool`."""
        return average_pool(z, mask)


@final
class SumPool(Pooler):
    """The sum of the real tokens; see :func:`sum_pool`."""

    def __call__(self, z, mask=None):
        """Pool ``z``; see :func:`sum_pool`."""
        return sum_pool(z, mask)


@final
class MaxPool(Pooler):
    """The coordinate-wise maximum over the real tokens; see :func:`max_pool`."""

    def __call__(self, z, mask=None):
        """Pool ``z``; see :func:`max_pool`."""
        return max_pool(z, mask)
