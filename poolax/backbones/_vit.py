"""Vision Transformer: patches and a CLS token through Pre-LN blocks."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from poolax import codec
from poolax._activations import activation_from_name
from poolax._checks import (
    broadcast_mask,
    check_count,
    check_divides,
    check_finite,
    check_floating,
    check_number,
)
from poolax._numerics import with_leading_axes
from poolax._patches import patchify
from poolax.attention import MultiHeadAttention
from poolax.backbones import _layers
from poolax.backbones._base import BlockBackbone
from poolax.blocks import FeedForward, PreLNBlock


@codec.register("backbone", "vit")
@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Sizes of a Vision Transformer.

    Attributes:
        image_size: Height and width of the images in pixels.
        patch_size: Height and width of a patch; divides ``image_size``.
        num_channels: Colour channels.
        width: Width ``d`` of the tokens.
        num_layers: Number of blocks.
        num_heads: Attention heads; divides ``width``.
        mlp_dim: Width of the feed-forward layers.
        norm_eps: What LayerNorm adds to the variance.
        use_mask_token: Whether there is a token that stands in for hidden patches, for pretraining.
        use_qkv_bias: Biases on queries, keys and values.
        activation: Name of the activation.
    """

    image_size: int
    patch_size: int
    num_channels: int
    width: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    norm_eps: float = 1e-12
    use_mask_token: bool = False
    use_qkv_bias: bool = True
    activation: str = "gelu"

    def __post_init__(self):
        """Refuse sizes that do not fit."""
        for field in ("image_size", "patch_size", "num_channels", "width", "num_layers", "mlp_dim"):
            check_count(field, getattr(self, field))
        check_count("num_heads", self.num_heads)
        check_divides("patch_size", self.patch_size, "image_size", self.image_size)
        check_divides("num_heads", self.num_heads, "width", self.width)
        check_number("norm_eps", self.norm_eps, above=0.0)
        activation_from_name(self.activation)

    @property
    def num_patches(self) -> int:
        """Number of patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def patch_dim(self) -> int:
        """Number of values in a patch."""
        return self.patch_size**2 * self.num_channels


def check_images(config: Any, inputs: Float[Array, "*batch h w c"]) -> None:
    """Refuse anything but finite images of the configuration's size.

    Args:
        config: With ``image_size`` and ``num_channels``.
        inputs: Images.

    Raises:
        ValueError: for a wrong shape or dtype, or values that are not finite.
    """
    check_floating("inputs", inputs)
    expected = (config.image_size, config.image_size, config.num_channels)
    if jnp.shape(inputs)[-3:] != expected:
        raise ValueError(f"inputs: expected shape {('*batch', *expected)}, got {jnp.shape(inputs)}")
    check_finite("inputs", inputs)


class _Embeddings(nn.Module):
    config: ViTConfig

    @nn.compact
    def __call__(self, images, hidden=None):
        config = self.config
        init = nn.initializers.normal(0.02)
        tokens = nn.Dense(config.width, name="patch")(patchify(images, config.patch_size))
        if config.use_mask_token:
            mask_token = self.param("mask_token", init, (config.width,))
            if hidden is not None:
                tokens = jnp.where(
                    hidden[..., None], with_leading_axes(mask_token, tokens.ndim), tokens
                )
        cls = self.param("cls_token", init, (1, config.width))
        cls = jnp.broadcast_to(cls, (*tokens.shape[:-2], 1, config.width))
        tokens = jnp.concatenate([cls.astype(tokens.dtype), tokens], axis=-2)
        position = self.param("position", init, (config.num_patches + 1, config.width))
        return tokens + with_leading_axes(position, tokens.ndim)


@struct.dataclass
class ViT(BlockBackbone):
    """Vision Transformer with a CLS token, learned positions and Pre-LN blocks.

    Inputs are preprocessed images, ``(*batch, image_size, image_size, num_channels)``; token 0 is
    CLS, then the patches row by row.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> config = ViTConfig(8, 2, 1, width=16, num_layers=2, num_heads=2, mlp_dim=32)
        >>> vit = ViT.init(config, jax.random.key(0))
        >>> vit(jnp.zeros((3, 8, 8, 1))).states.shape
        (3, 17, 16)

    Reference:
        Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021).
    """

    summary_token: ClassVar[str] = "first"
    modality: ClassVar[str] = "vision"
    num_prefix: ClassVar[int] = 1

    @classmethod
    def init_embeddings(cls, config, key):
        """See :meth:`BlockBackbone.init_embeddings`."""
        images = jnp.zeros((1, config.image_size, config.image_size, config.num_channels))
        return _Embeddings(config).init(key, images)["params"]

    def block(self, index: int) -> nn.Module:
        """See :meth:`BlockBackbone.block`."""
        del index
        config = self.config
        attention = MultiHeadAttention(
            config.num_heads, use_bias=config.use_qkv_bias, use_out_bias=True, parent=None
        )
        activation = activation_from_name(config.activation)
        ffn = FeedForward(config.mlp_dim, activation, use_bias=True, parent=None)
        return PreLNBlock(attention, ffn, self.final_norm, self.final_norm)

    @property
    def final_norm(self) -> nn.Module:
        """See :class:`BlockBackbone`."""
        return _layers.layer_norm(self.config.norm_eps)

    def embed(
        self,
        params,
        inputs: Float[Array, "*batch h w c"],
        mask: Bool[Array, "*#batch n"] | None = None,
        *,
        hidden: Bool[Array, "*batch patches"] | None = None,
    ):
        """Images to embeddings with positions.

        Args:
            params: Parameters.
            inputs: Preprocessed images.
            mask: True at real tokens (CLS first), broadcastable to ``(*batch, n)``; ``None`` if all
                are real.
            hidden: Patches to replace by the mask token, for pretraining.

        Returns:
            Embeddings, shape ``(*batch, 1 + patches, d)``, and the mask.

        Raises:
            ValueError: for a wrong shape or dtype, non-finite pixels, or hidden patches in a model
                without a mask token.
        """
        config = self.config
        check_images(config, inputs)
        if hidden is not None and not config.use_mask_token:
            raise ValueError("hidden: expected None for a model without a mask token, got an array")
        mask = broadcast_mask(mask, (*inputs.shape[:-3], config.num_patches + 1))
        variables = {"params": params["embeddings"]}
        return _Embeddings(config).apply(variables, inputs, hidden), mask
