"""A Vision Transformer learns to fill in hidden patches."""

from typing import Any

import numpy as np
from jaxtyping import Float

from poolax._checks import check_instance
from poolax.backbones import ViT, ViTConfig
from poolax.training.pretraining._masked_patches import MaskedPatches
from poolax.training.pretraining._schedule import Schedule, run_schedule


def pretrain_masked_patches(
    config: ViTConfig,
    images: Float[np.ndarray, "N h w c"],
    schedule: Schedule,
    *,
    preprocess=None,
    hidden_fraction: float = 0.5,
) -> ViT:
    """Pretrain a Vision Transformer to reconstruct hidden patches from the others.

    Half of the patches (``hidden_fraction``) are replaced by a learned mask token, and the mean
    squared error of their pixels, read linearly from their own token states, is minimised. No label
    is seen, and the loss reads patch tokens one by one, so that no pooler is favoured; the CLS token is
    attended to, but its output enters no loss.

    Args:
        config: Sizes; ``use_mask_token`` has to be set.
        images: Raw images, shape ``(N, h, w, c)``.
        schedule: How long and how fast, and where checkpoints stand.
        preprocess: Maps raw images to the model's input; kept in the model.
        hidden_fraction: Fraction of the patches that is hidden, between 0 and 1.

    Returns:
        The model.

    Raises:
        ValueError: for numbers out of range, a model without a mask token, images of the wrong shape,
            or a checkpoint of another configuration or other images.
        FloatingPointError: if the loss does not stay finite.

    Example:
        >>> import numpy as np
        >>> from poolax.backbones import ViTConfig
        >>> sizes = {"width": 8, "num_layers": 1, "num_heads": 2, "mlp_dim": 8}
        >>> config = ViTConfig(4, 2, 1, **sizes, use_mask_token=True)
        >>> images = np.random.default_rng(0).normal(size=(6, 4, 4, 1)).astype(np.float32)
        >>> vit = pretrain_masked_patches(config, images, Schedule(epochs=1, batch_size=4))
        >>> vit(images).states.shape
        (6, 5, 8)
    """
    check_instance("config", config, ViTConfig, "a ViTConfig")
    check_instance("schedule", schedule, Schedule, "a Schedule")
    objective = MaskedPatches(config, hidden_fraction)
    inputs = np.asarray(images if preprocess is None else preprocess(images))
    if inputs.ndim != 4 or not len(inputs):
        raise ValueError(f"images: expected shape (N, h, w, c) with N >= 1, got {inputs.shape}")
    model: Any = run_schedule(schedule, objective, {"images": inputs}, preprocess)
    return model
