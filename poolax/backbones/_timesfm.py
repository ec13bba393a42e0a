"""TimesFM 2.5: patches of a series, normalised by what came before, through a causal decoder."""

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
    check_count,
    check_divides,
    check_finite,
    check_floating,
    check_instance,
    check_number,
)
from poolax._norms import RMSNorm
from poolax._numerics import accumulation_dtype, safe_sqrt
from poolax.attention import MultiHeadAttention, Rotary
from poolax.backbones._base import BlockBackbone
from poolax.blocks import FeedForward, PreLNBlock

# A series that varies less is not divided by how much it does.
_LEAST_SCALE = 1e-6


@codec.register("backbone", "timesfm")
@dataclasses.dataclass(frozen=True)
class TimesFMConfig:
    """Sizes and switches of a TimesFM; the default is TimesFM 2.5 with 200 million parameters.

    Attributes:
        num_steps: Most steps of a series that its preprocessing leaves.
        patch_len: Steps of a patch; divides ``num_steps``.
        width: Width ``d`` of the tokens.
        num_layers: Number of blocks.
        num_heads: Query heads.
        num_kv_heads: Key and value heads; divides ``num_heads``.
        head_dim: Width of a head, whatever ``d`` is.
        mlp_dim: Width of the feed-forward layers.
        activation: Name of the activation.
        rotary: Rotary positions.
        norm_eps: What RMSNorm adds to the mean square.
        use_attention_bias: Biases on queries, keys, values and the output projection.
        use_mlp_bias: Biases on the feed-forward layers.
    """

    num_steps: int = 16384
    patch_len: int = 32
    width: int = 1280
    num_layers: int = 20
    num_heads: int = 16
    num_kv_heads: int = 16
    head_dim: int = 80
    mlp_dim: int = 1280
    activation: str = "silu"
    rotary: Rotary = Rotary()
    norm_eps: float = 1e-6
    use_attention_bias: bool = False
    use_mlp_bias: bool = False

    def __post_init__(self):
        """Refuse sizes that do not fit."""
        sizes = ("num_steps", "patch_len", "width", "num_layers", "num_heads", "num_kv_heads")
        for field in (*sizes, "head_dim", "mlp_dim"):
            check_count(field, getattr(self, field))
        check_divides("patch_len", self.patch_len, "num_steps", self.num_steps)
        check_divides("num_kv_heads", self.num_kv_heads, "num_heads", self.num_heads)
        check_instance("rotary", self.rotary, Rotary, "attention.Rotary")
        check_number("norm_eps", self.norm_eps, above=0.0)
        activation_from_name(self.activation)


def running_statistics(
    x: Float[Array, "*batch n steps"], observed: Bool[Array, "*batch n steps"]
) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch n"]]:
    """Mean and standard deviation of all observed steps up to the end of each patch.

    Args:
        x: Patches, zero at steps that are not observed.
        observed: True at observed steps.

    Returns:
        Means and standard deviations, zero where nothing was observed so far.

    Example:
        >>> x = jnp.array([[1.0, 3.0], [5.0, 0.0]])
        >>> mean, deviation = running_statistics(x, jnp.array([[True, True], [True, False]]))
        >>> print(mean, deviation.round(1))
        [2. 3.] [1.  1.6]
    """
    count = jnp.sum(observed, axis=-1).astype(x.dtype)
    mean = jnp.sum(x, axis=-1) / jnp.maximum(count, 1)
    squares = jnp.where(observed, jnp.square(x - mean[..., None]), 0)

    def joined(left, right):
        (left_count, left_mean, left_sum), (right_count, right_mean, right_sum) = left, right
        count = left_count + right_count
        share = right_count / jnp.maximum(count, 1)
        step = right_mean - left_mean
        total = left_sum + right_sum + jnp.square(step) * left_count * share
        return count, left_mean + step * share, total

    parts = (count, mean, jnp.sum(squares, axis=-1))
    count, mean, total = jax.lax.associative_scan(joined, parts, axis=-1)
    return mean, safe_sqrt(total / jnp.maximum(count, 1))


@struct.dataclass
class TimesFM(BlockBackbone):
    """Decoder of time series: patches, rotary positions, queries and keys normalised once turned.

    Inputs are series, ``(*batch, steps)``; channels are series of their own and stand among the batch
    axes. A series is cut into patches, each of which is a token. Its steps are normalised by mean and
    standard deviation of all observed steps up to its end, so that no token knows what comes later,
    and enter beside their mask. A patch is a real token if its last step is observed: gaps inside a
    patch, and a first patch that is padded in part, are seen by the mask.

    Parameters besides those of :class:`BlockBackbone`: ``embeddings/{hidden,out,skip}``, linear layers
    of ``out(act(hidden(x))) + skip(x)``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> config = TimesFMConfig(
        ...     16, 4, width=8, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=4, mlp_dim=16
        ... )
        >>> timesfm = TimesFM.init(config, jax.random.key(0))
        >>> timesfm(jnp.sin(jnp.arange(16.0)) * jnp.ones((5, 3, 1))).states.shape
        (5, 3, 4, 8)

    Reference:
        Das et al., "A decoder-only foundation model for time-series forecasting" (ICML 2024), in the
        form of version 2.5.
    """

    summary_token: ClassVar[str] = "last"
    modality: ClassVar[str] = "series"

    @classmethod
    def init_embeddings(cls, config, key):
        """See :meth:`BlockBackbone.init_embeddings`."""
        widths = {"hidden": 2 * config.patch_len, "out": config.width, "skip": 2 * config.patch_len}
        layer = nn.Dense(config.width, parent=None)
        return {
            name: layer.init(jax.random.fold_in(key, index), jnp.zeros((1, width)))["params"]
            for index, (name, width) in enumerate(widths.items())
        }

    def block(self, index: int) -> nn.Module:
        """See :meth:`BlockBackbone.block`."""
        del index
        config = self.config
        attention = MultiHeadAttention(
            config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            causal=True,
            rotary=config.rotary,
            use_bias=config.use_attention_bias,
            query_key_eps=config.norm_eps,
            query_key_turned=True,
            parent=None,
        )
        activation = activation_from_name(config.activation)
        ffn = FeedForward(config.mlp_dim, activation, use_bias=config.use_mlp_bias, parent=None)
        norms: Any = {
            name: RMSNorm(epsilon=config.norm_eps, parent=None)
            for name in ("norm1", "norm2", "out_norm1", "out_norm2")
        }
        return PreLNBlock(attention, ffn, **norms)

    def embed(
        self,
        params,
        inputs: Float[Array, "*batch steps"],
        mask: Bool[Array, "*#batch steps"] | None = None,
    ):
        """Series to embeddings.

        Args:
            params: Parameters.
            inputs: Series, shape ``(*batch, steps)``.
            mask: True at observed steps, broadcastable to ``(*batch, steps)``; ``None`` if all are.

        Returns:
            Embeddings, shape ``(*batch, n, d)``, and the mask of the patches, ``None`` without
            ``mask``.

        Raises:
            ValueError: for a wrong shape or dtype, steps that do not fill patches, or observed steps
                that are not finite.
        """
        config, tables = self.config, params["embeddings"]
        shape = np.shape(inputs)
        if len(shape) < 1 or shape[-1] < 1:
            raise ValueError(f"inputs: expected shape (*batch, steps), steps >= 1, got {shape}")
        check_floating("inputs", inputs)
        if shape[-1] % config.patch_len:
            raise ValueError(
                f"inputs: expected steps that fill patches of {config.patch_len}, got {shape[-1]}"
            )
        mask = broadcast_mask(mask, shape)
        check_finite("inputs", inputs, mask)
        cut = (*shape[:-1], shape[-1] // config.patch_len, config.patch_len)
        observed = jnp.ones(cut, bool) if mask is None else jnp.reshape(mask, cut)
        x = jnp.where(observed, jnp.reshape(inputs, cut), 0)
        x = x.astype(accumulation_dtype(x))
        mean, scale = (part[..., None] for part in running_statistics(x, observed))
        x = jnp.where(observed, (x - mean) / jnp.where(scale < _LEAST_SCALE, 1, scale), 0)
        x = jnp.concatenate([x, (~observed).astype(x.dtype)], axis=-1)  # (*batch, n, 2 steps)

        def linear(name, x):
            layer: Any = nn.Dense(config.width, parent=None)
            return layer.apply({"params": tables[name]}, x)

        activation = activation_from_name(config.activation)
        tokens = linear("out", activation(linear("hidden", x))) + linear("skip", x)
        return tokens, None if mask is None else observed[..., -1]
