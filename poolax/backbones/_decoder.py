"""Decoders of Llama's kind, and encoders: rotary positions, grouped heads, gated layers."""

import dataclasses
import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int

from poolax import codec
from poolax._activations import activation_from_name
from poolax._checks import (
    check_choice,
    check_count,
    check_divides,
    check_instance,
    check_number,
)
from poolax._norms import RMSNorm, RMSNormFromOne
from poolax.attention import DotProduct, MultiHeadAttention, QueryGrowth, Rotary
from poolax.backbones import _layers
from poolax.backbones._base import BlockBackbone
from poolax.backbones._text import check_ids, take_rows
from poolax.blocks import GatedFeedForward, PreLNBlock


@codec.register("backbone", "decoder")
@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes and switches of a decoder.

    Attributes:
        vocab_size: Number of token ids.
        width: Width ``d`` of the tokens.
        num_layers: Number of blocks.
        num_heads: Query heads.
        num_kv_heads: Key and value heads; divides ``num_heads``.
        head_dim: Width of a head.
        mlp_dim: Width of the feed-forward layers.
        rotary: Rotary positions.
        window: Most tokens that a token sees, itself included; ``None`` if it sees all before it.
        full_layers: Blocks without that window, counted from 0.
        causal: Whether a token sees only what stands before it, and itself; some embedding models
            see all.
        use_qkv_bias: Biases on queries, keys and values, as Qwen2 has them.
        use_out_bias: Bias on the output projection of the attention.
        use_mlp_bias: Biases on the feed-forward layers.
        activation: Name of the activation.
        norm_eps: What RMSNorm adds to the mean square, or LayerNorm to the variance.
        norm: ``"rms"`` or ``"layer"``.
        use_norm_bias: Shifts of layer norms.
        norms_from_one: Keep the scales of RMSNorms less one, as Gemma does.
        use_embedding_norm: A norm of the embeddings, whose tokens then enter the first block's
            attention as they are, as in ModernBERT.
        use_out_norms: Norms of what attention and feed-forward layers give before it is added, as in
            Gemma.
        use_query_key_norm: Norms of queries and keys, as in Qwen3.
        query_growth: Growth of queries by their positions, as in Ministral 3; ``None`` for none.
        logit_scale: Scale of the logits; ``None`` takes ``1 / sqrt(head_dim)``.
        soft_cap: What the logits are capped at by ``tanh``, as in Gemma 2; ``None`` if they are not.
        scale_embeddings: Embeddings times ``sqrt(width)``, as in Gemma.
        window_rotary: Rotary positions of the blocks with a window; ``None`` for those of the others.
        max_tokens: Most tokens of a sequence; ``None`` for any number.
    """

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    rotary: Rotary = Rotary()
    window: int | None = None
    full_layers: tuple[int, ...] = ()
    causal: bool = True
    use_qkv_bias: bool = False
    use_out_bias: bool = False
    use_mlp_bias: bool = False
    activation: str = "silu"
    norm_eps: float = 1e-6
    norm: str = "rms"
    use_norm_bias: bool = False
    norms_from_one: bool = False
    use_embedding_norm: bool = False
    use_out_norms: bool = False
    use_query_key_norm: bool = False
    query_growth: QueryGrowth | None = None
    logit_scale: float | None = None
    soft_cap: float | None = None
    scale_embeddings: bool = False
    window_rotary: Rotary | None = None
    max_tokens: int | None = None

    def __post_init__(self):
        """Refuse sizes that do not fit."""
        for field in ("vocab_size", "width", "num_layers", "num_heads", "num_kv_heads", "head_dim"):
            check_count(field, getattr(self, field))
        check_count("mlp_dim", self.mlp_dim)
        check_divides("num_kv_heads", self.num_kv_heads, "num_heads", self.num_heads)
        check_instance("rotary", self.rotary, Rotary, "attention.Rotary")
        if self.window is not None:
            check_count("window", self.window)
        for index in self.full_layers:
            if not 0 <= index < self.num_layers:
                raise ValueError(
                    f"full_layers: expected blocks from 0 to {self.num_layers - 1}, got {index}"
                )
        check_number("norm_eps", self.norm_eps, above=0.0)
        check_choice("norm", self.norm, ("rms", "layer"))
        check_instance("query_growth", self.query_growth, QueryGrowth | None, "a QueryGrowth or None")
        for field in ("logit_scale", "soft_cap"):
            if getattr(self, field) is not None:
                check_number(field, getattr(self, field), above=0.0)
        check_instance("window_rotary", self.window_rotary, Rotary | None, "attention.Rotary or None")
        if self.max_tokens is not None:
            check_count("max_tokens", self.max_tokens)
        activation_from_name(self.activation)


@struct.dataclass
class Decoder(BlockBackbone):
    """Decoder of Llama's kind: Llama, Mistral, Qwen, Phi, Gemma.

    Inputs are token ids, ``(*batch, n)``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> config = DecoderConfig(
        ...     50, width=8, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=2, mlp_dim=16
        ... )
        >>> decoder = Decoder.init(config, jax.random.key(0))
        >>> decoder(jnp.array([[2, 7, 3]])).states.shape
        (1, 3, 8)

    Reference:
        Grattafiori et al., "The Llama 3 Herd of Models" (2024); Jiang et al., "Mistral 7B" (2023);
        Qwen Team, "Qwen2.5 Technical Report" (2024), "Qwen3 Technical Report" (2025); Abdin et al.,
        "Phi-3 Technical Report" (2024); Gemma Team, "Gemma 2" (2024), "Gemma 3" (2025).
    """

    summary_token: ClassVar[str] = "last"
    modality: ClassVar[str] = "language"

    @classmethod
    def init_embeddings(cls, config, key):
        """See :meth:`BlockBackbone.init_embeddings`."""
        found: dict[str, Any] = {
            "token": 0.02 * jax.random.normal(key, (config.vocab_size, config.width))
        }
        if config.use_embedding_norm:
            norm = _norm(config).init(key, jnp.zeros((1, config.width)))
            found["norm"] = norm["params"]
        return found

    def block(self, index: int) -> nn.Module:
        """See :meth:`BlockBackbone.block`."""
        config = self.config
        window = None if index in config.full_layers else config.window
        rotary = config.rotary if window is None else config.window_rotary or config.rotary
        attention = MultiHeadAttention(
            config.num_heads,
            DotProduct(config.logit_scale),
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            causal=config.causal,
            window=window,
            rotary=rotary,
            use_bias=config.use_qkv_bias,
            use_out_bias=config.use_out_bias,
            query_key_eps=config.norm_eps if config.use_query_key_norm else None,
            query_key_from_one=config.use_query_key_norm and config.norms_from_one,
            query_growth=config.query_growth,
            soft_cap=config.soft_cap,
            parent=None,
        )
        ffn = GatedFeedForward(
            config.mlp_dim,
            activation_from_name(config.activation),
            use_bias=config.use_mlp_bias,
            parent=None,
        )
        # Each a module of its own: one module in two places would be one set of parameters.
        out_norms: Any = {}
        if config.use_out_norms:
            out_norms = {name: _norm(config) for name in ("out_norm1", "out_norm2")}
        first = None if config.use_embedding_norm and index == 0 else _norm(config)
        return PreLNBlock(attention, ffn, first, _norm(config), **out_norms)

    @property
    def final_norm(self) -> nn.Module:
        """See :class:`BlockBackbone`."""
        return _norm(self.config)

    def embed(
        self, params, inputs: Int[Array, "*batch n"], mask: Bool[Array, "*#batch n"] | None = None
    ):
        """Token ids to embeddings.

        Args:
            params: Parameters.
            inputs: Token ids, shape ``(*batch, n)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

        Returns:
            Embeddings, shape ``(*batch, n, d)``, and the mask.

        Raises:
            ValueError: for a wrong shape or dtype, too many tokens, or an id outside the vocabulary.
        """
        config, tables = self.config, params["embeddings"]
        ids, mask = check_ids(inputs, mask, config.vocab_size, config.max_tokens)
        x = take_rows(tables["token"], ids)
        if config.scale_embeddings:
            # Rounded as the embeddings are: models in half precision were trained with that.
            x = x * jnp.asarray(math.sqrt(config.width), x.dtype)
        if config.use_embedding_norm:
            norm = _norm(config)
            x = norm.apply({"params": tables["norm"]}, x)
        return x, mask


@struct.dataclass
class RotaryEncoder(Decoder):
    """Encoder of a decoder's parts, with a CLS token in front: ModernBERT, EuroBERT.

    Its configuration is a :class:`DecoderConfig` with ``causal=False``. Inputs are token ids,
    ``(*batch, n)``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> config = DecoderConfig(
        ...     50, width=8, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=4, mlp_dim=16,
        ...     causal=False, norm="layer", use_embedding_norm=True,
        ... )
        >>> encoder = RotaryEncoder.init(config, jax.random.key(0))
        >>> encoder(jnp.array([[2, 7, 3]])).num_prefix
        1

    Reference:
        Warner et al., "Smarter, Better, Faster, Longer" (ModernBERT, 2024); Boizard et al., "EuroBERT"
        (2025).
    """

    summary_token: ClassVar[str] = "first"
    num_prefix: ClassVar[int] = 1


def _norm(config):
    if config.norm == "layer":
        return _layers.layer_norm(config.norm_eps, use_bias=config.use_norm_bias)
    kind = RMSNormFromOne if config.norms_from_one else RMSNorm
    return kind(epsilon=config.norm_eps, parent=None)
