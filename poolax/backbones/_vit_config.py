"""Sizes and switches of Vision Transformers."""

import dataclasses

from poolax import codec
from poolax._activations import activation_from_name
from poolax._checks import (
    check_choice,
    check_count,
    check_divides,
    check_flag,
    check_flag_or_names,
    check_number,
)
from poolax.backbones._grids import INTERPOLATIONS


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
        use_qkv_bias: Biases on queries, keys and values, or on those that are named.
        activation: Name of the activation.
        interpolation: How positions are brought to the grid of patches of images of another size:
            ``"bicubic"`` or ``"bilinear"``, as PyTorch has them, or either with ``"-antialias"``.
        layer_scale: What learned scales of the blocks' branches start at; ``None`` for none.
        use_gate: Gated feed-forward layers.
        use_cls_token: Whether a CLS token stands in front.
        num_registers: Further tokens behind it that stand for no part of the image: registers, or
            DeiT's distillation token.
        use_positions: Learned positions, added to the tokens.
        num_prefix_positions: How many of the tokens in front have one; ``None`` for CLS alone.
        use_patch_bias: Bias on the projection of patches.
        use_embedding_norm: LayerNorm in front of the blocks.
        use_final_norm: LayerNorm behind the blocks.
        use_out_bias: Bias on the output projection of the attention.
        use_mlp_bias: Biases on the feed-forward layers.
        use_attention_norm: LayerNorm of the heads side by side, before their output projection.
        use_mlp_norm: LayerNorm inside of the feed-forward layers, before the last map; of gated ones.
        rotary_theta: Base of rotary positions of the patches; ``None`` for none.
        rotary_grid: Rows and columns as which those of any grid are counted for rotary positions;
            ``None`` for places between -1 and 1.
        use_relative_bias: In each block a bias of the logits by the offset between patches; needs a CLS
            token and no registers.
        use_shared_relative_bias: One that all blocks have in common, the same way.
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
    use_qkv_bias: bool | tuple[str, ...] = True
    activation: str = "gelu"
    interpolation: str = codec.added("bicubic")
    layer_scale: float | None = codec.added(None)
    use_gate: bool = codec.added(False)
    use_cls_token: bool = codec.added(True)
    num_registers: int = codec.added(0)
    use_positions: bool = codec.added(True)
    num_prefix_positions: int | None = codec.added(None)
    use_patch_bias: bool = codec.added(True)
    use_embedding_norm: bool = codec.added(False)
    use_final_norm: bool = codec.added(True)
    use_out_bias: bool = codec.added(True)
    use_mlp_bias: bool = codec.added(True)
    rotary_theta: float | None = codec.added(None)
    rotary_grid: int | None = codec.added(None)
    use_attention_norm: bool = codec.added(False)
    use_mlp_norm: bool = codec.added(False)
    use_relative_bias: bool = codec.added(False)
    use_shared_relative_bias: bool = codec.added(False)

    __repr__ = codec.brief  # type: ignore[assignment]

    def __post_init__(self):
        """Refuse sizes that do not fit."""
        for field in ("image_size", "patch_size", "num_channels", "width", "num_layers", "mlp_dim"):
            check_count(field, getattr(self, field))
        check_count("num_heads", self.num_heads)
        check_count("num_registers", self.num_registers, at_least=0)
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
        for field in dataclasses.fields(self):
            if field.name.startswith("use_") and field.name != "use_qkv_bias":
                check_flag(field.name, getattr(self, field.name))
        check_flag_or_names("use_qkv_bias", self.use_qkv_bias, ("query", "key", "value"))
        if self.use_mlp_norm and not self.use_gate:
            raise ValueError("use_mlp_norm: expected False without use_gate, got True")
        if (self.use_relative_bias or self.use_shared_relative_bias) and self.num_prefix != 1:
            raise ValueError(
                f"use_relative_bias: expected False without CLS alone in front, got {self.num_prefix} "
                "tokens there"
            )
        if self.num_positioned > self.num_prefix:
            raise ValueError(
                f"num_prefix_positions: expected at most the {self.num_prefix} tokens in front, got "
                f"{self.num_prefix_positions}"
            )

    @property
    def num_prefix(self) -> int:
        """Number of tokens in front that stand for no part of the image."""
        return self.use_cls_token + self.num_registers

    @property
    def num_positioned(self) -> int:
        """Number of tokens in front that have a position, the first ones."""
        if self.num_prefix_positions is None:
            return int(self.use_cls_token)
        return self.num_prefix_positions

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches that the positions are stored for."""
        side = self.image_size // self.patch_size
        return side, side

    @property
    def num_patches(self) -> int:
        """Number of patches of an image of ``image_size``."""
        return self.grid[0] * self.grid[1]

    @property
    def patch_dim(self) -> int:
        """Number of values in a patch."""
        return self.patch_size**2 * self.num_channels
