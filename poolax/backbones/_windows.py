"""What Swin and LipsFormer share: stages of blocks with attention inside windows, and merging."""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, PyTree

from poolax._checks import (
    check_count,
    check_divides,
    check_finite,
    check_floating,
    check_instance,
    check_number,
)
from poolax._layer_specs import AttentionSpec, LayerSpec, MergeSpec
from poolax._patches import patchify
from poolax.backbones import _layers
from poolax.backbones._base import Backbone


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """Sizes of a backbone of stages; see :class:`SwinConfig` for the fields."""

    image_size: int = 224
    patch_size: int = 4
    num_channels: int = 3
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0

    def __post_init__(self):
        """Refuse sizes that do not fit."""
        for field in ("image_size", "patch_size", "num_channels", "width", "window_size"):
            check_count(field, getattr(self, field))
        check_divides("patch_size", self.patch_size, "image_size", self.image_size)
        for field in ("depths", "num_heads"):
            check_instance(field, getattr(self, field), tuple, "a tuple with a number for each stage")
            for number in getattr(self, field):
                check_count(field, number)
        check_count("number of depths", self.num_stages)
        if len(self.num_heads) != self.num_stages:
            raise ValueError(
                f"num_heads: expected {self.num_stages} numbers as in depths, got {self.num_heads}"
            )
        for stage, num_heads in enumerate(self.num_heads):
            check_divides("num_heads", num_heads, f"width of stage {stage}", self.stage_width(stage))
        check_number("mlp_ratio", self.mlp_ratio, above=0.0)
        check_count("mlp_ratio * width", self.mlp_dim(0))

    @property
    def num_stages(self) -> int:
        """Number of stages."""
        return len(self.depths)

    def grid(self, stage: int) -> int:
        """Side of the square grid of tokens in a stage; merging pads an odd side."""
        side = self.image_size // self.patch_size
        for _ in range(stage):
            side = (side + 1) // 2
        return side

    def stage_width(self, stage: int) -> int:
        """Width of the tokens in a stage."""
        return self.width * 2**stage

    def mlp_dim(self, stage: int) -> int:
        """Width of the feed-forward layers in a stage."""
        return int(self.mlp_ratio * self.stage_width(stage))

    def window(self, stage: int) -> int:
        """Side of the windows in a stage, at most that of the grid."""
        return min(self.window_size, self.grid(stage))

    def shift(self, stage: int, index: int) -> int:
        """How far every other block of a stage shifts its windows; 0 where one window is all."""
        return self.window_size // 2 if index % 2 and self.window_size < self.grid(stage) else 0


def partition(x: Float[Array, "*batch h w d"], window: int) -> Float[Array, "*batch windows n d"]:
    """Cut a grid into windows, row by row, each a sequence of ``n = window**2`` tokens."""
    *batch, height, width, dim = x.shape
    rows, columns = height // window, width // window
    # (h, w) to (rows, window, columns, window), and the two axes of windows in front.
    x = jnp.swapaxes(x.reshape(*batch, rows, window, columns, window, dim), -4, -3)
    return x.reshape(*batch, rows * columns, window**2, dim)


def unpartition(windows: Float[Array, "*batch windows n d"]) -> Float[Array, "*batch h w d"]:
    """Put the windows of a square grid back in their places; undoes :func:`partition`."""
    *batch, count, num_tokens, dim = windows.shape
    per_row, window = math.isqrt(count), math.isqrt(num_tokens)
    # (windows, n) to (rows, columns, window, window), and each axis of windows to its side.
    x = windows.reshape(*batch, per_row, per_row, window, window, dim)
    return jnp.swapaxes(x, -4, -3).reshape(*batch, per_row * window, per_row * window, dim)


def window_segments(side: int, window: int, shift: int) -> Int[Array, "windows n"]:
    """Segment of each token after a cyclic shift: windows at the edge hold what never was adjacent."""
    positions = np.arange(side)
    region = (positions >= side - window).astype(int) + (positions >= side - shift)
    # Three regions a side, and each pair of them a number of its own: (side, side).
    segments = jnp.asarray(3 * region[:, None] + region)
    return partition(segments[..., None], window)[..., 0]


def relative_bias(table: Float[Array, "offsets H"], window: int) -> Float[Array, "H n n"]:
    """Biases of the logits of a window from a table with a row for each offset of two tokens."""
    row, column = (
        place[:, None] - place + window - 1 for place in np.divmod(np.arange(window**2), window)
    )
    # Rows of the table by offset: (n, n, H) to (H, n, n).
    return jnp.moveaxis(table[row * (2 * window - 1) + column], -1, 0)


class PatchEmbedding(nn.Module):
    """Linear map of patches, then a norm, then learned positions where there are any.

    Parameters: ``patch`` with a kernel and bias, ``norm`` and, if asked for, ``position (n, d)``.
    """

    config: WindowConfig
    norm: nn.Module
    use_positions: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "*batch h w c"]) -> Float[Array, "*batch n d"]:
        """Images to tokens, row by row."""
        config = self.config
        x = nn.Dense(config.width, name="patch")(patchify(images, config.patch_size))
        x = self.norm(x)
        if not self.use_positions:
            return x
        shape = (config.grid(0) ** 2, config.width)
        return x + self.param("position", nn.initializers.normal(0.02), shape)


class PatchMerging(nn.Module):
    """Four neighbouring tokens side by side, normalised, to one of twice the width.

    Parameters: ``norm (4 d)`` and ``kernel (4 d, 2 d)``.
    """

    norm: nn.Module

    @nn.compact
    def __call__(self, x: Float[Array, "*batch n d"]) -> Float[Array, "*batch m e"]:
        """Merge the tokens of a square grid; one of odd side gets zeros at its right and bottom."""
        x = to_grid(x)
        *batch, side, _, width = x.shape
        x = _pad_grid(x, 2)
        # The row runs faster than the column: four of (*batch, side / 2, side / 2, d).
        parts = [x[..., row::2, column::2, :] for column in (0, 1) for row in (0, 1)]
        x = jnp.concatenate(parts, axis=-1).reshape(*batch, ((side + 1) // 2) ** 2, 4 * width)
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (4 * width, 2 * width))
        return self.norm(x) @ kernel


class WindowBlock(nn.Module):
    """Abstract block that attends inside windows; called as :class:`poolax.blocks.PreLNBlock` is.

    Attributes:
        attention: :class:`poolax.attention.MultiHeadAttention`.
        ffn: Position-wise layer.
        norm1: Norm of the attention.
        norm2: Norm of the feed-forward layer.
        window: Side of a window; at most that of the grid.
        shift: How far the windows are shifted to the right and to the bottom.
    """

    attention: Any
    ffn: Any
    norm1: Any
    norm2: Any
    window: int
    shift: int = 0

    def attend(self, x: Float[Array, "*batch n d"], return_weights: bool) -> tuple[Array, Any]:
        """Attention inside the windows of a square grid of tokens, and its weights or ``None``.

        A grid that windows do not cover evenly gets zeros at its right and bottom, which are seen as
        any token is. Weights have shape ``(*batch, windows, H, window**2, window**2)``.
        """
        shape = ((2 * self.window - 1) ** 2, self.attention.num_heads)
        table = self.param("relative_bias", nn.initializers.normal(0.02), shape)
        bias = relative_bias(table, self.window)
        x = to_grid(x)
        side = x.shape[-2]
        x = _pad_grid(x, self.window)
        segments = None
        if self.shift:
            x = jnp.roll(x, (-self.shift, -self.shift), (-3, -2))
            segments = window_segments(x.shape[-2], self.window, self.shift)
        out = self.attention(partition(x, self.window), None, bias, return_weights, segments)
        out, weights = out if return_weights else (out, None)
        out = unpartition(out)
        if self.shift:
            out = jnp.roll(out, (self.shift, self.shift), (-3, -2))
        return to_tokens(out[..., :side, :side, :]), weights


def to_grid(x: Float[Array, "*batch n d"]) -> Float[Array, "*batch h w d"]:
    """Tokens, row by row, to a square grid."""
    side = math.isqrt(x.shape[-2])
    return x.reshape(*x.shape[:-2], side, side, x.shape[-1])


def to_tokens(x: Float[Array, "*batch h w d"]) -> Float[Array, "*batch n d"]:
    """A grid to tokens, row by row."""
    return x.reshape(*x.shape[:-3], x.shape[-3] * x.shape[-2], x.shape[-1])


def _pad_grid(x, multiple):
    short = -x.shape[-2] % multiple
    return jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(0, short), (0, short), (0, 0)])


@struct.dataclass
class WindowBackbone(Backbone):
    """Abstract backbone of stages; tokens are merged four to one and widen between them.

    Inputs, layers and weights are described in :class:`Swin`. The blocks of a stage differ, so they are
    not stacked.

    Parameters: ``embeddings`` with ``patch``, ``norm`` and maybe ``position``; ``encoder`` with
    ``stage_0``, ``stage_1``, … and ``norm``; in a stage ``block_0``, ``block_1``, … and, but for the
    last one, ``merge``.
    """

    summary_token: ClassVar[str] = "last"
    modality: ClassVar[str] = "vision"

    @property
    def num_layers(self) -> int:
        """Number of stages."""
        return self.config.num_stages

    @abc.abstractmethod
    def embedding(self) -> nn.Module:
        """From images to tokens."""

    @abc.abstractmethod
    def block(self, stage: int, index: int) -> WindowBlock:
        """Block number ``index`` of a stage."""

    @abc.abstractmethod
    def merge_norm(self) -> nn.Module:
        """Norm of tokens side by side before they are merged."""

    @abc.abstractmethod
    def final_norm(self) -> nn.Module:
        """Norm behind the last stage."""

    @abc.abstractmethod
    def block_specs(
        self, name: str, block: Any, params: Mapping[str, Any], *, padded: bool
    ) -> list[LayerSpec]:
        """Describe a block for the bounds; ``padded`` if its windows hold zero tokens as well."""

    def blocks(self, stage: int) -> list[WindowBlock]:
        """Blocks of a stage."""
        return [self.block(stage, index) for index in range(self.config.depths[stage])]

    @classmethod
    def init(cls, config: Any, key: Array, preprocess: Any = None) -> Self:
        """A model with random parameters.

        Args:
            config: Sizes and switches.
            key: Random key.
            preprocess: Maps raw inputs to what :meth:`apply` takes; ``None`` if they are that already.

        Returns:
            The model.
        """
        # Compiled, because what the modules compute on the way to their parameters is dropped then.
        params = jax.jit(cls.random_params, static_argnums=0)(config, key)
        return cls(params=params, config=config, preprocess=preprocess)

    @classmethod
    def random_params(cls, config: Any, key: Array) -> PyTree:
        """Random parameters."""
        model = cls(params=None, config=config)
        embed_key, norm_key, *stage_keys = jax.random.split(key, 2 + config.num_stages)
        images = jnp.zeros((1, config.image_size, config.image_size, config.num_channels))
        encoder: dict[str, Any] = {}
        for stage, stage_key in enumerate(stage_keys):
            merge_key, *keys = jax.random.split(stage_key, 1 + config.depths[stage])
            x = jnp.zeros((1, config.grid(stage) ** 2, config.stage_width(stage)))
            drawn = {
                _layers.block_name(index): block.init(block_key, x)["params"]
                for index, (block, block_key) in enumerate(zip(model.blocks(stage), keys, strict=True))
            }
            if stage + 1 < config.num_stages:
                merge = PatchMerging(model.merge_norm())
                drawn["merge"] = merge.init(merge_key, x)["params"]
            encoder[_stage_name(stage)] = drawn
        x = jnp.zeros((1, config.stage_width(config.num_stages - 1)))
        encoder["norm"] = model.final_norm().init(norm_key, x)["params"]
        return {"embeddings": model.embedding().init(embed_key, images)["params"], "encoder": encoder}

    def embed(self, params, inputs: Float[Array, "*batch h w c"], mask: None = None):
        """Images to embeddings, one a patch, row by row.

        Args:
            params: Parameters.
            inputs: Preprocessed images.
            mask: ``None``; tokens are merged, so that a token mask has no meaning.

        Returns:
            Embeddings, shape ``(*batch, n, d)``, and ``None``.

        Raises:
            ValueError: for a wrong shape or dtype, non-finite pixels, or a mask.
        """
        _check_images(self.config, inputs)
        _check_no_mask(mask)
        return self.embedding().apply({"params": params["embeddings"]}, inputs), None

    def run(self, params, embeddings, mask, layer, return_weights):
        """See :meth:`Backbone.run`."""
        _check_no_mask(mask)
        config = self.config
        expected = (config.grid(0) ** 2, config.width)
        if embeddings.shape[-2:] != expected:
            raise ValueError(
                f"embeddings: expected shape {('*batch', *expected)}, got {embeddings.shape}"
            )
        encoder, x, weights = params["encoder"], embeddings, []
        for stage in range(self.num_layers if layer == -1 else layer):
            part = encoder[_stage_name(stage)]
            x, attended = _layers.run_blocks(
                self.blocks(stage),
                part,
                x,
                None,
                return_weights=return_weights,
                remat=self.remat,
                compute_dtype=self.compute_dtype,
            )
            weights.extend(attended or ())
            if stage + 1 < self.num_layers:
                x = self._apply(PatchMerging(self.merge_norm()), part["merge"], x)
        if layer == -1:
            x = self._apply(self.final_norm(), encoder["norm"], x)
        return x, tuple(weights) if return_weights else None

    def _apply(self, module, params, x) -> Any:
        return module.apply({"params": _layers.cast_floating(params, self.compute_dtype)}, x)

    def layer_specs(self, params) -> list[LayerSpec]:
        """See :meth:`Backbone.layer_specs`."""
        encoder, specs = params["encoder"], []
        for stage in range(self.num_layers):
            name, grid = _stage_name(stage), self.config.grid(stage)
            for index, block in enumerate(self.blocks(stage)):
                block_name = _layers.block_name(index)
                specs += self.block_specs(
                    f"{name}/{block_name}",
                    block,
                    encoder[name][block_name],
                    padded=grid % block.window != 0,
                )
            if stage + 1 < self.num_layers:
                merge = encoder[name]["merge"]
                specs.append(
                    LayerSpec(
                        name=f"{name}/merge",
                        branch=MergeSpec(
                            {"kernel": merge["kernel"]}, num_merged=4, padded=grid % 2 != 0
                        ),
                        norm_before=_layers.norm_spec(self.merge_norm(), merge["norm"]),
                        residual=False,
                    )
                )
        norm = _layers.norm_spec(self.final_norm(), encoder["norm"])
        return [*specs, LayerSpec(name="norm", norm_after=norm, residual=False)]


def window_attention_spec(block: Any, params: Mapping[str, Any], padded: bool) -> AttentionSpec:
    """Describe the attention of a block."""
    return _layers.attention_spec(
        block.attention, params["attention"], partition=block.window**2, padded=padded
    )


def _stage_name(stage):
    return f"stage_{stage}"


def _check_images(config, inputs):
    """Refuse anything but finite images of the configuration's size."""
    check_floating("inputs", inputs)
    expected = (config.image_size, config.image_size, config.num_channels)
    if jnp.shape(inputs)[-3:] != expected:
        raise ValueError(f"inputs: expected shape {('*batch', *expected)}, got {jnp.shape(inputs)}")
    check_finite("inputs", inputs)


def _check_no_mask(mask):
    if mask is not None:
        raise ValueError(
            "mask: expected None, since tokens are merged and a token mask has no meaning for this "
            "family, got an array"
        )
