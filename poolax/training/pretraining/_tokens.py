"""Objectives of texts: the next token, and tokens that are hidden."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from poolax import codec
from poolax._checks import check_count, check_instance, check_number
from poolax._norms import LayerNorm
from poolax._numerics import accumulation_dtype
from poolax.backbones import GPT2, Bert, BertConfig, Decoder, DecoderConfig, GPT2Config
from poolax.training.pretraining._objective import Objective, array_of, dense, linear

# Of logits that are there at once where they are computed again.
_TOKENS = 256


def token_losses(
    states: Float[Array, "*batch d"],
    table: Float[Array, "V d"],
    labels: Int[Array, "*batch"],
    bias=None,
    *,
    remat: bool = False,
) -> Float[Array, "*batch"]:
    """Cross-entropy of labels, with a table of embeddings as the output layer, in at least float32.

    The label's logit is picked by comparing numbers: the gradient of that is no scatter into logits.
    With ``remat`` logits of few rows are there at a time, and are computed again in the backward pass.
    """
    dtype, table = accumulation_dtype(states), table.astype(states.dtype)

    def of_rows(states, labels):
        logits = jnp.einsum("...d,vd->...v", states, table, preferred_element_type=dtype)
        if bias is not None:
            logits = logits + bias.astype(dtype)
        last = logits.ndim - 1
        is_label = jax.lax.broadcasted_iota(jnp.int32, logits.shape, last) == labels[..., None]
        of_label = jnp.sum(jnp.where(is_label, logits, 0), axis=-1)
        return jax.nn.logsumexp(logits, axis=-1) - of_label

    if not remat:
        return of_rows(states, labels)
    of_row = jax.checkpoint(of_rows)
    at_once = min(len(states), max(1, _TOKENS // states.shape[-2]))
    return jax.lax.map(lambda row: of_row(*row), (states, labels), batch_size=at_once)


@codec.register("recipe", "next_token")
@dataclasses.dataclass(frozen=True)
class NextToken(Objective):
    """Each token of a text is predicted from those before it.

    Cross-entropy, with the token embeddings as the output layer. Every token state enters the loss, so
    that no pooler is favoured. A batch has ``"ids"``, shape ``(rows, n)``, of which ``ids[:, 1:]`` are
    predicted, and maybe ``"mask"``, True at real tokens. Every predicted token weighs the same.

    Attributes:
        config: A :class:`GPT2Config` or :class:`DecoderConfig`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from poolax.backbones import GPT2Config
        >>> objective = NextToken(GPT2Config(20, 8, width=8, num_layers=1, num_heads=2, mlp_dim=8))
        >>> params = objective.init(jax.random.key(0))
        >>> keys = jax.random.split(jax.random.key(1), 3)
        >>> batch = {"ids": jnp.ones((3, 5), int)}
        >>> losses, weights = objective.loss(objective.model(), params, batch, keys)
        >>> losses.shape, weights.tolist()
        ((3,), [4.0, 4.0, 4.0])
    """

    families: ClassVar = {GPT2Config: GPT2, DecoderConfig: Decoder}
    former: ClassVar[str | None] = "next token"

    def check(self, batch: Mapping[str, Any]) -> None:
        """See :class:`Objective`."""
        ids = array_of(batch, "ids", 2, "(rows, n)")
        if ids.shape[1] < 2:
            raise ValueError(f"ids: expected shape (rows, n) with n >= 2, got {ids.shape}")
        _check_ids(self.config, ids, batch.get("mask"), ids.shape[1] - 1)

    def loss(self, model, params, batch, keys):
        """See :class:`Objective`."""
        del keys
        ids, mask = batch["ids"], batch.get("mask")
        before = None if mask is None else mask[:, :-1]
        states = model.apply(params, ids[:, :-1], before).states
        table = params["embeddings"]["token"]
        losses = token_losses(states, table, ids[:, 1:], remat=model.remat)
        scored = jnp.ones(losses.shape, bool) if mask is None else mask[:, 1:] & mask[:, :-1]
        return jnp.sum(jnp.where(scored, losses, 0), axis=-1), jnp.sum(scored, axis=-1, dtype=float)


@codec.register("recipe", "masked_tokens")
@dataclasses.dataclass(frozen=True)
class MaskedTokens(Objective):
    """Hidden tokens of a text are filled in from all others.

    Of the tokens that may be hidden a share is chosen, at least one a row: eight of ten become the mask
    token, one a random one, and one stays. Their states pass a linear layer, GELU and a norm, and the
    token embeddings with a bias are the output layer. A batch has ``"ids"``, shape ``(rows, n)``, and
    maybe ``"mask"``, True at real tokens. Every predicted token weighs the same.

    Attributes:
        config: A :class:`BertConfig`.
        mask_id: Id of the mask token.
        hidden_fraction: Share of the tokens that are predicted.
        kept_ids: Ids that are never hidden, such as CLS and SEP.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from poolax.backbones import BertConfig
        >>> config = BertConfig(20, 8, width=8, num_layers=1, num_heads=2, mlp_dim=8)
        >>> objective = MaskedTokens(config, mask_id=3, kept_ids=(1, 2))
        >>> params = objective.init(jax.random.key(0))
        >>> keys = jax.random.split(jax.random.key(1), 2)
        >>> batch = {"ids": jnp.array([[1, 5, 6, 7, 2], [1, 8, 4, 9, 2]])}
        >>> objective.loss(objective.model(), params, batch, keys)[1].tolist()
        [1.0, 1.0]

    Reference:
        Devlin et al., "BERT" (NAACL 2019).
    """

    mask_id: int
    hidden_fraction: float = 0.15
    kept_ids: tuple[int, ...] = ()

    families: ClassVar = {BertConfig: Bert}

    def __post_init__(self):
        """Refuse what is out of range."""
        super().__post_init__()
        check_count("mask_id", self.mask_id, at_least=0)
        if self.mask_id >= self.config.vocab_size:
            raise ValueError(
                f"mask_id: expected below the vocabulary's {self.config.vocab_size}, got {self.mask_id}"
            )
        check_number("hidden_fraction", self.hidden_fraction, above=0.0, below=1.0)
        check_instance("kept_ids", self.kept_ids, tuple, "a tuple of ids")

    def init(self, key):
        """See :class:`Objective`."""
        model_key, head_key = jax.random.split(key)
        params, config = super().init(model_key), self.config
        width = params["embeddings"]["token"].shape[1]
        head = {
            "transform": dense(head_key, config.width, width),
            "norm": {"scale": jnp.ones(width), "bias": jnp.zeros(width)},
            "bias": jnp.zeros(config.vocab_size),
        }
        return {"backbone": params, "head": head}

    def of_backbone(self, params):
        """See :class:`Objective`."""
        return params["backbone"]

    def with_backbone(self, params, of_backbone):
        """See :class:`Objective`."""
        return {**params, "backbone": of_backbone}

    def check(self, batch: Mapping[str, Any]) -> None:
        """See :class:`Objective`."""
        ids = array_of(batch, "ids", 2, "(rows, n)")
        _check_ids(self.config, ids, batch.get("mask"), ids.shape[1])

    def loss(self, model, params, batch, keys):
        """See :class:`Objective`."""
        ids, mask = batch["ids"], batch.get("mask")
        may = jnp.ones(ids.shape, bool) if mask is None else mask
        for kept in self.kept_ids:
            may = may & (ids != kept)
        most = max(1, round(self.hidden_fraction * ids.shape[1]))
        draw = jax.vmap(lambda ids, may, key: self._hide(ids, may, key, most))
        shown, places, weights = draw(ids, may, keys)
        head, backbone = params["head"], params["backbone"]
        states = model.apply(backbone, shown, mask).states
        # Only what is predicted meets the vocabulary: (rows, most, d).
        states = jnp.take_along_axis(states, places[..., None], axis=1)
        states = jax.nn.gelu(linear(head["transform"], states), approximate=False)
        norm: Any = LayerNorm(epsilon=self.config.norm_eps, use_fast_variance=False, parent=None)
        states = norm.apply({"params": head["norm"]}, states).astype(states.dtype)
        labels = jnp.take_along_axis(ids, places, axis=1)
        table = backbone["embeddings"]["token"]
        losses = token_losses(states, table, labels, head["bias"], remat=model.remat)
        return jnp.sum(losses * weights, axis=-1), jnp.sum(weights, axis=-1)

    def _hide(self, ids, may, key, most):
        """Ids of a row with some hidden, where those are, and 1 for each of them that counts."""
        choice_key, kind_key, token_key = jax.random.split(key, 3)
        scores = jnp.where(may, jax.random.uniform(choice_key, ids.shape), -1.0)
        scores, places = jax.lax.top_k(scores, most)
        number = jnp.maximum(1, jnp.round(self.hidden_fraction * jnp.sum(may)))
        counts = (scores >= 0) & (jnp.arange(most) < number)
        kind = jax.random.uniform(kind_key, (most,))
        before = ids[places]
        drawn = jax.random.randint(token_key, (most,), 0, self.config.vocab_size, before.dtype)
        after = jnp.where(kind < 0.8, self.mask_id, jnp.where(kind < 0.9, drawn, before))
        shown = ids.at[places].set(jnp.where(counts, after, before))
        return shown, places, counts.astype(float)


def _check_ids(config, ids, mask, num_tokens):
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"ids: expected whole numbers, got dtype {ids.dtype}")
    most = config.max_tokens
    if most is not None and num_tokens > most:
        raise ValueError(f"ids: expected at most {most} tokens that are read, got {num_tokens}")
    if mask is not None and (mask.shape != ids.shape or mask.dtype != bool):
        raise ValueError(f"mask: expected bool of shape {ids.shape}, got {mask.dtype} {mask.shape}")
    real = ids if mask is None else ids[mask]
    if real.size and (real.min() < 0 or real.max() >= config.vocab_size):
        raise ValueError(
            f"ids: expected numbers from 0 to {config.vocab_size - 1}, got {real.min()} to {real.max()}"
        )
