"""A GPT-2 learns to predict the next token."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from poolax._checks import check_instance
from poolax.backbones import GPT2, GPT2Config
from poolax.training.pretraining._schedule import Schedule, run_schedule
from poolax.training.pretraining._tokens import NextToken


def pretrain_next_token(
    config: GPT2Config,
    ids: Int[np.ndarray, "N n"],
    schedule: Schedule,
    *,
    mask: Bool[np.ndarray, "N n"] | None = None,
    preprocess=None,
) -> GPT2:
    """Pretrain a GPT-2 to predict each token of a text from those before it.

    Cross-entropy of the next token, with the token embeddings as the output layer. Every token state
    enters the loss, so that no pooler is favoured.

    Args:
        config: Sizes.
        ids: Token ids of texts, shape ``(N, n)``, at least two tokens wide.
        schedule: How long and how fast, and where checkpoints stand.
        mask: True at real tokens; ``None`` if all are real.
        preprocess: Maps texts to the model's input; kept in the model.

    Returns:
        The model.

    Raises:
        ValueError: for ids of the wrong shape or outside the vocabulary, or a checkpoint of another
            configuration or other texts.
        FloatingPointError: if the loss does not stay finite.

    Example:
        >>> import numpy as np
        >>> from poolax.backbones import GPT2Config
        >>> config = GPT2Config(20, 8, width=8, num_layers=1, num_heads=2, mlp_dim=8)
        >>> ids = np.random.default_rng(0).integers(0, 20, (6, 8))
        >>> gpt2 = pretrain_next_token(config, ids, Schedule(epochs=1, batch_size=4))
        >>> gpt2(ids).states.shape
        (6, 8, 8)
    """
    check_instance("config", config, GPT2Config, "a GPT2Config")
    check_instance("schedule", schedule, Schedule, "a Schedule")
    ids = np.asarray(ids)
    mask = np.ones(ids.shape, bool) if mask is None else np.asarray(mask)
    model: Any = run_schedule(schedule, NextToken(config), {"ids": ids, "mask": mask}, preprocess)
    return model
