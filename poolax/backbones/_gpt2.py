"""GPT-2: learned positions, Pre-LN blocks, no token sees the future; dot-product or L2 attention."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
from flax import struct
from jaxtyping import Array, Bool, Int

from poolax import codec
from poolax._activations import activation_from_name
from poolax._checks import check_count, check_divides, check_instance, check_number
from poolax.attention import L2, DotProduct, Kind, MultiHeadAttention
from poolax.backbones import _layers
from poolax.backbones._base import BlockBackbone
from poolax.backbones._text import check_ids, positions, take_rows
from poolax.blocks import FeedForward, PreLNBlock


@codec.register("backbone", "gpt2")
@dataclasses.dataclass(frozen=True)
class GPT2Config:
    """Sizes of a GPT-2; the default is the smallest released one.

    Attributes:
        vocab_size: Number of token ids.
        max_tokens: Most tokens of a sequence.
        width: Width ``d`` of the tokens.
        num_layers: Number of blocks.
        num_heads: Attention heads; divides ``width``.
        mlp_dim: Width of the feed-forward layers.
        kind: ``attention.DotProduct()``, or ``attention.L2()`` with one kernel for query and key and
            either convention for the values.
        activation: Name of the activation.
        norm_eps: What LayerNorm adds to the variance.
        scale_by_layer: Divide the logits of block ``k`` by ``k + 1``, counted from 0.
    """

    vocab_size: int = 50257
    max_tokens: int = 1024
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    kind: Kind = DotProduct()
    activation: str = "gelu_new"
    norm_eps: float = 1e-5
    scale_by_layer: bool = False

    def __post_init__(self):
        """Refuse sizes that do not fit."""
        for field in ("vocab_size", "max_tokens", "width", "num_layers", "num_heads", "mlp_dim"):
            check_count(field, getattr(self, field))
        check_divides("num_heads", self.num_heads, "width", self.width)
        check_instance("kind", self.kind, DotProduct | L2, "attention.DotProduct or attention.L2")
        check_number("norm_eps", self.norm_eps, above=0.0)
        activation_from_name(self.activation)
        if self.scale_by_layer and not isinstance(self.kind, DotProduct):
            raise ValueError(f"scale_by_layer: expected False for L2 attention, got {self.kind}")


@struct.dataclass
class GPT2(BlockBackbone):
    """GPT-2 with dot-product or L2 attention.

    Inputs are token ids, ``(*batch, n)``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> config = GPT2Config(50, 16, width=8, num_layers=2, num_heads=2, mlp_dim=16, kind=L2())
        >>> gpt2 = GPT2.init(config, jax.random.key(0))
        >>> gpt2(jnp.array([[2, 7, 3]])).states.shape
        (1, 3, 8)

    Reference:
        Radford et al., "Language Models are Unsupervised Multitask Learners" (2019); L2 attention:
        Kim, Papamakarios and Mnih, "The Lipschitz Constant of Self-Attention" (ICML 2021).
    """

    summary_token: ClassVar[str] = "last"
    modality: ClassVar[str] = "language"

    @classmethod
    def init_embeddings(cls, config, key):
        """See :meth:`BlockBackbone.init_embeddings`."""
        token_key, position_key = jax.random.split(key)
        return {
            "token": 0.02 * jax.random.normal(token_key, (config.vocab_size, config.width)),
            "position": 0.01 * jax.random.normal(position_key, (config.max_tokens, config.width)),
        }

    def block(self, index: int) -> nn.Module:
        """See :meth:`BlockBackbone.block`."""
        config, kind = self.config, self.config.kind
        if config.scale_by_layer:
            scale = kind.logit_scale(config.width // config.num_heads)
            kind = DotProduct(scale / (index + 1))
        activation = activation_from_name(config.activation)
        return PreLNBlock(
            MultiHeadAttention(config.num_heads, kind, causal=True, use_bias=True, parent=None),
            FeedForward(config.mlp_dim, activation, use_bias=True, parent=None),
            self.final_norm,
            self.final_norm,
        )

    @property
    def final_norm(self) -> nn.Module:
        """See :class:`BlockBackbone`."""
        return _layers.layer_norm(self.config.norm_eps)

    def embed(
        self, params, inputs: Int[Array, "*batch n"], mask: Bool[Array, "*#batch n"] | None = None
    ):
        """Token ids to embeddings with positions, which count from the first real token.

        Args:
            params: Parameters.
            inputs: Token ids, shape ``(*batch, n)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

        Returns:
            Embeddings, shape ``(*batch, n, d)``, and the mask.

        Raises:
            ValueError: for a wrong shape or dtype, too many tokens, or an id outside the vocabulary.
        """
        tables = params["embeddings"]
        ids, mask = check_ids(inputs, mask, self.config.vocab_size, self.config.max_tokens)
        x = take_rows(tables["token"], ids)
        return x + take_rows(tables["position"], positions(ids.shape[-1], mask), x.ndim), mask
