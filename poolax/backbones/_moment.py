"""MOMENT: patches of a normalised series through a T5 encoder."""

import dataclasses
import math
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, PyTree

from poolax import codec
from poolax._checks import (
    broadcast_mask,
    check_count,
    check_divides,
    check_finite,
    check_floating,
)
from poolax._numerics import accumulation_dtype, safe_sqrt, with_leading_axes
from poolax.backbones._base import BlockBackbone
from poolax.backbones._relative import relative_bias, with_relative_bias
from poolax.backbones._t5 import check_t5_sizes, t5_block, t5_norm

_REVIN_EPS = 1e-5


@codec.register("backbone", "moment")
@dataclasses.dataclass(frozen=True)
class MomentConfig:
    """Sizes of a MOMENT; the default is MOMENT-1-base.

    Attributes:
        num_steps: Steps of the series that it was trained on; others are taken as well.
        patch_len: Steps of a patch; divides ``num_steps``.
        max_patches: Most patches of a series.
        width: Width ``d`` of the tokens.
        num_layers: Number of blocks.
        num_heads: Attention heads.
        head_dim: Width of a head, whatever ``d`` is.
        mlp_dim: Width of the feed-forward layers.
        activation: Name of the activation.
        use_gate: Gated feed-forward layers.
        num_buckets: Kinds of distance that the relative bias tells apart, half of them to each side.
        max_distance: Distance in patches from which on all distances are one.
        norm_eps: What RMSNorm adds to the mean square.
        use_value_bias: Bias of the map from patches to tokens.
        use_revin_affine: Scale and shift of the normalised series.
        use_head: Whether there is a head that reconstructs patches from tokens.
    """

    num_steps: int = 512
    patch_len: int = 8
    max_patches: int = 5000
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    head_dim: int = 64
    mlp_dim: int = 2048
    activation: str = "gelu_new"
    use_gate: bool = True
    num_buckets: int = 32
    max_distance: int = 128
    norm_eps: float = 1e-6
    use_value_bias: bool = False
    use_revin_affine: bool = False
    use_head: bool = True

    def __post_init__(self):
        """Refuse sizes that do not fit."""
        for field in ("num_steps", "patch_len", "max_patches"):
            check_count(field, getattr(self, field))
        check_t5_sizes(self)
        check_divides("patch_len", self.patch_len, "num_steps", self.num_steps)
        check_count("max_patches", self.max_patches, at_least=self.num_steps // self.patch_len)


def sinusoids(num_rows: int, width: int) -> Float[np.ndarray, "rows d"]:
    """Position table: sines in even columns, cosines in odd ones."""
    column = np.arange(width)
    rate = 10000.0 ** (-(column - column % 2) / width)
    # A cosine is a sine a quarter turn ahead.
    return np.sin(np.arange(num_rows)[:, None] * rate + (column % 2) * (math.pi / 2))


def _statistics(x, observed):
    """Mean and scale of observed steps; unobserved ones are zero in ``x``."""
    count = jnp.maximum(jnp.sum(observed, axis=-1, keepdims=True), 1)
    mean = jnp.sum(x, axis=-1, keepdims=True) / count
    squares = jnp.where(observed, jnp.square(x - mean), 0)
    return mean, safe_sqrt(jnp.sum(squares, axis=-1, keepdims=True) / count) + _REVIN_EPS


@struct.dataclass
class Moment(BlockBackbone):
    r"""MOMENT encoder of time series: patches, sinusoidal positions, T5 blocks with a relative bias.

    Inputs are series, ``(*batch, steps)``; channels are series of their own and stand among the batch
    axes. A series is normalised by what of it is observed, ``y = (x - mean) / (std + 1e-5)``, and cut
    into patches, each of which is a token. A patch is a real token only if all of its steps are
    observed; what stands at other steps, NaN included, is not looked at.

    The logit of query ``i`` and key ``j`` is ``q_i . k_j + b[bucket(j - i)]``, without
    ``1 / sqrt(d_h)``, and the biases ``b`` are common to all blocks.

    Parameters besides those of :class:`BlockBackbone`: ``encoder/relative_bias (buckets, H)``, and
    ``head`` where there is one.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> config = MomentConfig(
        ...     16, 4, 8, width=8, num_layers=2, num_heads=2, head_dim=3, mlp_dim=16
        ... )
        >>> moment = Moment.init(config, jax.random.key(0))
        >>> series = jnp.sin(jnp.arange(16.0)) * jnp.ones((5, 3, 1))
        >>> moment(series).states.shape
        (5, 3, 4, 8)
        >>> moment.reconstruct(moment.params, series, hidden=jnp.arange(16) < 4).shape
        (5, 3, 16)

    Reference:
        Goswami et al., "MOMENT: A Family of Open Time-series Foundation Models" (ICML 2024); Raffel
        et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer"
        (JMLR 2020).
    """

    summary_token: ClassVar[str] = "last"
    modality: ClassVar[str] = "series"

    @classmethod
    def init_embeddings(cls, config, key):
        """See :meth:`BlockBackbone.init_embeddings`."""
        value_key, mask_key = jax.random.split(key)
        value = nn.Dense(config.width, use_bias=config.use_value_bias, parent=None)
        found = {
            "value": value.init(value_key, jnp.zeros((1, config.patch_len)))["params"],
            "mask_embedding": 0.02 * jax.random.normal(mask_key, (config.width,)),
            "position": jnp.asarray(
                sinusoids(config.max_patches, config.width), jnp.result_type(float)
            ),
        }
        if config.use_revin_affine:
            found["revin"] = {"scale": jnp.ones(()), "bias": jnp.zeros(())}
        return found

    @classmethod
    def init(cls, config: Any, key: Array, preprocess: Any = None) -> Self:
        """See :meth:`BlockBackbone.init`."""
        key, bias_key, head_key = jax.random.split(key, 3)
        model = super().init(config, key, preprocess)
        params = {**model.params, "encoder": with_relative_bias(model, bias_key)}
        if config.use_head:
            head = nn.Dense(config.patch_len, parent=None)
            params["head"] = head.init(head_key, jnp.zeros((1, config.width)))["params"]
        return dataclasses.replace(model, params=params)

    def block(self, index: int) -> nn.Module:
        """See :meth:`BlockBackbone.block`."""
        del index
        return t5_block(self.config)

    @property
    def final_norm(self) -> nn.Module:
        """See :class:`BlockBackbone`."""
        return t5_norm(self.config)

    def logit_bias(self, params: PyTree, num_tokens: int) -> Float[Array, "H n n"]:
        """Relative bias by head, query and key, the same in every block."""
        return relative_bias(params["encoder"]["relative_bias"], self.config, num_tokens)

    def embed(
        self,
        params,
        inputs: Float[Array, "*batch steps"],
        mask: Bool[Array, "*#batch steps"] | None = None,
        *,
        hidden: Bool[Array, "*#batch steps"] | None = None,
    ):
        """Series to embeddings with positions.

        Args:
            params: Parameters.
            inputs: Series, shape ``(*batch, steps)``.
            mask: True at observed steps, broadcastable to ``(*batch, steps)``; ``None`` if all are.
            hidden: True at steps to hide as in pretraining, broadcastable to ``(*batch, steps)``: what
                stands there is not looked at. A patch with such a step stays a real token, with the
                mask embedding in place of its value.

        Returns:
            Embeddings, shape ``(*batch, n, d)``, and the mask of the patches, ``None`` without
            ``mask``. A patch that is not wholly observed has the mask embedding; so has every patch of
            a series without observed step, none of which is a real token.

        Raises:
            ValueError: for a wrong shape or dtype, steps that do not fill patches, too many patches, or
                observed steps that are not finite.
        """
        return self._embed(params, inputs, mask, hidden)[:2]

    def reconstruct(
        self,
        params,
        inputs: Float[Array, "*batch steps"],
        mask: Bool[Array, "*#batch steps"] | None = None,
        hidden: Bool[Array, "*#batch steps"] | None = None,
    ) -> Float[Array, "*batch steps"]:
        """Reconstruct series, hidden steps included; gaps are filled by ``hidden`` at the gaps.

        Args:
            params: Parameters.
            inputs: Series, shape ``(*batch, steps)``.
            mask: True at steps that belong to the series, False at padding; ``None`` if all do.
            hidden: True at steps to hide, as for :meth:`embed`; they are reconstructed from the others.

        Returns:
            Shape ``(*batch, steps)``, in the units of the inputs. Zero in patches with a step that
            ``mask`` rules out, which nothing was made of, and in a series without a step to look at
            (where the release returns NaN).

        Raises:
            ValueError: as for :meth:`embed`, and for a model without head.
        """
        if not self.config.use_head:
            raise ValueError("config: expected use_head = True to reconstruct, got False")
        embeddings, patch_mask, observed, (mean, scale) = self._embed(params, inputs, mask, hidden)
        states = self.encode(params, embeddings, patch_mask).states
        head = nn.Dense(self.config.patch_len, parent=None)
        y: Any = head.apply({"params": params["head"]}, states)
        known = jnp.any(observed, axis=-1)[..., None, None]
        known = known if patch_mask is None else known & patch_mask[..., None]
        y = y.astype(accumulation_dtype(y, mean))
        if self.config.use_revin_affine:
            affine = params["embeddings"]["revin"]
            y = (y - affine["bias"]) / (affine["scale"] + _REVIN_EPS**2)
        y = y * scale[..., None] + mean[..., None]
        return jnp.where(known, y, 0).reshape(jnp.shape(inputs))

    def _embed(self, params, inputs, mask, hidden):
        """Embeddings, mask of patches, observed steps, and mean and scale of the series."""
        config = self.config
        shape = self._check_shape(inputs)
        mask = broadcast_mask(mask, shape)
        hidden = broadcast_mask(hidden, shape, "hidden")
        observed = jnp.ones(shape, bool) if mask is None else mask
        observed = observed if hidden is None else observed & ~hidden
        check_finite("inputs", inputs, observed)
        x = jnp.where(observed, inputs, 0)
        x = x.astype(accumulation_dtype(x))
        mean, scale = _statistics(x, observed)
        y = (x - mean) / scale
        tables = params["embeddings"]
        if config.use_revin_affine:
            y = y * tables["revin"]["scale"] + tables["revin"]["bias"]
        patches = self._cut(jnp.where(observed, y, 0))
        value = nn.Dense(config.width, use_bias=config.use_value_bias, parent=None)
        tokens: Any = value.apply({"params": tables["value"]}, patches)
        seen = jnp.all(self._cut(observed), axis=-1, keepdims=True)
        tokens = jnp.where(seen, tokens, tables["mask_embedding"])
        position = tables["position"][: tokens.shape[-2]]
        tokens = tokens + with_leading_axes(position, tokens.ndim)
        patch_mask = None if mask is None else jnp.all(self._cut(mask), axis=-1)
        return tokens, patch_mask, observed, (mean, scale)

    def _cut(self, steps):
        length = self.config.patch_len
        return steps.reshape(*steps.shape[:-1], steps.shape[-1] // length, length)

    def _check_shape(self, inputs):
        config = self.config
        shape = np.shape(inputs)
        if len(shape) < 1 or shape[-1] < 1:
            raise ValueError(f"inputs: expected shape (*batch, steps), steps >= 1, got {shape}")
        check_floating("inputs", inputs)
        if shape[-1] % config.patch_len:
            raise ValueError(
                f"inputs: expected steps that fill patches of {config.patch_len}, got {shape[-1]}"
            )
        if shape[-1] > config.max_patches * config.patch_len:
            raise ValueError(
                f"inputs: expected at most {config.max_patches} patches of {config.patch_len} steps, "
                f"got {shape[-1]} steps"
            )
        return shape
