"""BERT and what was made of it: Post-LN blocks, every token sees every other."""

import dataclasses
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int, PyTree

from poolax import codec
from poolax._activations import activation_from_name
from poolax._checks import check_count, check_divides, check_instance, check_number
from poolax.attention import MultiHeadAttention, Rotary
from poolax.backbones import _layers
from poolax.backbones._base import BlockBackbone
from poolax.backbones._relative import relative_bias, with_relative_bias
from poolax.backbones._text import (
    as_array,
    check_ids,
    check_rows,
    positions,
    positions_from,
    take_rows,
)
from poolax.blocks import FeedForward, GatedFeedForward, PostLNBlock


@codec.register("backbone", "bert")
@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes and switches of a BERT; the default is BERT-base.

    Attributes:
        vocab_size: Number of token ids.
        max_tokens: Most tokens of a sequence.
        width: Width ``d`` of the tokens.
        num_layers: Number of blocks.
        num_heads: Attention heads; divides ``width``.
        mlp_dim: Width of the feed-forward layers.
        num_token_types: Kinds of segments; 0 for a model without segments.
        activation: Name of the activation.
        norm_eps: What LayerNorm adds to the variance.
        embedding_dim: Width of the embeddings, which a linear map then brings to ``width``, as in
            ELECTRA; ``None`` if they have that width.
        pad_id: Number of the row of a padded position, from which on those of real tokens are counted,
            as in RoBERTa; ``None`` if positions count from 0.
        num_buckets: Kinds of distance that a relative bias of the logits tells apart, as in MPNet;
            0 for none.
        max_distance: Distance in tokens from which on all distances are one to that bias.
        rotary: Rotary positions in place of learned ones, as in Nomic BERT; ``None`` for learned ones.
        use_gate: Gated feed-forward layers.
        use_bias: Biases in the attention and the feed-forward layers.
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
    embedding_dim: int | None = None
    pad_id: int | None = None
    num_buckets: int = 0
    max_distance: int = 128
    rotary: Rotary | None = None
    use_gate: bool = False
    use_bias: bool = True

    def __post_init__(self):
        """Refuse sizes that do not fit."""
        for field in ("vocab_size", "max_tokens", "width", "num_layers", "num_heads", "mlp_dim"):
            check_count(field, getattr(self, field))
        check_count("num_token_types", self.num_token_types, at_least=0)
        if self.embedding_dim is not None:
            check_count("embedding_dim", self.embedding_dim)
        if self.pad_id is not None:
            check_count("pad_id", self.pad_id, at_least=0)
        if self.num_buckets:
            check_count("num_buckets", self.num_buckets, at_least=4)
            check_count("max_distance", self.max_distance, at_least=self.num_buckets // 4 + 1)
        check_instance("rotary", self.rotary, Rotary | None, "attention.Rotary or None")
        check_divides("num_heads", self.num_heads, "width", self.width)
        check_number("norm_eps", self.norm_eps, above=0.0)
        activation_from_name(self.activation)

    @property
    def table_sizes(self) -> dict[str, int]:
        """Number of rows of each table of embeddings."""
        sizes = {"token": self.vocab_size}
        if self.rotary is None:
            first = 0 if self.pad_id is None else self.pad_id + 1
            sizes["position"] = self.max_tokens + first
        if self.num_token_types:
            sizes["token_type"] = self.num_token_types
        return sizes


@struct.dataclass
class Bert(BlockBackbone):
    """BERT encoder with Post-LN blocks: BERT, RoBERTa, ELECTRA, DistilBERT, MPNet, Nomic BERT.

    Inputs are token ids, ``(*batch, n)``; the tokenizer puts CLS in front and SEP at the end.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> config = BertConfig(50, 16, width=8, num_layers=2, num_heads=2, mlp_dim=16)
        >>> bert = Bert.init(config, jax.random.key(0))
        >>> bert(jnp.array([[2, 7, 3]])).states.shape
        (1, 3, 8)

    Reference:
        Devlin et al., "BERT" (NAACL 2019); Liu et al., "RoBERTa" (2019); Clark et al., "ELECTRA"
        (ICLR 2020); Sanh et al., "DistilBERT" (2019); Song et al., "MPNet" (NeurIPS 2020); Nussbaum
        et al., "Nomic Embed" (2024).
    """

    summary_token: ClassVar[str] = "first"
    modality: ClassVar[str] = "language"
    num_prefix: ClassVar[int] = 1
    norm_first: ClassVar[bool] = False

    @classmethod
    def init_embeddings(cls, config, key):
        """See :meth:`BlockBackbone.init_embeddings`."""
        keys = dict(zip(("token", "position", "token_type"), jax.random.split(key, 3), strict=True))
        width = config.embedding_dim or config.width
        found: dict[str, Any] = {
            name: 0.02 * jax.random.normal(keys[name], (size, width))
            for name, size in config.table_sizes.items()
        }
        found["norm"] = {"scale": jnp.ones(width), "bias": jnp.zeros(width)}
        if config.embedding_dim is not None:
            project = nn.Dense(config.width, parent=None)
            found["project"] = project.init(keys["token"], jnp.zeros((1, width)))["params"]
        return found

    @classmethod
    def init(cls, config: Any, key: Array, preprocess: Any = None) -> Self:
        """See :meth:`BlockBackbone.init`."""
        model = super().init(config, key, preprocess)
        if not config.num_buckets:
            return model
        encoder = with_relative_bias(model, jax.random.fold_in(key, 1))
        return dataclasses.replace(model, params={**model.params, "encoder": encoder})

    def block(self, index: int) -> nn.Module:
        """See :meth:`BlockBackbone.block`."""
        del index
        config = self.config
        ffn = GatedFeedForward if config.use_gate else FeedForward
        activation = activation_from_name(config.activation)
        attention = MultiHeadAttention(
            config.num_heads, rotary=config.rotary, use_bias=config.use_bias, parent=None
        )
        return PostLNBlock(
            attention,
            ffn(config.mlp_dim, activation, use_bias=config.use_bias, parent=None),
            self._norm(),
            self._norm(),
        )

    def logit_bias(self, params: PyTree, num_tokens: int) -> Array | None:
        """See :meth:`BlockBackbone.logit_bias`."""
        if not self.config.num_buckets:
            return None
        return relative_bias(params["encoder"]["relative_bias"], self.config, num_tokens)

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
        tables = params["embeddings"]
        config = self.config
        ids, mask = check_ids(inputs, mask, config.vocab_size, config.max_tokens)
        x = take_rows(tables["token"], ids)
        if config.rotary is None:
            if config.pad_id is None:
                rows = positions(ids.shape[-1], mask)
            else:
                rows = positions_from(config.pad_id, ids, mask)
            x = x + take_rows(tables["position"], rows, x.ndim)
        types = None if token_types is None else self._check_types(token_types, mask)
        if config.num_token_types:
            types = jnp.zeros((), int) if types is None else types
            x = x + take_rows(tables["token_type"], types, x.ndim)
        x = self._norm().apply({"params": tables["norm"]}, x)
        if config.embedding_dim is not None:
            x = nn.Dense(config.width, parent=None).apply({"params": tables["project"]}, x)
        return x, mask

    def _check_types(self, token_types, mask):
        if not self.config.num_token_types:
            raise ValueError("token_types: expected None for a model without segments")
        types = as_array(token_types)
        if not jnp.issubdtype(types.dtype, jnp.integer):
            raise ValueError(f"token_types: expected whole numbers, got dtype {types.dtype}")
        if mask is not None:
            types = jnp.where(mask, types, 0)
        check_rows("token_types", types, None, self.config.num_token_types)
        return jnp.asarray(types)
