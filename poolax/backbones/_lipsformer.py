"""LipsFormer: Swin's stages with cosine attention, CenterNorm, convolutions and scaled branches."""

import dataclasses
import functools
import math
import operator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct, traverse_util
from jaxtyping import Array, Float, PyTree

from poolax import codec
from poolax._activations import gelu
from poolax._checks import check_instance
from poolax._layer_specs import ConvolutionSpec, FeedForwardSpec, LayerSpec
from poolax._numerics import with_leading_axes
from poolax.attention import Cosine, MultiHeadAttention
from poolax.backbones import _layers
from poolax.backbones._windows import (
    PatchEmbedding,
    WindowBackbone,
    WindowBlock,
    WindowConfig,
    to_grid,
    to_tokens,
    window_attention_spec,
)
from poolax.blocks import CenterNorm, FeedForward

_KERNEL_SIZE = 7
_RELEASED = Cosine(tau=10.0, nu=1.0, eps=1e-24, plain_values=True)


@codec.register("backbone", "lipsformer")
@dataclasses.dataclass(frozen=True)
class LipsFormerConfig(WindowConfig):
    """Sizes and switches of a LipsFormer; the default is the released LipsFormer-Swin-Tiny.

    The released code divides queries and keys by ``max(norm, 1e-12)``, as PyTorch does, and leaves
    values as they are. The default ``kind``, ``Cosine(10.0, 1.0, 1e-24, plain_values=True)``, divides
    by ``sqrt(norm^2 + 1e-24)``, which differs for norms near ``1e-12`` alone. That attention is not
    globally Lipschitz. The one of the paper's theorem normalises the values as well, with a larger
    ``eps``: ``Cosine(tau=10.0, nu=1.0, eps=1e-6)``.

    Attributes:
        image_size: Height and width of the images in pixels.
        patch_size: Height and width of a patch; divides ``image_size``.
        num_channels: Colour channels.
        width: Width ``d`` of the tokens in the first stage; each further stage doubles it.
        depths: Number of blocks of each stage.
        num_heads: Attention heads of each stage; each divides the width of its stage.
        window_size: Height and width of a window in tokens; a smaller grid is one window, a larger
            one has to be a multiple.
        mlp_ratio: Width of the feed-forward layers over that of the tokens.
        kind: Cosine attention.
        use_shift: Shift the windows in every other block, as Swin does. The released model does not.
    """

    depths: tuple[int, ...] = (2, 2, 5, 2)
    kind: Cosine = _RELEASED
    use_shift: bool = False

    def __post_init__(self):
        """Refuse sizes that do not fit."""
        super().__post_init__()
        check_instance("kind", self.kind, Cosine, "attention.Cosine")
        for stage in range(self.num_stages):
            grid = self.grid(stage)
            if grid % self.window(stage):
                raise ValueError(
                    f"window_size: expected a divisor of the {grid} tokens of a row in stage {stage}, "
                    f"got {self.window_size}"
                )
            if grid % 2 and stage + 1 < self.num_stages:
                raise ValueError(
                    f"depths: expected an even grid to merge after stage {stage}, got side {grid}"
                )

    def shift(self, stage: int, index: int) -> int:
        """How far a block of a stage shifts its windows."""
        return super().shift(stage, index) if self.use_shift else 0


class Depthwise(nn.Module):
    """Depth-wise convolution with zeros around the grid: one filter a channel.

    Parameters: ``kernel (7, 7, d)`` and ``bias (d,)``.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "*batch h w d"]) -> Float[Array, "*batch h w d"]:
        """Convolve the last axes but one."""
        width = x.shape[-1]
        init = nn.initializers.normal(1 / _KERNEL_SIZE)
        kernel = self.param("kernel", init, (_KERNEL_SIZE, _KERNEL_SIZE, width))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        dtype = jnp.result_type(x, kernel)
        flat = x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:]).astype(dtype)
        # XLA's own convolution of one filter a channel is some 20 times slower on CPUs.
        out = jax.lax.platform_dependent(
            flat, kernel.astype(dtype), cpu=_convolve_by_shifts, default=_convolve
        )
        return out.reshape(x.shape) + with_leading_axes(bias, x.ndim)


def _convolve(x, kernel):
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _convolve_by_shifts(x, kernel):
    _, height, width, _ = x.shape
    size = kernel.shape[0]
    around, none = (size // 2, size // 2), (0, 0)
    x = jnp.pad(x, (none, none, around, none))
    # Along columns with every row of the filter, then along rows: few products, which compile soon.
    by_row = functools.reduce(
        operator.add,
        [x[:, :, None, k : k + width] * kernel[None, None, :, k, None] for k in range(size)],
    )
    by_row = jnp.pad(by_row, (none, around, none, none, none))
    return functools.reduce(operator.add, [by_row[:, k : k + height, k] for k in range(size)])


class Convolution(nn.Module):
    """Depth-wise convolution and GELU, then a linear map and GELU if ``use_pointwise``.

    Parameters: ``depthwise`` and, if asked for, ``pointwise``, with a kernel and bias each.
    """

    use_pointwise: bool

    @nn.compact
    def __call__(self, x: Float[Array, "*batch n d"]) -> Float[Array, "*batch n d"]:
        """Convolve the tokens of a square grid."""
        x = gelu(to_tokens(Depthwise(name="depthwise")(to_grid(x))))
        if not self.use_pointwise:
            return x
        return gelu(nn.Dense(x.shape[-1], name="pointwise")(x))


class LipsFormerBlock(WindowBlock):
    """Two convolutions, attention inside windows and a feed-forward layer, each scaled and added.

    Norms stand behind the sums of attention and of feed-forward layer.

    Attributes:
        branch_scale: What the scales of the branches begin with.

    Parameters: ``conv1``, ``conv2``, ``attention``, ``relative_bias ((2 window - 1)**2, H)``,
    ``ffn``, ``norm1``, ``norm2``, and ``conv1_scale (d,)``, ``conv2_scale``, ``attention_scale``,
    ``ffn_scale``.
    """

    branch_scale: float = 1.0

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
        init = nn.initializers.constant(self.branch_scale)

        def scaled(name, branch):
            scale = self.param(f"{name}_scale", init, (x.shape[-1],))
            return with_leading_axes(scale, branch.ndim) * branch

        x = x + scaled("conv1", Convolution(use_pointwise=True, name="conv1")(x))
        x = x + scaled("conv2", Convolution(use_pointwise=False, name="conv2")(x))
        mixed, weights = self.attend(x, return_weights)
        x = self.norm1(x + scaled("attention", mixed))
        x = self.norm2(x + scaled("ffn", self.ffn(x)))
        return (x, weights) if return_weights else x


@struct.dataclass
class LipsFormer(WindowBackbone):
    """LipsFormer-Swin, as released or with the attention of its theorem.

    Inputs, tokens, layers and weights are as in :class:`Swin`.

    :meth:`init` draws kernels of spectral norm one, where query, key and value are one kernel and a
    depth-wise one is a matrix with a row for each place of the filter. The scale of every branch begins
    at one over the number of blocks.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> config = LipsFormerConfig(16, 2, width=8, depths=(1, 1), num_heads=(1, 2), window_size=4)
        >>> lipsformer = LipsFormer.init(config, jax.random.key(0))
        >>> lipsformer(jnp.zeros((3, 16, 16, 3))).states.shape
        (3, 16, 16)

    Reference:
        Qi et al., "LipsFormer" (ICLR 2023).
    """

    @classmethod
    def random_params(cls, config: Any, key: Array) -> PyTree:
        """See :class:`WindowBackbone`."""
        structure_key, spectral_key = jax.random.split(key)
        return _draw_spectral(super().random_params(config, structure_key), spectral_key)

    def embedding(self) -> nn.Module:
        """See :class:`WindowBackbone`."""
        return PatchEmbedding(self.config, CenterNorm(parent=None), parent=None)

    def block(self, stage: int, index: int) -> WindowBlock:
        """See :class:`WindowBackbone`."""
        config = self.config
        return LipsFormerBlock(
            MultiHeadAttention(config.num_heads[stage], config.kind, use_bias=True, parent=None),
            FeedForward(config.mlp_dim(stage), gelu, use_bias=True, parent=None),
            CenterNorm(parent=None),
            CenterNorm(parent=None),
            window=config.window(stage),
            shift=config.shift(stage, index),
            branch_scale=1 / sum(config.depths),
        )

    def merge_norm(self) -> nn.Module:
        """See :class:`WindowBackbone`."""
        return CenterNorm(parent=None)

    def final_norm(self) -> nn.Module:
        """See :class:`WindowBackbone`."""
        return CenterNorm(parent=None)

    def block_specs(self, name, block, params, *, padded) -> list[LayerSpec]:
        """See :class:`WindowBackbone`."""
        branches = {
            "conv1": (ConvolutionSpec(params["conv1"], gelu), None),
            "conv2": (ConvolutionSpec(params["conv2"], gelu), None),
            "attention": (window_attention_spec(block, params, padded), "norm1"),
            "ffn": (FeedForwardSpec(params["ffn"], block.ffn.activation), "norm2"),
        }
        return [
            LayerSpec(
                name=f"{name}/{part}",
                branch=branch,
                norm_after=norm and _layers.norm_spec(getattr(block, norm), params[norm]),
                residual_scale=params[f"{part}_scale"],
            )
            for part, (branch, norm) in branches.items()
        ]


def _draw_spectral(params: PyTree, key: Array) -> PyTree:
    """Gaussian kernels over their largest singular value; uniform biases of what convolves."""
    flat: dict[tuple[str, ...], Any] = dict(traverse_util.flatten_dict(params))
    groups: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for path in flat:
        if path[-1] == "kernel":
            joint = path[-2] in ("query", "key", "value")
            groups.setdefault(path[:-2] if joint else path, []).append(path)
    for paths, group_key in zip(groups.values(), jax.random.split(key, len(groups)), strict=True):
        kernel_key, bias_key = jax.random.split(group_key)
        kernel = flat[paths[0]]
        inputs = _num_inputs(paths[0], kernel)
        shape = (inputs, len(paths) * kernel.size // inputs)
        matrix = jax.random.normal(kernel_key, shape, kernel.dtype)
        matrix = matrix / _spectral_norm(matrix)
        for path, part in zip(paths, jnp.split(matrix, len(paths), axis=1), strict=True):
            flat[path] = part.reshape(kernel.shape)
        if paths[0][-2] in ("patch", "depthwise", "pointwise"):
            limit = inputs**-0.5
            flat[(*paths[0][:-1], "bias")] = jax.random.uniform(
                bias_key, kernel.shape[-1:], kernel.dtype, -limit, limit
            )
    return traverse_util.unflatten_dict(flat)


def _spectral_norm(matrix):
    """Largest singular value, from the smaller Gram matrix, which takes a fraction of an SVD's time.

    The norm that all else uses squares large Gram matrices and differs in the last bits: with it the
    parameters of a seed would not be what they were.
    """
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    gram = jnp.matmul(matrix, matrix.T, precision="highest")
    return jnp.sqrt(jnp.linalg.eigvalsh(gram)[-1])


def _num_inputs(path, kernel):
    """Rows of a kernel as a matrix; all axes but the last are rows save for (d, H, d_h) kernels."""
    if path[-2] in ("query", "key", "value"):
        return kernel.shape[0]
    return math.prod(kernel.shape[:-1])
