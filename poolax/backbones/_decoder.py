"""One decoder for Llama, Mistral and Qwen2: rotary positions, grouped heads, RMSNorm, gated layers."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
from flax import struct
from jaxtyping import Array, Bool, Int

from poolax import codec
from poolax._activations import activation_from_name
from poolax._checks import check_count, check_divides, check_instance, check_number
from poolax.attention import MultiHeadAttention, Rotary
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
        norm_eps: What RMSNorm adds to the mean square.
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
        activation_from_name(self.activation)


@struct.dataclass
class Decoder(BlockBackbone):
    """Decoder of the Llama family: Llama, Mistral, Qwen2.

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
        Qwen Team, "Qwen2.5 Technical Report" (2024).
    """

    summary_token: ClassVar[str] = "last"
    modality: ClassVar[str] = "language"

    @classmethod
    def init_embeddings(cls, config, key):
        """See :meth:`BlockBackbone.init_embeddings`."""
        return {"token": 0.02 * jax.random.normal(key, (config.vocab_size, config.width))}

    def block(self, index: int) -> nn.Module:
        """See :meth:`BlockBackbone.block`."""
        config = self.config
        attention = MultiHeadAttention(
            config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            causal=config.causal,
            window=None if index in config.full_layers else config.window,
            rotary=config.rotary,
            use_bias=config.use_qkv_bias,
            use_out_bias=config.use_out_bias,
            parent=None,
        )
        ffn = GatedFeedForward(
            config.mlp_dim,
            activation_from_name(config.activation),
            use_bias=config.use_mlp_bias,
            parent=None,
        )
        return PreLNBlock(attention, ffn, self.final_norm, self.final_norm)

    @property
    def final_norm(self) -> nn.Module:
        """See :class:`BlockBackbone`."""
        return nn.RMSNorm(epsilon=self.config.norm_eps, parent=None)

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
            ValueError: for a wrong shape or dtype, or an id outside the vocabulary.
        """
        ids, mask = check_ids(inputs, mask, self.config.vocab_size)
        return take_rows(params["embeddings"]["token"], ids), mask
