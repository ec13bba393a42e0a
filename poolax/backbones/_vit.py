"""Vision Transformers: patches, tokens in front of them, and Pre-LN blocks."""

import dataclasses
import math
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, PyTree

from poolax._activations import activation_from_name
from poolax._checks import broadcast_mask
from poolax._numerics import with_leading_axes
from poolax._patches import patchify
from poolax.attention import MultiHeadAttention, PatchRotary
from poolax.backbones import _layers
from poolax.backbones._base import BlockBackbone
from poolax.backbones._grids import offset_bias, patch_grid, resize_table
from poolax.backbones._vit_config import ViTConfig
from poolax.blocks import FeedForward, GatedFeedForward, PreLNBlock


class _Embeddings(nn.Module):
    config: ViTConfig
    norm: nn.Module | None

    @nn.compact
    def __call__(self, images, grid, hidden=None):
        config = self.config
        init = nn.initializers.normal(0.02)
        project = nn.Dense(config.width, use_bias=config.use_patch_bias, name="patch")
        tokens = project(patchify(images, config.patch_size))
        if config.use_mask_token:
            mask_token = self.param("mask_token", init, (config.width,))
            if hidden is not None:
                tokens = jnp.where(
                    hidden[..., None], with_leading_axes(mask_token, tokens.ndim), tokens
                )
        prefix = []
        if config.use_cls_token:
            prefix.append(self.param("cls_token", init, (1, config.width)))
        if config.num_registers:
            prefix.append(self.param("registers", init, (config.num_registers, config.width)))
        if prefix:
            rows = jnp.concatenate(prefix).astype(tokens.dtype)
            rows = jnp.broadcast_to(rows, (*tokens.shape[:-2], *rows.shape))
            tokens = jnp.concatenate([rows, tokens], axis=-2)
        if config.use_positions:
            first, last = config.num_positioned, config.num_prefix - config.num_positioned
            shape = (first + config.num_patches, config.width)
            position = self.param("position", init, shape)
            patches = resize_table(position[first:], config.grid, grid, config.interpolation)
            without = jnp.zeros((last, config.width), position.dtype)
            position = jnp.concatenate([position[:first], without, patches])
            tokens = tokens + with_leading_axes(position, tokens.ndim)
        return tokens if self.norm is None else self.norm(tokens)


def _embeddings(config):
    norm = _layers.layer_norm(config.norm_eps) if config.use_embedding_norm else None
    return _Embeddings(config, norm, parent=None)


_SHARED = "shared"


def _tables_of_offsets(config):
    """Names of the tables in the order of the blocks, then of the one that all have in common."""
    own = range(config.num_layers) if config.use_relative_bias else ()
    shared = [_SHARED] if config.use_shared_relative_bias else []
    return [*map(_layers.block_name, own), *shared]


@struct.dataclass
class ViT(BlockBackbone):
    """Vision Transformer: Pre-LN blocks on patches, with learned or rotary positions.

    One class for the families that differ by switches: ViT, DeiT, MAE, MSN, BEiT, DINOv2 and DINOv3,
    EVA and EVA-02, the vision towers of CLIP and SigLIP.

    Inputs are preprocessed images, ``(*batch, height, width, num_channels)``, of any size from one
    patch on; what is left over at right and bottom is not seen. Tokens in front are CLS, if there is
    one, and registers; then come the patches row by row.

    Attributes:
        grid: Rows and columns of patches of the embeddings that :meth:`encode` takes, which rotary
            positions and relative biases count; ``None`` for a square. :meth:`apply` knows them from
            the images.

    Parameters besides those of :class:`BlockBackbone`: with relative biases ``encoder/relative_bias``,
    tables ``((2 rows - 1) (2 columns - 1) + 3, H)`` by the name of a block, or ``shared``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> config = ViTConfig(8, 2, 1, width=16, num_layers=2, num_heads=2, mlp_dim=32)
        >>> vit = ViT.init(config, jax.random.key(0))
        >>> vit(jnp.zeros((3, 8, 8, 1))).states.shape
        (3, 17, 16)
        >>> vit(jnp.zeros((3, 4, 10, 1))).states.shape
        (3, 11, 16)

    Reference:
        Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021); Oquab et al., "DINOv2"
        (TMLR 2024); Darcet et al., "Vision Transformers Need Registers" (ICLR 2024).
    """

    modality: ClassVar[str] = "vision"

    grid: tuple[int, int] | None = struct.field(pytree_node=False, default=None)

    @property
    def summary_token(self) -> str:  # type: ignore[override]
        """``"first"`` where there is a CLS token."""
        return "first" if self.config.use_cls_token else "last"

    @property
    def num_prefix(self) -> int:  # type: ignore[override]
        """Number of tokens in front that stand for no part of the image."""
        return self.config.num_prefix

    @classmethod
    def init_embeddings(cls, config, key):
        """See :meth:`BlockBackbone.init_embeddings`."""
        images = jnp.zeros((1, config.image_size, config.image_size, config.num_channels))
        return _embeddings(config).init(key, images, config.grid)["params"]

    def block(self, index: int) -> nn.Module:
        """See :meth:`BlockBackbone.block`."""
        del index
        config = self.config
        rotary = None
        if config.rotary_theta is not None:
            rotary = PatchRotary(
                config.rotary_theta, config.num_prefix, self.grid, counted_to=config.rotary_grid
            )
        attention = MultiHeadAttention(
            config.num_heads,
            rotary=rotary,
            use_bias=config.use_qkv_bias,
            use_out_bias=config.use_out_bias,
            inner_norm_eps=config.norm_eps if config.use_attention_norm else None,
            parent=None,
        )
        layer, inner = FeedForward, {}
        if config.use_gate:
            layer = GatedFeedForward
            inner = {"inner_norm_eps": config.norm_eps if config.use_mlp_norm else None}
        activation = activation_from_name(config.activation)
        ffn = layer(config.mlp_dim, activation, use_bias=config.use_mlp_bias, parent=None, **inner)
        first, second = (_layers.layer_norm(config.norm_eps) for _ in range(2))
        return PreLNBlock(attention, ffn, first, second, config.layer_scale)

    @property
    def final_norm(self) -> nn.Module | None:
        """See :class:`BlockBackbone`."""
        return _layers.layer_norm(self.config.norm_eps) if self.config.use_final_norm else None

    @classmethod
    def init(cls, config: Any, key: Array, preprocess: Any = None) -> Self:
        """See :meth:`BlockBackbone.init`."""
        model = super().init(config, key, preprocess)
        names = _tables_of_offsets(config)
        if not names:
            return model
        shape = (math.prod(2 * side - 1 for side in config.grid) + 3, config.num_heads)
        keys = jax.random.split(jax.random.fold_in(key, 1), len(names))
        tables = {
            name: 0.02 * jax.random.normal(own, shape) for name, own in zip(names, keys, strict=True)
        }
        encoder = {**model.params["encoder"], "relative_bias": tables}
        return dataclasses.replace(model, params={**model.params, "encoder": encoder})

    def logit_bias(self, params: PyTree, num_tokens: int) -> Float[Array, "*layers H n n"] | None:
        """See :meth:`BlockBackbone.logit_bias`; by the offsets between patches."""
        config = self.config
        names = _tables_of_offsets(config)
        if not names:
            return None
        side = math.isqrt(num_tokens - 1)
        grid = self.grid or (side, side)
        if grid[0] * grid[1] != num_tokens - 1:
            raise ValueError(
                f"embeddings: expected CLS and {grid[0]} x {grid[1]} patches, got n = {num_tokens}"
            )
        tables = params["encoder"]["relative_bias"]
        found = {name: offset_bias(tables[name], config.grid, grid) for name in names}
        shared = found.pop(_SHARED, None)
        if not found:
            return shared
        own = jnp.stack(list(found.values()))
        return own if shared is None else own + shared[None]

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
            mask: True at real tokens, those in front first, broadcastable to ``(*batch, n)``; ``None``
                if all are real.
            hidden: Patches to replace by the mask token, for pretraining.

        Returns:
            Embeddings, shape ``(*batch, num_prefix + patches, d)``, and the mask.

        Raises:
            ValueError: for a wrong shape or dtype, images smaller than a patch, non-finite pixels, or
                hidden patches in a model without a mask token.
        """
        config = self.config
        grid = patch_grid(config, inputs)
        if hidden is not None and not config.use_mask_token:
            raise ValueError("hidden: expected None for a model without a mask token, got an array")
        mask = broadcast_mask(mask, (*inputs.shape[:-3], config.num_prefix + grid[0] * grid[1]))
        variables = {"params": params["embeddings"]}
        embeddings: Any = _embeddings(config).apply(variables, inputs, grid, hidden)
        return embeddings, mask

    def describe_positions(self, shape: tuple[int, ...]) -> str | None:
        """See :meth:`Backbone.describe_positions`; they are interpolated for images of another size."""
        config = self.config
        new = tuple(side // config.patch_size for side in shape[-3:-1])
        has_offsets = config.use_relative_bias or config.use_shared_relative_bias
        if len(new) < 2 or new == config.grid or not (config.use_positions or has_offsets):
            return None
        (rows, columns), (stored, _) = new, config.grid
        how = config.interpolation if config.use_positions else "bilinear"
        return f"{how} from {stored} x {stored} to {rows} x {columns} patches"

    def apply(self, params, inputs, mask=None, *, layer=-1, return_weights=False):
        """See :meth:`Backbone.apply`."""
        embeddings, mask = self.embed(params, inputs, mask)
        there = dataclasses.replace(self, grid=patch_grid(self.config, inputs))
        return there.encode(params, embeddings, mask, layer=layer, return_weights=return_weights)
