"""Transformer blocks: CenterNorm, feed-forward, Post-LN and Pre-LN, and the theoretical model."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float

from poolax import codec
from poolax._checks import (
    broadcast_mask,
    check_center_norm_width,
    check_count,
    check_finite,
    check_instance,
    check_result,
    check_tokens,
)
from poolax._norms import LayerNorm, RMSNorm, centred, inner_norm
from poolax._numerics import accumulation_dtype, with_leading_axes, zero_masked
from poolax._typing import AnyArray
from poolax.attention import DotProduct, Kind, MultiHeadAttention
from poolax.pooling import Pooler

__all__ = (
    "TBM",
    "CenterNorm",
    "FeedForward",
    "GatedFeedForward",
    "LayerNorm",
    "PostLNBlock",
    "PreLNBlock",
    "RMSNorm",
)


class CenterNorm(nn.Module):
    r"""Centre each token: ``scale * d / (d - 1) * (x - mean(x)) + bias``.

    Its Lipschitz constant is at most ``max|scale| d / (d - 1)``, with equality for a constant
    scale, where LayerNorm's grows without limit as a token becomes constant.

    Parameters: ``scale (d,)``, ones, and ``bias (d,)``, zeros.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> CenterNorm().apply(
        ...     {"params": {"scale": jnp.ones(2), "bias": jnp.zeros(2)}}, jnp.array([[3.0, 1.0]])
        ... )
        Array([[ 2., -2.]], dtype=float32)

    Reference:
        Qi et al., "LipsFormer" (ICLR 2023), section on CenterNorm.
    """

    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[AnyArray, "*batch d"]) -> Float[Array, "*batch d"]:
        """Centre the last axis of ``x``.

        Raises:
            ValueError: if ``d = 1``, where ``d / (d - 1)`` has no value.
        """
        width = check_center_norm_width(x.shape[-1])
        scale = self.param("scale", nn.initializers.ones, (width,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (width,), self.param_dtype)
        dtype = jnp.result_type(x, scale)
        x = x.astype(accumulation_dtype(x, scale))
        scale, bias = (with_leading_axes(vector, x.ndim) for vector in (scale, bias))
        out = (scale * (width / (width - 1)) * centred(jnp.asarray(x)) + bias).astype(dtype)
        check_result("x", out, "centred token")
        return out


class FeedForward(nn.Module):
    r"""Position-wise feed-forward layer: ``act(x W)``, or ``act(x W_1) W_2`` with a hidden width.

    Attributes:
        hidden_dim: Width of the hidden layer; ``None`` for the single layer of the theoretical
            model.
        activation: ``act``, applied to each entry.
        use_bias: Biases on all layers.
        param_dtype: Dtype of the parameters.

    Parameters: ``kernel (d, d)`` and ``bias``, or ``hidden`` and ``out`` with a kernel and bias
    each.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> layer = FeedForward(hidden_dim=16)
        >>> x = jnp.ones((3, 5, 4))
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (3, 5, 4)
    """

    hidden_dim: int | None = None
    activation: Callable[[Array], Array] = nn.relu
    use_bias: bool = False
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[AnyArray, "*batch d"]) -> Float[Array, "*batch d"]:
        """Apply the layer to the last axis of ``x``."""
        check_instance("activation", self.activation, Callable, "a function of arrays")
        options = {"use_bias": self.use_bias, "param_dtype": self.param_dtype}
        if self.hidden_dim is not None:
            check_count("hidden_dim", self.hidden_dim)
            hidden = self.activation(nn.Dense(self.hidden_dim, name="hidden", **options)(x))
            return nn.Dense(x.shape[-1], name="out", **options)(hidden)
        width = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (width,) * 2, self.param_dtype)
        out = jnp.asarray(x) @ kernel
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (width,), self.param_dtype)
            out = out + with_leading_axes(bias, out.ndim)
        return self.activation(out)


class GatedFeedForward(nn.Module):
    r"""Gated feed-forward layer: ``(act(x W_g) * (x W_h)) W_o``, entry by entry in the middle.

    Attributes:
        hidden_dim: Width of the hidden layer.
        activation: ``act``, applied to each entry.
        use_bias: Biases on all layers.
        param_dtype: Dtype of the parameters.
        inner_norm_eps: A LayerNorm of the product before ``W_o``, as EVA-02 has it: what it adds to the
            variance; ``None`` for none.

    Parameters: ``gate``, ``hidden`` and ``out``, with a kernel and bias each; with ``inner_norm_eps``
    also ``inner_norm``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> layer = GatedFeedForward(hidden_dim=16)
        >>> x = jnp.ones((3, 5, 4))
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (3, 5, 4)

    Reference:
        Shazeer, "GLU Variants Improve Transformer" (2020).
    """

    hidden_dim: int
    activation: Callable[[Array], Array] = nn.silu
    use_bias: bool = False
    param_dtype: Dtype = jnp.float32
    inner_norm_eps: float | None = None

    @nn.compact
    def __call__(self, x: Float[AnyArray, "*batch d"]) -> Float[Array, "*batch d"]:
        """Apply the layer to the last axis of ``x``."""
        check_count("hidden_dim", self.hidden_dim)
        options = {"use_bias": self.use_bias, "param_dtype": self.param_dtype}
        gate = self.activation(nn.Dense(self.hidden_dim, name="gate", **options)(x))
        hidden = gate * nn.Dense(self.hidden_dim, name="hidden", **options)(x)
        if self.inner_norm_eps is not None:
            hidden = inner_norm(self.inner_norm_eps, self.param_dtype)(hidden)
        return nn.Dense(x.shape[-1], name="out", **options)(hidden)


class PostLNBlock(nn.Module):
    """Post-LN Transformer block: ``x = norm1(x + attention(x))``, then ``norm2(x + ffn(x))``.

    Attributes:
        attention: Called with ``(x, mask, bias, return_weights)``, as
            :class:`poolax.attention.MultiHeadAttention` is.
        ffn: Position-wise layer.
        norm1: Norm after the attention.
        norm2: Norm after the feed-forward layer.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> block = PostLNBlock(MultiHeadAttention(2), FeedForward(), CenterNorm(), CenterNorm())
        >>> x = jnp.ones((3, 5, 4))
        >>> block.apply(block.init(jax.random.key(0), x), x).shape
        (3, 5, 4)
    """

    attention: nn.Module
    ffn: nn.Module
    norm1: nn.Module
    norm2: nn.Module

    @classmethod
    def of_tbm(cls, model: "TBM") -> "PostLNBlock":
        """The block of a :class:`TBM`; its parameters are those of the model without its pooler's."""
        return cls(
            MultiHeadAttention(
                model.num_heads, model.attention, use_bias=model.use_bias, name="attention"
            ),
            FeedForward(activation=model.activation, use_bias=model.use_bias, name="ffn"),
            CenterNorm(name="norm1"),
            CenterNorm(name="norm2"),
        )

    @nn.compact
    def __call__(
        self,
        x: Float[AnyArray, "*batch n d"],
        mask: Bool[AnyArray, "*#batch n"] | None = None,
        bias: Float[AnyArray, "*#batch H n n"] | None = None,
        return_weights: bool = False,
    ) -> Any:
        """Map tokens to tokens.

        Args:
            x: Tokens, shape ``(*batch, n, d)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.
            bias: Added to the logits, broadcastable to ``(*batch, H, n, n)``.
            return_weights: Also return the attention, shape ``(*batch, H, n, n)``.

        Returns:
            Shape ``(*batch, n, d)``, and the attention if asked for. What stands at masked
            positions is finite and means nothing.

        Raises:
            ValueError: for a wrong shape, dtype or mask, ``n = 0``, or non-finite real tokens.
        """
        x, mask = _check_block_input(x, mask)
        mixed, weights = _attend(self.attention, x, mask, bias, return_weights)
        x = self.norm1(x + mixed)
        x = self.norm2(x + self.ffn(x))
        check_result("x", x, "block")
        return (x, weights) if return_weights else x


class PreLNBlock(nn.Module):
    """Pre-LN Transformer block: ``x = x + s1 * attention(norm1(x))``, then ``x + s2 * ffn(norm2(x))``.

    Attributes:
        attention: Called with ``(x, mask, bias, return_weights)``, as
            :class:`poolax.attention.MultiHeadAttention` is.
        ffn: Position-wise layer.
        norm1: Norm before the attention; ``None`` for none.
        norm2: Norm before the feed-forward layer.
        out_norm1: Norm of what comes out of the attention, before it is added; ``None`` for none.
        out_norm2: Norm of what comes out of the feed-forward layer; ``None`` for none.
        layer_scale: What the learned scales ``s1`` and ``s2`` start at; ``None`` for none.

    Parameters: those of the four parts and, with layer scale, ``scale1 (d,)`` and ``scale2 (d,)``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> block = PreLNBlock(
        ...     MultiHeadAttention(2), FeedForward(16), LayerNorm(), LayerNorm()
        ... )
        >>> x = jnp.ones((3, 5, 4))
        >>> block.apply(block.init(jax.random.key(0), x), x).shape
        (3, 5, 4)
    """

    attention: nn.Module
    ffn: nn.Module
    norm1: nn.Module | None
    norm2: nn.Module
    layer_scale: float | None = None
    out_norm1: nn.Module | None = None
    out_norm2: nn.Module | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[AnyArray, "*batch n d"],
        mask: Bool[AnyArray, "*#batch n"] | None = None,
        bias: Float[AnyArray, "*#batch H n n"] | None = None,
        return_weights: bool = False,
    ) -> Any:
        """Map tokens to tokens; arguments, result and errors as in :class:`PostLNBlock`."""
        x, mask = _check_block_input(x, mask)
        inner = x if self.norm1 is None else self.norm1(x)
        mixed, weights = _attend(self.attention, inner, mask, bias, return_weights)
        x = x + self._scaled("scale1", mixed if self.out_norm1 is None else self.out_norm1(mixed))
        added = self.ffn(self.norm2(x))
        x = x + self._scaled("scale2", added if self.out_norm2 is None else self.out_norm2(added))
        check_result("x", x, "block")
        return (x, weights) if return_weights else x

    def _scaled(self, name, x):
        if self.layer_scale is None:
            return x
        start = nn.initializers.constant(self.layer_scale)
        return x * with_leading_axes(self.param(name, start, (x.shape[-1],), jnp.float32), x.ndim)


@codec.register("tbm", "tbm", options=("num_heads", "pooler", "attention", "use_bias"))
class TBM(nn.Module):
    r"""The theoretical model of the bounds: one Post-LN block with CenterNorm, then a pooler.

    ``X' = N_1(X + MHA(X))``, ``Z = N_2(X' + act(X' W_FFN))``, ``output = pooler(Z)``.

    Attributes:
        num_heads: Number of attention heads; divides ``d``.
        pooler: Any :class:`poolax.pooling.Pooler`.
        attention: :class:`poolax.attention.DotProduct`, ``L2`` or ``Cosine``.
        activation: ``act``; the bounds know its Lipschitz constant for the usual ones.
        use_bias: Biases in attention and feed-forward layer.

    Parameters: ``attention/{query,key,value,out}``, ``ffn``, ``norm1``, ``norm2`` and, for
    learnable poolers, ``pooler``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from poolax.pooling import AveragePool
        >>> model = TBM(num_heads=2, pooler=AveragePool())
        >>> x = jnp.ones((3, 5, 4))
        >>> model.apply(model.init(jax.random.key(0), x), x).shape
        (3, 4)

    Reference:
        "Pool Me Wisely" (Ennadir et al., NeurIPS 2025), the model of Theorem 4.2.
    """

    num_heads: int
    pooler: Pooler
    attention: Kind = DotProduct()
    activation: Callable[[Array], Array] = nn.relu
    use_bias: bool = False

    @nn.compact
    def __call__(
        self, x: Float[AnyArray, "*batch n d"], mask: Bool[AnyArray, "*#batch n"] | None = None
    ) -> Float[Array, "*batch d"]:
        """Map tokens to one vector.

        Args:
            x: Tokens, shape ``(*batch, n, d)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

        Returns:
            Shape ``(*batch, d)``; zeros for a sequence without real tokens.

        Raises:
            ValueError: for a wrong shape, dtype or mask, ``n = 0``, ``d = 1``, heads that do not
                divide the width, or non-finite real tokens.
        """
        check_instance("pooler", self.pooler, Pooler, "a Pooler")
        x, mask = _check_block_input(x, mask)
        return self.pooler(PostLNBlock.of_tbm(self)(x, mask), mask)


def _attend(attention, x, mask, bias, return_weights):
    out = attention(x, mask, bias, return_weights)
    return out if return_weights else (out, None)


def _check_block_input(x, mask):
    check_tokens("x", x)
    mask = broadcast_mask(mask, x.shape[:-1])
    check_finite("x", x, mask)
    return zero_masked(jnp.asarray(x), mask), mask
