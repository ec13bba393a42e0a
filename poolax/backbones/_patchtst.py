"""PatchTST: patches of a scaled series through an encoder with batch norms or layer norms."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from poolax import codec
from poolax._activations import activation_from_name
from poolax._checks import (
    broadcast_mask,
    check_choice,
    check_count,
    check_divides,
    check_finite,
    check_floating,
    check_number,
)
from poolax._norms import FrozenBatchNorm
from poolax._numerics import accumulation_dtype, with_leading_axes
from poolax.attention import MultiHeadAttention
from poolax.backbones._base import BlockBackbone
from poolax.backbones._layers import layer_norm
from poolax.blocks import FeedForward, PostLNBlock, PreLNBlock

# What the scalers of the reference add to a variance, and the least they divide by.
_ADDED_TO_VARIANCE, _LEAST_MEAN = 1e-5, 1e-10


@codec.register("backbone", "patchtst")
@dataclasses.dataclass(frozen=True)
class PatchTSTConfig:
    """Sizes and switches of a PatchTST.

    Attributes:
        num_steps: Steps of a series.
        patch_len: Steps of a patch, fewer than ``num_steps``.
        patch_stride: Steps from one patch to the next; what they leave over at the start is not read.
        num_channels: Channels of a series, which count only where each has embeddings of its own.
        width: Width ``d`` of the tokens.
        num_layers: Number of blocks.
        num_heads: Attention heads; divides ``width``.
        mlp_dim: Width of the feed-forward layers.
        activation: Name of the activation.
        norm: ``"batch"``, with statistics of the training, or ``"layer"``.
        norm_eps: What norms add to the variance.
        norm_first: Pre-LN blocks; otherwise Post-LN.
        use_mlp_bias: Biases on the feed-forward layers.
        use_cls: A CLS token in front of each channel's patches.
        scaling: ``"std"``: series less their mean, over their deviation; ``"mean"``: over their mean
            size; ``"none"``.
        share_embedding: Whether all channels are embedded by one linear layer.
    """

    num_steps: int = 32
    patch_len: int = 1
    patch_stride: int = 1
    num_channels: int = 1
    width: int = 128
    num_layers: int = 3
    num_heads: int = 4
    mlp_dim: int = 512
    activation: str = "gelu"
    norm: str = "batch"
    norm_eps: float = 1e-5
    norm_first: bool = True
    use_mlp_bias: bool = True
    use_cls: bool = False
    scaling: str = "std"
    share_embedding: bool = True

    def __post_init__(self):
        """Refuse sizes that do not fit."""
        sizes = ("patch_len", "patch_stride", "num_channels", "width", "num_layers", "num_heads")
        for field in (*sizes, "mlp_dim"):
            check_count(field, getattr(self, field))
        check_count("num_steps", self.num_steps, at_least=self.patch_len + 1)
        check_divides("num_heads", self.num_heads, "width", self.width)
        check_choice("norm", self.norm, ("batch", "layer"))
        check_number("norm_eps", self.norm_eps, above=0.0)
        check_choice("scaling", self.scaling, ("std", "mean", "none"))
        activation_from_name(self.activation)

    @property
    def num_patches(self) -> int:
        """Number of patches of a series."""
        return (self.num_steps - self.patch_len) // self.patch_stride + 1


@struct.dataclass
class PatchTST(BlockBackbone):
    """Encoder of time series, channel by channel: patches, learned or sinusoidal positions, blocks.

    Inputs are series of one length, ``(*batch, steps)``; channels are series of their own and stand
    among the batch axes, as the last of them where each has embeddings of its own. A series is scaled
    by what of it is observed and cut into patches, each of which is a token. Steps that are not
    observed are zero before they are scaled, and a patch without an observed step is no real token: the
    reference lets others see such patches.

    Parameters of ``embeddings``: ``value``, or ``value_0``, ``value_1``, … of the channels,
    ``position (rows, d)`` and ``cls (d,)``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> config = PatchTSTConfig(16, 4, 4, width=8, num_layers=2, num_heads=2, mlp_dim=16)
        >>> patchtst = PatchTST.init(config, jax.random.key(0))
        >>> patchtst(jnp.sin(jnp.arange(16.0)) * jnp.ones((5, 3, 1))).states.shape
        (5, 3, 4, 8)

    Reference:
        Nie et al., "A Time Series is Worth 64 Words: Long-term Forecasting with Transformers" (ICLR
        2023).
    """

    modality: ClassVar[str] = "series"

    @property
    def summary_token(self) -> str:  # type: ignore[override]
        """``"first"`` where there is a CLS token."""
        return "first" if self.config.use_cls else "last"

    @property
    def num_prefix(self) -> int:  # type: ignore[override]
        """Number of tokens in front that stand for no part of the series."""
        return int(self.config.use_cls)

    @property
    def norm_first(self) -> bool:  # type: ignore[override]
        """Whether blocks are Pre-LN."""
        return self.config.norm_first

    @classmethod
    def init_embeddings(cls, config, key):
        """See :meth:`BlockBackbone.init_embeddings`."""
        *keys, position_key, cls_key = jax.random.split(key, config.num_channels + 2)
        layer = nn.Dense(config.width, parent=None)
        found = {
            name: layer.init(own, jnp.zeros((1, config.patch_len)))["params"]
            for name, own in zip(_value_names(config), keys, strict=False)
        }
        rows = config.num_patches + int(config.use_cls)
        found["position"] = 0.02 * jax.random.normal(position_key, (rows, config.width))
        if config.use_cls:
            found["cls"] = 0.02 * jax.random.normal(cls_key, (config.width,))
        return found

    def block(self, index: int) -> nn.Module:
        """See :meth:`BlockBackbone.block`."""
        del index
        config = self.config
        attention = MultiHeadAttention(config.num_heads, use_bias=True, parent=None)
        activation = activation_from_name(config.activation)
        ffn = FeedForward(config.mlp_dim, activation, use_bias=config.use_mlp_bias, parent=None)
        block = PreLNBlock if config.norm_first else PostLNBlock
        return block(attention, ffn, _norm(config), _norm(config))

    def embed(
        self,
        params,
        inputs: Float[Array, "*batch steps"],
        mask: Bool[Array, "*#batch steps"] | None = None,
    ):
        """Series to embeddings with positions.

        Args:
            params: Parameters.
            inputs: Series, shape ``(*batch, steps)``.
            mask: True at observed steps, broadcastable to ``(*batch, steps)``; ``None`` if all are.

        Returns:
            Embeddings, shape ``(*batch, n, d)``, and the mask of the tokens, ``None`` without
            ``mask``.

        Raises:
            ValueError: for a wrong shape or dtype, another number of steps or channels, or observed
                steps that are not finite.
        """
        config, tables = self.config, params["embeddings"]
        shape = self._check_shape(inputs)
        mask = broadcast_mask(mask, shape)
        check_finite("inputs", inputs, mask)
        x = jnp.asarray(inputs) if mask is None else jnp.where(mask, inputs, 0)
        x = _scaled(x.astype(accumulation_dtype(x)), mask, config.scaling)
        tokens = self._values(tables, _cut(x, config))
        position, seen = tables["position"], None
        if mask is not None:
            seen = jnp.any(_cut(mask, config), axis=-1)
        if config.use_cls:
            cls = jnp.broadcast_to(tables["cls"] + position[0], (*shape[:-1], 1, config.width))
            tokens = tokens + with_leading_axes(position[1:], tokens.ndim)
            tokens = jnp.concatenate([cls.astype(tokens.dtype), tokens], axis=-2)
            if seen is not None:
                seen = jnp.concatenate([jnp.ones((*shape[:-1], 1), bool), seen], axis=-1)
        else:
            tokens = tokens + with_leading_axes(position, tokens.ndim)
        return tokens, seen

    def _values(self, tables, patches):
        def linear(name, x):
            layer: Any = nn.Dense(self.config.width, parent=None)
            return layer.apply({"params": tables[name]}, x)

        names = _value_names(self.config)
        if self.config.share_embedding:
            return linear(names[0], patches)
        return jnp.stack(
            [linear(name, patches[..., index, :, :]) for index, name in enumerate(names)], axis=-3
        )

    def _check_shape(self, inputs):
        config, shape = self.config, np.shape(inputs)
        channels = () if config.share_embedding else (config.num_channels,)
        wanted = (*channels, config.num_steps)
        if shape[len(shape) - len(wanted) :] != wanted or len(shape) < len(wanted):
            listed = ", ".join(map(str, wanted))
            raise ValueError(f"inputs: expected shape (*batch, {listed}), got {shape}")
        check_floating("inputs", inputs)
        return shape


def _norm(config):
    if config.norm == "layer":
        return layer_norm(config.norm_eps)
    return FrozenBatchNorm(config.norm_eps, parent=None)


def _value_names(config):
    if config.share_embedding:
        return ("value",)
    return tuple(f"value_{index}" for index in range(config.num_channels))


def _cut(steps, config):
    """Patches of steps, the last of which ends with them: (*batch, steps) to (*batch, n, patch_len)."""
    last = config.num_steps - 1 - config.patch_stride * np.arange(config.num_patches)[::-1]
    return steps[..., last[:, None] - np.arange(config.patch_len)[::-1]]


def _scaled(x, mask, scaling):
    """Series scaled by their observed steps; the others are zero in ``x``."""
    if scaling == "none":
        return x
    observed = jnp.ones(x.shape, bool) if mask is None else mask
    count = jnp.maximum(jnp.sum(observed, axis=-1, keepdims=True), 1)
    if scaling == "mean":
        mean_size = jnp.sum(jnp.abs(x), axis=-1, keepdims=True) / count
        return x / jnp.maximum(mean_size, _LEAST_MEAN)
    mean = jnp.sum(x, axis=-1, keepdims=True) / count
    squares = jnp.where(observed, jnp.square(x - mean), 0)
    variance = jnp.sum(squares, axis=-1, keepdims=True) / count
    return (x - mean) / jnp.sqrt(variance + _ADDED_TO_VARIANCE)
