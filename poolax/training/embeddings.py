"""Embeddings of texts and other inputs, pooled as the checkpoint says that it was trained."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from poolax._checks import check_count, check_instance
from poolax._dataset import Inputs
from poolax._inputs import are_integers
from poolax._programs import kept_program
from poolax._progress import Progress, no_progress
from poolax._signals import stop_asked
from poolax.backbones import Backbone, TextPreprocess
from poolax.records import TokenStates
from poolax.training._states.features import FeaturePass


def embed(
    backbone: Backbone,
    inputs: Inputs | np.ndarray | Sequence[str],
    mask: Any = None,
    *,
    prompt: str | None = None,
    prompt_name: str | None = None,
    batch_size: int = 256,
    should_stop: Callable[[], bool] = stop_asked,
    progress: Progress = no_progress,
) -> Float[np.ndarray, "N k"]:
    """Embeddings of inputs by the pooler that a backbone's checkpoint was trained with.

    Of a sentence-transformers folder these are the reference library's: its limit of tokens, its
    prompts, its pooling, its linear layers, its normalisation. Texts are sorted by length, batches
    split over the devices.

    Args:
        backbone: A backbone with a ``pooler``; ``backbone.replace(pooler=…)`` takes another one.
        inputs: Texts, raw inputs or token ids, shape ``(N, ...)``.
        mask: True at real tokens, shape ``(N, n)``; ``None`` if all are real, and for texts.
        prompt: What stands in front of every text; ``None`` for the checkpoint's default.
        prompt_name: Name of one of the checkpoint's prompts instead.
        batch_size: Inputs at a time over the local devices.
        should_stop: Asked after every batch; see :func:`stop_on_sigterm`.
        progress: Called with a description, the number done and the total.

    Returns:
        The embeddings, shape ``(N, k)``, in the order of ``inputs``.

    Raises:
        ValueError: for a backbone without a pooler, prompts without texts, or as
            :func:`extract_states` raises.
        PreemptedError: if asked to stop.

    Example:
        >>> import jax
        >>> from poolax.backbones import ViT, ViTConfig
        >>> from poolax.pooling import AveragePool
        >>> config = ViTConfig(4, 2, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
        >>> vit = ViT.init(config, jax.random.key(0)).replace(pooler=AveragePool())
        >>> embed(vit, np.zeros((3, 4, 4, 1), np.float32)).shape
        (3, 8)
    """
    check_instance("backbone", backbone, Backbone, "a Backbone")
    if backbone.pooler is None:
        raise ValueError(
            f"backbone: expected one with a pooler, got none of {backbone.name or 'the backbone'}; "
            "give it one by backbone.replace(pooler=…)"
        )
    prepare, skipped = backbone.preprocess, 0
    if isinstance(prepare, TextPreprocess) and not are_integers(inputs):
        if mask is not None:
            raise ValueError("mask: expected None for texts, whose tokens are counted here")
        skipped = prepare.tokens_not_pooled(prompt, prompt_name)
        inputs, mask = prepare(inputs, prompt=prompt, prompt_name=prompt_name)  # type: ignore[arg-type]
    elif prompt is not None or prompt_name is not None:
        raise ValueError("prompt: expected None where no texts are tokenised here, got one")
    check_count("batch_size", batch_size)
    # Few inputs are not padded to a whole batch; powers of two keep programs few.
    batch_size = min(batch_size, 2 ** (max(len(inputs), 1) - 1).bit_length())
    passed = FeaturePass(backbone, inputs, mask, batch_size=batch_size, should_stop=should_stop)
    pool = _pool_program((), dataclasses.replace(backbone, params=None), skipped)
    params = {"pooler": backbone.params.get("pooler", {})}
    embeddings = None
    for positions, batch in passed.batches(progress):
        vectors = np.asarray(pool(params, batch.states, batch.mask))
        if embeddings is None:
            embeddings = np.zeros((passed.num_examples, *vectors.shape[1:]), vectors.dtype)
        embeddings[positions] = vectors
    return np.asarray(embeddings)


@kept_program
def _pool_program(backbone, skipped):
    def pool(params, states, mask):
        return backbone.pool(params, TokenStates(states, mask, backbone.num_prefix), skipped=skipped)

    return jax.jit(pool)
