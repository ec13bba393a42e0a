"""How small backbones are pretrained without labels."""

import numpy as np
from etils import epath
from jaxtyping import Float

from poolax._progress import Progress, no_progress
from poolax.backbones import (
    ImagePreprocess,
    Moment,
    MomentConfig,
    SeriesPreprocess,
    ViT,
    ViTConfig,
)
from poolax.training import Schedule, pretrain_masked_patches, pretrain_masked_series


def pretraining_schedule(
    epochs: int, *, seed: int, out: epath.PathLike | None, progress: Progress = no_progress
) -> Schedule:
    """How long and how fast a small backbone is pretrained: batches of 32, at most 3e-3.

    Args:
        epochs: Passes over the examples.
        seed: Sets everything random.
        out: Folder for checkpoints, from which a run goes on; ``None`` writes nothing.
        progress: Called with a description, the number of epochs done and the total.
    """
    return Schedule(
        epochs=epochs, batch_size=32, learning_rate=3e-3, seed=seed, out=out, progress=progress
    )


def pretrain_vit(
    images: Float[np.ndarray, "N side side c"],
    schedule: Schedule,
    *,
    patch_size: int,
    preprocess: ImagePreprocess,
) -> ViT:
    """A small Vision Transformer that has learned to fill in three quarters of the patches.

    Args:
        images: Raw square images of the training split.
        schedule: How long and how fast.
        patch_size: Pixels a side of a patch.
        preprocess: Maps raw images to the model's input.

    Returns:
        The model, two layers of width 64.
    """
    _, side, _, channels = images.shape
    config = ViTConfig(
        side,
        patch_size,
        channels,
        width=64,
        num_layers=2,
        num_heads=4,
        mlp_dim=256,
        use_mask_token=True,
    )
    return pretrain_masked_patches(
        config, images, schedule, preprocess=preprocess, hidden_fraction=0.75
    )


def pretrain_moment(
    series: Float[np.ndarray, "N steps"], schedule: Schedule, *, num_steps: int, patch_len: int
) -> Moment:
    """A small patch transformer that has learned to fill in hidden patches of series.

    Args:
        series: Raw series of the training split, NaN where steps are missing.
        schedule: How long and how fast.
        num_steps: Steps that series are brought to.
        patch_len: Steps of a patch.

    Returns:
        The model, two layers of width 64.
    """
    config = MomentConfig(
        num_steps=num_steps,
        patch_len=patch_len,
        max_patches=num_steps // patch_len,
        width=64,
        num_layers=2,
        num_heads=4,
        head_dim=16,
        mlp_dim=128,
    )
    preprocess = SeriesPreprocess(num_steps, patch_len)
    return pretrain_masked_series(config, series, schedule, preprocess=preprocess)
