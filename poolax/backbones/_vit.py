"""Vision Transformer: patches and a CLS token through Pre-LN blocks."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from poolax import codec
from poolax._activations import activation_from_name
from poolax._checks import (
    broadcast_mask,
    check_choice,
    check_count,
    check_divides,
    check_number,
)
from poolax._numerics import with_leading_axes
from poolax._patches import patchify
from poolax.attention import MultiHeadAttention
from poolax.backbones import _layers
from poolax.backbones._base import BlockBackbone
from poolax.backbones._grids import INTERPOLATIONS, patch_grid, resize_table
from poolax.blocks import FeedForward, GatedFeedForward, PreLNBlock


@codec.register("backbone", "vit")
@dataclasses.dataclass(frozen=True, repr=False)
class ViTConfig:
    """Sizes and switches of a Vision Transformer.

    Attributes:
        image_size: Height and width in pixels of the images that the positions are stored for; others
            are taken as well, see ``interpolation``.
        patch_size: Height and width of a patch, at most ``image_size``.
        num_channels: Colour channels.
        width: Width ``d`` of the tokens.
        num_layers: Number of blocks.
        num_heads: Attention heads; divides ``width``.
        mlp_dim: Width of the feed-forward layers.
        norm_eps: What LayerNorm adds to the variance.
        use_mask_token: Whether there is a token that stands in for hidden patches, for pretraining.
        use_qkv_bias: Biases on queries, keys and values.
        activation: Name of the activation.
        interpolation: How positions are brought to the grid of patches of images of another size:
            ``"bicubic"`` or ``"bilinear"``, as PyTorch has them, or either with ``"-antialias"``.
        layer_scale: What learned scales of the blocks' branches start at; ``None`` for none.
        use_gate: Gated feed-forward layers.
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
    interpolation: str = codec.added("bicubic")
    layer_scale: float | None = codec.added(None)
    use_gate: bool = codec.added(False)

    __repr__ = codec.brief

    def __post_init__(self):
        """Refuse sizes that do not fit."""
        for field in ("image_size", "patch_size", "num_channels", "width", "num_layers", "mlp_dim"):
            check_count(field, getattr(self, field))
        check_count("num_heads", self.num_heads)
        if self.patch_size > self.image_size:
            raise ValueError(
                f"patch_size: expected at most image_size = {self.image_size}, got {self.patch_size}"
            )
        check_divides("num_heads", self.num_heads, "width", self.width)
        check_number("norm_eps", self.norm_eps, above=0.0)
        activation_from_name(self.activation)
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        if self.layer_scale is not None:
            check_number("layer_scale", self.layer_scale)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches that the positions are stored for."""
        return (self.image_size // self.patch_size,) * 2

    @property
    def num_patches(self) -> int:
        """Number of patches of an image of ``image_size``."""
        return self.grid[0] * self.grid[1]

    @property
    def patch_dim(self) -> int:
        """Number of values in a patch."""
        return self.patch_size**2 * self.num_channels


class _Embeddings(nn.Module):
    config: ViTConfig

    @nn.compact
    def __call__(self, images, grid, hidden=None):
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
        patches = resize_table(position[1:], config.grid, grid, config.interpolation)
        position = jnp.concatenate([position[:1], patches])
        return tokens + with_leading_axes(position, tokens.ndim)


@struct.dataclass
class ViT(BlockBackbone):
    """Vision Transformer with a CLS token, learned positions and Pre-LN blocks.

    Inputs are preprocessed images, ``(*batch, height, width, num_channels)``, of any size from one
    patch on; what is left over at right and bottom is not seen. Token 0 is CLS, then the patches row
    by row.

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
        return _Embeddings(config).init(key, images, config.grid)["params"]

    def block(self, index: int) -> nn.Module:
        """See :meth:`BlockBackbone.block`."""
        del index
        config = self.config
        attention = MultiHeadAttention(
            config.num_heads, use_bias=config.use_qkv_bias, use_out_bias=True, parent=None
        )
        activation = activation_from_name(config.activation)
        layer = GatedFeedForward if config.use_gate else FeedForward
        ffn = layer(config.mlp_dim, activation, use_bias=True, parent=None)
        return PreLNBlock(attention, ffn, self.final_norm, self.final_norm, config.layer_scale)

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
            ValueError: for a wrong shape or dtype, images smaller than a patch, non-finite pixels, or
                hidden patches in a model without a mask token.
        """
        config = self.config
        grid = patch_grid(config, inputs)
        if hidden is not None and not config.use_mask_token:
            raise ValueError("hidden: expected None for a model without a mask token, got an array")
        mask = broadcast_mask(mask, (*inputs.shape[:-3], grid[0] * grid[1] + 1))
        variables = {"params": params["embeddings"]}
        return _Embeddings(config).apply(variables, inputs, grid, hidden), mask
