"""Poolers of each entry by itself: the Euclidean norm and the log-sum-exp over the tokens."""

import math
from typing import Any, final

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from poolax._checks import check_number
from poolax._numerics import accumulation_dtype, safe_norm, zero_masked
from poolax._typing import AnyArray
from poolax.pooling._base import Pooler, check_input, check_pooled
from poolax.pooling._reduce import masked_max

# Temperatures up to here are taken as they are, however near tokens are to each other.
_WARM = 1e10
# Largest |log T|: beyond it log-sum-exp is the maximum or the average to all digits of usual states.
_MOST_LOG_TEMPERATURE = 60.0


def l2_pool(
    z: Float[AnyArray, "*batch n d"], mask: Bool[AnyArray, "*#batch n"] | None = None
) -> Float[Array, "*batch d"]:
    """The Euclidean norm of each entry over the real tokens.

    Args:
        z: Tokens, shape ``(*batch, n, d)``.
        mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

    Returns:
        ``(sum_i mask_i z_ij^2)^(1/2)``, shape ``(*batch, d)``, accumulated in at least float32 without
        squares that over- or underflow; zeros for a sequence without real tokens. The gradient of an
        entry that is zero in all tokens is zero.

    Raises:
        ValueError: for a wrong shape, dtype or mask, ``n = 0``, non-finite real tokens, or a norm
            beyond the range of the dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> l2_pool(jnp.array([[3.0, 0.0], [-4.0, 0.0]]))
        Array([5., 0.], dtype=float32)

    Reference:
        Theory, section 6.8.
    """
    z, mask = check_input(z, mask)
    tokens = zero_masked(z, mask).astype(accumulation_dtype(z))
    return check_pooled(safe_norm(tokens, axis=-2).astype(z.dtype))


def log_sum_exp_pool(
    z: Float[AnyArray, "*batch n d"],
    temperature: Float[ArrayLike, ""] = 1.0,
    mask: Bool[AnyArray, "*#batch n"] | None = None,
) -> Float[Array, "*batch d"]:
    """A smooth maximum of each entry over the real tokens: the logarithm of a mean of exponentials.

    It lies between the average, to which it goes for high temperatures, and the maximum, to which it
    goes for low ones, and is exact to rounding on the whole way.

    Args:
        z: Tokens, shape ``(*batch, n, d)``.
        temperature: ``T > 0``.
        mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

    Returns:
        ``T log(mean_i exp(z_ij / T))`` over real ``i``, shape ``(*batch, d)``, in at least float32
        inside; zeros for a sequence without real tokens.

    Raises:
        ValueError: for a temperature that is not above zero, a wrong shape, dtype or mask, ``n = 0``,
            or non-finite real tokens.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([[0.0, 1.0], [2.0, 1.0]])
        >>> for temperature in (1e6, 1.0, 1e-6):
        ...     print(log_sum_exp_pool(z, temperature).round(3))
        [1. 1.]
        [1.434 1.   ]
        [2. 1.]

    Reference:
        Pinheiro and Collobert, "From Image-level to Pixel-level Labeling with Convolutional Networks"
        (CVPR 2015), section 3.2; Theory, section 6.9.
    """
    check_number("temperature", temperature, above=0.0)
    z, mask = check_input(z, mask)
    dtype = accumulation_dtype(z)
    real = jnp.ones(z.shape[:-1], bool) if mask is None else mask
    tokens = zero_masked(z, mask).astype(dtype)
    # Devices take smaller numbers for zero.
    temperature = jnp.maximum(jnp.asarray(temperature, dtype), jnp.finfo(dtype).tiny)
    return _smooth_max(tokens, temperature, real).astype(z.dtype)


@jax.custom_jvp
def _smooth_max(tokens, temperature, real):
    return _smooth_max_parts(tokens, temperature, real)[0]


def _smooth_max_parts(tokens, temperature, real):
    """Values ``(*batch, d)``, weights, and the derivative with respect to the temperature."""
    top, tiny = masked_max(tokens, real), float(jnp.finfo(tokens.dtype).tiny)
    # Half of a difference of two numbers is a number.
    spread = top / 2 + masked_max(-tokens, real) / 2
    real = real[..., None]
    # Where quotients would be too small for numbers it is the average to all digits long before.
    warm = jnp.minimum(temperature, jnp.maximum(spread / (tiny * 2**24), _WARM))
    logits = jnp.where(real, 2 * ((tokens / 2 - top[..., None, :] / 2) / warm[..., None, :]), 0)
    count = jnp.maximum(jnp.sum(real, axis=-2, dtype=tokens.dtype), 1)
    exponentials = jnp.where(real, jnp.exp(logits), 0)
    total = jnp.sum(exponentials, axis=-2)
    # Where all exponentials are about one, a sum of them has lost by how much.
    below = jnp.sum(jnp.expm1(logits), axis=-2) / count
    some = total > 0
    log_mean = jnp.where(below > -0.5, jnp.log1p(below), jnp.log(jnp.where(some, total, 1) / count))
    log_mean = jnp.where(some, log_mean, 0)
    weights = exponentials / jnp.where(some, total, 1)[..., None, :]
    value = 2 * (top / 2 + warm / 2 * log_mean)
    # Products of no weight with infinite logits are none.
    mean_logit = jnp.sum(weights * jnp.where(weights > 0, logits, 0), axis=-2)
    return value, weights, (log_mean - mean_logit) * jnp.square(warm / temperature)


@_smooth_max.defjvp
def _smooth_max_jvp(primals, tangents):
    """By the softmax, which is finite where exponentials and logits are not."""
    value, weights, by_temperature = _smooth_max_parts(*primals)
    of_tokens, of_temperature, _ = tangents
    return value, jnp.sum(weights * of_tokens, axis=-2) + by_temperature * of_temperature


@final
class L2Pool(Pooler):
    """The Euclidean norm of each entry over the real tokens; see :func:`l2_pool`.

    Example:
        >>> import jax.numpy as jnp
        >>> L2Pool().apply({}, jnp.array([[3.0, 0.0], [-4.0, 0.0]]))
        Array([5., 0.], dtype=float32)
    """

    def __call__(self, z, mask=None):
        """Pool ``z``; see :func:`l2_pool`."""
        return l2_pool(z, mask)


@final
class LogSumExpPool(Pooler):
    """A smooth maximum of each entry over the real tokens, whose temperature is learned.

    ``T log(mean_i exp(z_i / T))``, between the average and the maximum; see :func:`log_sum_exp_pool`.

    Attributes:
        temperature: Where ``T`` starts, above zero.

    Its one parameter is ``log_temperature``, shape ``()``, which counts from -60 to 60.

    Example:
        >>> import jax.numpy as jnp
        >>> variables = {"params": {"log_temperature": jnp.array(-9.0)}}
        >>> print(LogSumExpPool().apply(variables, jnp.array([[0.0], [2.0]])).round(3))
        [2.]

    Reference:
        Pinheiro and Collobert, "From Image-level to Pixel-level Labeling with Convolutional Networks"
        (CVPR 2015), section 3.2, whose temperature is not learned.
    """

    temperature: float = 1.0

    @nn.compact
    def __call__(self, z, mask=None) -> Any:
        """Pool ``z``.

        Args:
            z: Tokens, shape ``(*batch, n, d)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

        Returns:
            Pooled vectors, shape ``(*batch, d)``; zeros for a sequence without real tokens.

        Raises:
            ValueError: for a ``temperature`` not above zero, a wrong shape, dtype or mask, ``n = 0``,
                or non-finite real tokens.
        """
        check_number("temperature", self.temperature, above=0.0)
        start = math.log(self.temperature)
        log_temperature = self.param("log_temperature", lambda _: jnp.full((), start, jnp.float32))
        return log_sum_exp_pool(z, self.temperature_of(log_temperature), mask)

    @staticmethod
    def temperature_of(log_temperature: Float[Array, ""]) -> Float[Array, ""]:
        """The temperature that the parameter stands for, which is in range whatever it is."""
        return jnp.exp(jnp.clip(log_temperature, -_MOST_LOG_TEMPERATURE, _MOST_LOG_TEMPERATURE))
