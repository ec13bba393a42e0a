"""BERT: learned positions, Post-LN blocks, every token sees every other."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int

from poolax import codec
from poolax._activations import activation_from_name
from poolax._checks import check_count, check_divides, check_number
from poolax.attention import MultiHeadAttention
from poolax.backbones import _layers
from poolax.backbones._base import BlockBackbone
from poolax.backbones._text import as_array, check_ids, check_rows, positions, take_rows
from poolax.blocks import FeedForward, PostLNBlock


@codec.register("backbone", "bert")
@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT; the default is BERT-base.

    Attributes:
        vocab_size: Number of token ids.
        max_tokens: Most tokens of a sequence.
        width: Width ``d`` of the tokens.
        num_layers: Number of blocks.
        num_heads: Attention heads; divides ``width``.
        mlp_dim: Width of the feed-forward layers.
        num_token_types: Kinds of segments.
        activation: Name of the activation.
        norm_eps: What LayerNorm adds to the variance.
    """

    vocab_size: int = 30522
    max_tokens: int = 512
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    num_token_types: int = 2
    activation: str = "gelu"
    norm_eps: float = 1e-12

    def __post_init__(self):
        """Refuse sizes that do not fit."""
        for field in ("vocab_size", "max_tokens", "width", "num_layers", "num_heads", "mlp_dim"):
            check_count(field, getattr(self, field))
        check_count("num_token_types", self.num_token_types)
        check_divides("num_heads", self.num_heads, "width", self.width)
        check_number("norm_eps", self.norm_eps, above=0.0)
        activation_from_name(self.activation)


@struct.dataclass
class Bert(BlockBackbone):
    """BERT encoder with learned positions and Post-LN blocks.

    Inputs are token ids, ``(*batch, n)``; the tokenizer puts CLS in front and SEP at the end.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> config = BertConfig(50, 16, width=8, num_layers=2, num_heads=2, mlp_dim=16)
        >>> bert = Bert.init(config, jax.random.key(0))
        >>> bert(jnp.array([[2, 7, 3]])).states.shape
        (1, 3, 8)

    Reference:
        Devlin et al., "BERT" (NAACL 2019).
    """

    summary_token: ClassVar[str] = "first"
    modality: ClassVar[str] = "language"
    num_prefix: ClassVar[int] = 1
    norm_first: ClassVar[bool] = False

    @classmethod
    def init_embeddings(cls, config, key):
        """See :meth:`BlockBackbone.init_embeddings`."""
        keys = jax.random.split(key, 3)
        sizes = (config.vocab_size, config.max_tokens, config.num_token_types)
        tables = {
            name: 0.02 * jax.random.normal(table_key, (size, config.width))
            for name, size, table_key in zip(
                ("token", "position", "token_type"), sizes, keys, strict=True
            )
        }
        norm = {"scale": jnp.ones(config.width), "bias": jnp.zeros(config.width)}
        return {**tables, "norm": norm}

    def block(self, index: int) -> nn.Module:
        """See :meth:`BlockBackbone.block`."""
        del index
        config = self.config
        return PostLNBlock(
            MultiHeadAttention(config.num_heads, use_bias=True, parent=None),
            FeedForward(
                config.mlp_dim, activation_from_name(config.activation), use_bias=True, parent=None
            ),
            self._norm(),
            self._norm(),
        )

    def _norm(self):
        return _layers.layer_norm(self.config.norm_eps)

    def embed(
        self,
        params,
        inputs: Int[Array, "*batch n"],
        mask: Bool[Array, "*#batch n"] | None = None,
        *,
        token_types: Int[Array, "*#batch n"] | None = None,
    ):
        """Token ids to embeddings with positions, normalised.

        Args:
            params: Parameters.
            inputs: Token ids, shape ``(*batch, n)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.
            token_types: Segment of each token; ``None`` if all are of the first.

        Returns:
            Embeddings, shape ``(*batch, n, d)``, and the mask.

        Raises:
            ValueError: for a wrong shape or dtype, too many tokens, or an id or type out of range.
        """
        tables: Any = params["embeddings"]
        ids, mask = check_ids(inputs, mask, self.config.vocab_size, self.config.max_tokens)
        types = jnp.zeros((), int) if token_types is None else self._check_types(token_types, mask)
        x = take_rows(tables["token"], ids)
        x = x + take_rows(tables["position"], positions(ids.shape[-1], mask), x.ndim)
        x = x + take_rows(tables["token_type"], types, x.ndim)
        return self._norm().apply({"params": tables["norm"]}, x), mask

    def _check_types(self, token_types, mask):
        types = as_array(token_types)
        if not jnp.issubdtype(types.dtype, jnp.integer):
            raise ValueError(f"token_types: expected whole numbers, got dtype {types.dtype}")
        if mask is not None:
            types = jnp.where(mask, types, 0)
        check_rows("token_types", types, None, self.config.num_token_types)
        return jnp.asarray(types)
