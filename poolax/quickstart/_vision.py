"""Vision: a small Vision Transformer on scikit-learn's handwritten digits."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from poolax.backbones import ImagePreprocess, ViTConfig
from poolax.data.vision import digits, inpainting, segmentation
from poolax.quickstart._settings import Settings
from poolax.quickstart._study import Noisy, Study, Tokens, schedule
from poolax.training import Classification, Inpainting, Segmentation, pretrain_masked_patches
from poolax.training.step import Progress

_CONFIG = ViTConfig(8, 2, 1, width=64, num_layers=2, num_heads=4, mlp_dim=256, use_mask_token=True)


def vision(out: epath.Path, settings: Settings, progress: Progress) -> Study:
    """Classification, inpainting and foreground segmentation of digits."""
    data = digits()
    vit = pretrain_masked_patches(
        _CONFIG,
        np.asarray(data.inputs[data.splits["train"]]),
        schedule(settings, out, progress, learning_rate=3e-3),
        preprocess=ImagePreprocess(scale=1 / 16),
        hidden_fraction=0.75,
    )
    classification = Classification(10)
    masked = inpainting(data, output_grid=8)
    hidden: Any = masked.targets
    segments = segmentation(data, output_grid=8)
    inputs = vit.preprocess(data.inputs[data.splits["test"][: settings.num_inputs]])
    embeddings, _ = vit.embed(vit.params, vit.preprocess(data.inputs))
    patches = np.asarray(jnp.asarray(embeddings)[:, vit.num_prefix :])
    return Study(
        backbone=vit,
        tasks=(
            (data, classification),
            (masked, Inpainting(hidden.shape[1])),
            (segments, Segmentation(2, output_grid=8)),
        ),
        noisy=Noisy(inputs, None, vit),
        tokens=Tokens(patches, data.targets, dict(data.splits), classification),
    )
