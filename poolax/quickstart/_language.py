"""Language: a small GPT-2 on Python's own documentation."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from poolax._progress import Progress
from poolax.backbones import GPT2Config, TextPreprocess
from poolax.data import Dataset
from poolax.data.language import next_token, topics
from poolax.data.tokens import train_tokenizer
from poolax.quickstart._recipes import pretraining_schedule
from poolax.quickstart._settings import Settings
from poolax.quickstart._study import Noisy, Study, Tokens
from poolax.training import Classification, NextToken, pretrain_next_token

_VOCAB_SIZE = 1000
# Most tokens of a beginning whose next token is predicted.
_MOST_CONTEXT = 32
# Tokens of the texts that blocks are trained on; longer ones are cut, shorter ones left out.
_BLOCK_TOKENS = 16
_NUM_PREFIXES = {"train": 4000, "validation": 400, "test": 400}
# Topics of too few paragraphs to be told apart still have text to pretrain on.
_FEW_PARAGRAPHS = 5


def language(out: epath.Path, settings: Settings, progress: Progress) -> Study:
    """The topic of a paragraph, and the next token of a text."""
    data = topics()
    texts: Any = data.inputs
    topic: Any = data.targets
    unlabelled = _unlabelled(data)
    longest = settings.max_tokens
    tokenizer = train_tokenizer(unlabelled, _VOCAB_SIZE, end_of_text=None)
    preprocess = TextPreprocess(tokenizer.to_str(), longest)
    ids, mask = preprocess(unlabelled)
    # Half the passes over twice the texts: such a small corpus is soon learned by heart.
    schedule = pretraining_schedule(
        max(1, settings.pretrain_epochs // 2),
        seed=settings.seed,
        out=out / "pretraining",
        progress=progress,
    )
    gpt2 = pretrain_next_token(
        GPT2Config(_VOCAB_SIZE, longest, width=64, num_layers=2, num_heads=4, mlp_dim=256),
        ids,
        schedule,
        mask=mask,
        preprocess=preprocess,
    )
    ids, mask = preprocess(texts.tolist())
    classification = Classification(len(data.class_names or ()))
    context = min(_MOST_CONTEXT, longest)
    # Short beginnings are fewer.
    numbers = {split: min(most, most * context // 20) for split, most in _NUM_PREFIXES.items()}
    prefixes = next_token(data, preprocess, context=context, num_examples=numbers, seed=settings.seed)
    chosen = data.splits["test"][: settings.num_inputs]
    embeddings, _ = gpt2.embed(gpt2.params, jnp.asarray(ids[chosen]), jnp.asarray(mask[chosen]))

    def encode(embedding, mask):
        return gpt2.encode(gpt2.params, embedding, mask)

    long = np.flatnonzero(mask[:, :_BLOCK_TOKENS].all(axis=1))
    values, _ = gpt2.embed(gpt2.params, jnp.asarray(ids[long, :_BLOCK_TOKENS]))
    position = np.full(len(ids), -1)
    position[long] = np.arange(len(long))
    splits = {name: position[part][position[part] >= 0] for name, part in data.splits.items()}
    return Study(
        backbone=gpt2,
        tasks=(
            (data, classification),
            (prefixes, NextToken(_VOCAB_SIZE)),
        ),
        noisy=Noisy(embeddings, jnp.asarray(mask[chosen]), encode),
        tokens=Tokens(np.asarray(values), topic[long], splits, classification),
        noise_sizes=(0.0, 0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0),
        further_share=0.5,
    )


def _unlabelled(data: Dataset) -> list[str]:
    """Paragraphs of the whole documentation, but for those that heads are validated and tested on."""
    texts: Any = data.inputs
    held_out = {*texts[data.splits["validation"]], *texts[data.splits["test"]]}
    everything: Any = topics(min_paragraphs=_FEW_PARAGRAPHS).inputs
    return [text for text in everything if text not in held_out]
