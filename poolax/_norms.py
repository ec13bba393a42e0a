"""Normalisations of Flax whose squares stay in range."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._numerics import accumulation_dtype


class LayerNorm(nn.LayerNorm):
    """Flax's ``LayerNorm`` for tokens of any size: Flax's own gives zeros or NaN beyond 1e18.

    Tokens with an entry above 2^50 in single precision, whose variance may overflow, are multiplied
    with a power of two first, which changes how much ``epsilon`` counts and nothing else; there it
    counts for nothing. Attributes and parameters are Flax's.

    Example:
        >>> x = jnp.array([1e30, -1e30, 3e30, 1e30])
        >>> variables = LayerNorm().init(jax.random.key(0), x)
        >>> print(LayerNorm().apply(variables, x).round(3))
        [ 0.    -1.414  1.414  0.   ]
    """

    def __call__(self, x: Float[Array, "*batch d"], **options):
        """Normalise the last axis of ``x``; options are Flax's."""
        return super().__call__(_in_range(x), **options)


class RMSNorm(nn.RMSNorm):
    """Flax's ``RMSNorm`` for tokens of any size, as :class:`LayerNorm` is.

    Example:
        >>> x = jnp.array([3e30, 4e30])
        >>> variables = RMSNorm().init(jax.random.key(0), x)
        >>> bool(jnp.allclose(RMSNorm().apply(variables, x), jnp.array([3, 4]) / 12.5**0.5))
        True
    """

    def __call__(self, x: Float[Array, "*batch d"], **options):
        """Normalise the last axis of ``x``; options are Flax's."""
        return super().__call__(_in_range(x), **options)


def centred(x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    """Each token minus the mean of its entries, whose sum may not fit."""
    scale = _scale_of(x)
    scaled = x * scale
    return (scaled - jnp.mean(scaled, axis=-1, keepdims=True)) / scale


def _in_range(x):
    return x * _scale_of(x)


def _scale_of(x):
    """Of rows whose squares would overflow the power of two that brings them down to 2^30, else 1."""
    most = jnp.finfo(accumulation_dtype(x)).maxexp // 2 - 14  # 50 in single precision
    if most >= jnp.finfo(x.dtype).maxexp:
        return jnp.ones((), x.dtype)
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(x)), axis=-1, keepdims=True)
    _, exponent = jnp.frexp(largest)
    return jnp.ldexp(jnp.ones_like(largest), jnp.where(exponent > most, 30 - exponent, 0))
