"""Swin Transformer: Pre-LN blocks that attend inside windows, shifted in every other block."""

import dataclasses
from typing import Any

import flax.linen as nn
from flax import struct
from jaxtyping import Array, Float

from poolax import codec
from poolax._activations import activation_from_name
from poolax._checks import check_number
from poolax._layer_specs import FeedForwardSpec, LayerSpec
from poolax.attention import MultiHeadAttention
from poolax.backbones import _layers
from poolax.backbones._windows import (
    PatchEmbedding,
    WindowBackbone,
    WindowBlock,
    WindowConfig,
    window_attention_spec,
)
from poolax.blocks import FeedForward

# Norms of patches and of merged tokens keep this, whatever the configuration says of the others.
_OUTER_EPS = 1e-5


@codec.register("backbone", "swin")
@dataclasses.dataclass(frozen=True)
class SwinConfig(WindowConfig):
    """Sizes and switches of a Swin Transformer; the default is Swin-T.

    Attributes:
        image_size: Height and width of the images in pixels.
        patch_size: Height and width of a patch; divides ``image_size``.
        num_channels: Colour channels.
        width: Width ``d`` of the tokens in the first stage; each further stage doubles it.
        depths: Number of blocks of each stage.
        num_heads: Attention heads of each stage; each divides the width of its stage.
        window_size: Height and width of a window in tokens; a smaller grid is one window.
        mlp_ratio: Width of the feed-forward layers over that of the tokens.
        use_qkv_bias: Biases on queries, keys and values.
        use_positions: Learned positions added to the embeddings.
        activation: Name of the activation.
        norm_eps: What the LayerNorm of blocks and of the output adds to the variance.
    """

    use_qkv_bias: bool = True
    use_positions: bool = False
    activation: str = "gelu"
    norm_eps: float = 1e-5

    def __post_init__(self):
        """Refuse sizes that do not fit."""
        super().__post_init__()
        check_number("norm_eps", self.norm_eps, above=0.0)
        activation_from_name(self.activation)


class SwinBlock(WindowBlock):
    """Pre-LN block that attends inside windows.

    Parameters: ``attention``, ``relative_bias ((2 window - 1)**2, H)``, ``ffn``, ``norm1``, ``norm2``.
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch n d"],
        mask: None = None,
        bias: None = None,
        return_weights: bool = False,
    ) -> Any:
        """Map the tokens of a square grid to tokens."""
        del mask, bias
        mixed, weights = self.attend(self.norm1(x), return_weights)
        x = x + mixed
        x = x + self.ffn(self.norm2(x))
        return (x, weights) if return_weights else x


@struct.dataclass
class Swin(WindowBackbone):
    """Swin Transformer.

    Inputs are preprocessed images, ``(*batch, image_size, image_size, num_channels)``, without a mask,
    which has no meaning for tokens that are merged. Tokens stand row by row, a quarter of them from one
    stage to the next; ``layer=k`` is what comes out of stage ``k``, merged. ``weights`` are those of
    every block, ``(*batch, windows, H, m, m)`` with ``m`` tokens in a window.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> config = SwinConfig(16, 2, width=8, depths=(2, 1), num_heads=(1, 2), window_size=4)
        >>> swin = Swin.init(config, jax.random.key(0))
        >>> swin(jnp.zeros((3, 16, 16, 3))).states.shape
        (3, 16, 16)

    Reference:
        Liu et al., "Swin Transformer" (ICCV 2021).
    """

    def embedding(self) -> nn.Module:
        """See :class:`WindowBackbone`."""
        return PatchEmbedding(
            self.config, self.merge_norm(), use_positions=self.config.use_positions, parent=None
        )

    def block(self, stage: int, index: int) -> WindowBlock:
        """See :class:`WindowBackbone`."""
        config = self.config
        attention = MultiHeadAttention(
            config.num_heads[stage], use_bias=config.use_qkv_bias, use_out_bias=True, parent=None
        )
        activation = activation_from_name(config.activation)
        ffn = FeedForward(config.mlp_dim(stage), activation, use_bias=True, parent=None)
        return SwinBlock(
            attention,
            ffn,
            self.final_norm(),
            self.final_norm(),
            window=config.window(stage),
            shift=config.shift(stage, index),
        )

    def merge_norm(self) -> nn.Module:
        """See :class:`WindowBackbone`."""
        return _layers.layer_norm(_OUTER_EPS)

    def final_norm(self) -> nn.Module:
        """See :class:`WindowBackbone`."""
        return _layers.layer_norm(self.config.norm_eps)

    def block_specs(self, name, block, params, *, padded) -> list[LayerSpec]:
        """See :class:`WindowBackbone`."""
        branches = (
            ("attention", window_attention_spec(block, params, padded), "norm1"),
            ("ffn", FeedForwardSpec(params["ffn"], block.ffn.activation), "norm2"),
        )
        return [
            LayerSpec(
                name=f"{name}/{part}",
                branch=branch,
                norm_before=_layers.norm_spec(getattr(block, norm), params[norm]),
            )
            for part, branch, norm in branches
        ]
