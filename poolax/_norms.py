"""Normalisations of Flax whose squares stay in range."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from poolax._checks import check_number
from poolax._numerics import accumulation_dtype, with_leading_axes


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


class RMSNormFromOne(nn.Module):
    """:class:`RMSNorm` whose scale is kept less one, as Gemma keeps it.

    Half precision has more digits of small numbers than of those near one.

    Attributes:
        epsilon: What is added to the mean square.
        dtype: Dtype of what comes out; ``None`` promotes input and scale.
        param_dtype: Dtype of the scale.

    Parameters: ``scale (d,)``, zeros; what is normalised is multiplied with ``1 + scale``.

    Example:
        >>> norm, x = RMSNormFromOne(), jnp.array([3.0, 4.0])
        >>> plain = RMSNorm().apply({"params": {"scale": jnp.array([1.5, 0.5])}}, x)
        >>> found = norm.apply({"params": {"scale": jnp.array([0.5, -0.5])}}, x)
        >>> bool(jnp.all(found == plain))
        True
    """

    epsilon: float = 1e-6
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Normalise the last axis of ``x``."""
        scale = self.param("scale", nn.initializers.zeros, (x.shape[-1],), self.param_dtype)
        dtype = jnp.result_type(x, scale) if self.dtype is None else self.dtype
        wide = accumulation_dtype(dtype)
        unit = RMSNorm(self.epsilon, dtype=wide, use_scale=False)(x.astype(wide))
        return (unit * with_leading_axes(scale_from_one(scale), unit.ndim)).astype(dtype)


class FrozenBatchNorm(nn.Module):
    """Batch norm with statistics of its training: an affine map of each feature.

    Attributes:
        epsilon: What is added to the variance.
        param_dtype: Dtype of the parameters.

    Parameters: ``scale``, ``bias``, ``mean`` and ``var``, shape ``(d,)`` each; what comes out is
    ``(x - mean) / sqrt(var + epsilon) * scale + bias``.

    Example:
        >>> norm, x = FrozenBatchNorm(), jnp.array([3.0, 4.0])
        >>> statistics = {"mean": jnp.array([1.0, 4.0]), "var": jnp.array([4.0, 1.0])}
        >>> params = {"scale": jnp.ones(2), "bias": jnp.ones(2), **statistics}
        >>> print(norm.apply({"params": params}, x).round(3))
        [2. 1.]

    Reference:
        Ioffe and Szegedy, "Batch Normalization" (ICML 2015), as it is at inference.
    """

    epsilon: float = 1e-5
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Map the last axis of ``x``."""
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        starts = {"scale": ones, "bias": zeros, "mean": zeros, "var": ones}
        params = {
            name: self.param(name, start, (x.shape[-1],), self.param_dtype)
            for name, start in starts.items()
        }
        dtype = jnp.result_type(x, params["scale"])
        x = x.astype(accumulation_dtype(dtype))
        mean, bias, scale = (
            with_leading_axes(part, x.ndim)
            for part in (params["mean"], params["bias"], frozen_scale(params, self.epsilon))
        )
        return ((x - mean) * scale + bias).astype(dtype)


def frozen_scale(params: Mapping[str, Array], eps: float) -> Float[Array, " d"]:
    """What :class:`FrozenBatchNorm` multiplies each feature with; in at least single precision."""
    var = jnp.asarray(params["var"], accumulation_dtype(params["var"]))
    return params["scale"] * jax.lax.rsqrt(var + eps)


def scale_from_one(scale: Float[Array, " d"]) -> Float[Array, " d"]:
    """What :class:`RMSNormFromOne` multiplies with; in at least single precision."""
    return 1 + jnp.asarray(scale, accumulation_dtype(scale))


def inner_norm(eps: float, param_dtype: Dtype) -> LayerNorm:
    """The LayerNorm inside of a layer, before its last linear map: ``inner_norm`` of its parameters."""
    check_number("inner_norm_eps", eps, above=0.0)
    return LayerNorm(epsilon=eps, use_fast_variance=False, param_dtype=param_dtype, name="inner_norm")


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
