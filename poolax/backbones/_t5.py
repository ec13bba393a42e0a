"""T5's encoder: a relative bias in place of positions, logits that are not scaled."""

import dataclasses
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PyTree

from poolax import codec
from poolax._activations import activation_from_name
from poolax._checks import check_count, check_number
from poolax._norms import RMSNorm
from poolax.attention import DotProduct, MultiHeadAttention
from poolax.backbones import _layers
from poolax.backbones._base import BlockBackbone
from poolax.backbones._relative import relative_bias, with_relative_bias
from poolax.backbones._text import check_ids, take_rows
from poolax.blocks import FeedForward, GatedFeedForward, PreLNBlock


def t5_norm(config: Any) -> RMSNorm:
    """A norm of T5's blocks."""
    return RMSNorm(epsilon=config.norm_eps, parent=None)


def t5_block(config: Any) -> PreLNBlock:
    """A block of T5's encoder, for any configuration with T5's sizes."""
    attention = MultiHeadAttention(
        config.num_heads, DotProduct(scale=1.0), head_dim=config.head_dim, parent=None
    )
    layer = GatedFeedForward if config.use_gate else FeedForward
    ffn = layer(config.mlp_dim, activation_from_name(config.activation), parent=None)
    return PreLNBlock(attention, ffn, t5_norm(config), t5_norm(config))


def check_t5_sizes(config: Any) -> None:
    """Refuse sizes of T5's blocks that do not fit."""
    for field in ("width", "num_layers", "num_heads", "head_dim", "mlp_dim"):
        check_count(field, getattr(config, field))
    check_count("num_buckets", config.num_buckets, at_least=4)
    check_count("max_distance", config.max_distance, at_least=config.num_buckets // 4 + 1)
    check_number("norm_eps", config.norm_eps, above=0.0)
    activation_from_name(config.activation)


@codec.register("backbone", "t5")
@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes and switches of a T5 encoder; the default is T5-small.

    Attributes:
        vocab_size: Number of token ids.
        width: Width ``d`` of the tokens.
        num_layers: Number of blocks.
        num_heads: Attention heads.
        head_dim: Width of a head, whatever ``d`` is.
        mlp_dim: Width of the feed-forward layers.
        activation: Name of the activation.
        use_gate: Gated feed-forward layers, as in T5 1.1.
        num_buckets: Kinds of distance that the relative bias tells apart, half of them to each side.
        max_distance: Distance in tokens from which on all distances are one.
        bias_by_block: Whether each block has a relative bias of its own, as in UMT5.
        norm_eps: What RMSNorm adds to the mean square.
    """

    vocab_size: int = 32128
    width: int = 512
    num_layers: int = 6
    num_heads: int = 8
    head_dim: int = 64
    mlp_dim: int = 2048
    activation: str = "relu"
    use_gate: bool = False
    num_buckets: int = 32
    max_distance: int = 128
    bias_by_block: bool = False
    norm_eps: float = 1e-6

    def __post_init__(self):
        """Refuse sizes that do not fit."""
        check_count("vocab_size", self.vocab_size)
        check_t5_sizes(self)


@struct.dataclass
class T5(BlockBackbone):
    r"""Encoder of T5 and UMT5.

    Inputs are token ids, ``(*batch, n)``; the tokenizer puts an end-of-text token at the end. The logit
    of query ``i`` and key ``j`` is ``q_i . k_j + b[bucket(j - i)]``, without ``1 / sqrt(d_h)``.

    Parameters besides those of :class:`BlockBackbone`: ``encoder/relative_bias (buckets, H)``, or
    ``relative_bias`` in each block.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> config = T5Config(50, width=8, num_layers=2, num_heads=2, head_dim=3, mlp_dim=16)
        >>> t5 = T5.init(config, jax.random.key(0))
        >>> t5(jnp.array([[2, 7, 3]])).states.shape
        (1, 3, 8)

    Reference:
        Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
        Transformer" (JMLR 2020); Chung et al., "UniMax" (ICLR 2023).
    """

    summary_token: ClassVar[str] = "last"
    modality: ClassVar[str] = "language"

    @classmethod
    def init_embeddings(cls, config, key):
        """See :meth:`BlockBackbone.init_embeddings`."""
        return {"token": jax.random.normal(key, (config.vocab_size, config.width))}

    @classmethod
    def init(cls, config: Any, key: Array, preprocess: Any = None) -> Self:
        """See :meth:`BlockBackbone.init`."""
        model = super().init(config, key, preprocess)
        encoder = with_relative_bias(model, jax.random.fold_in(key, 1), by_block=config.bias_by_block)
        return dataclasses.replace(model, params={**model.params, "encoder": encoder})

    def block(self, index: int) -> nn.Module:
        """See :meth:`BlockBackbone.block`."""
        del index
        return t5_block(self.config)

    @property
    def final_norm(self) -> nn.Module:
        """See :class:`BlockBackbone`."""
        return t5_norm(self.config)

    def logit_bias(self, params: PyTree, num_tokens: int) -> Float[Array, "*layers H n n"]:
        """See :meth:`BlockBackbone.logit_bias`."""
        config, encoder = self.config, params["encoder"]
        if not config.bias_by_block:
            tables = encoder["relative_bias"]
        elif _layers.is_stacked(encoder):
            tables = encoder[_layers.STACKED]["relative_bias"]
        else:
            blocks = [_layers.block_params(encoder, index) for index in range(config.num_layers)]
            tables = jnp.stack([block["relative_bias"] for block in blocks])
        return relative_bias(tables, config, num_tokens)

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
