"""Vision: a small Vision Transformer on scikit-learn's handwritten digits."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from poolax._progress import Progress
from poolax.backbones import ImagePreprocess
from poolax.data.vision import digits, inpainting, segmentation
from poolax.quickstart._recipes import pretrain_vit, pretraining_schedule
from poolax.quickstart._settings import Settings
from poolax.quickstart._study import Noisy, Study, Tokens
from poolax.training import Classification, Inpainting, Segmentation


def vision(out: epath.Path, settings: Settings, progress: Progress) -> Study:
    """Classification, inpainting and foreground segmentation of digits."""
    data = digits()
    schedule = pretraining_schedule(
        settings.pretrain_epochs, seed=settings.seed, out=out / "pretraining", progress=progress
    )
    images = np.asarray(data.inputs[data.splits["train"]])
    vit = pretrain_vit(images, schedule, patch_size=2, preprocess=ImagePreprocess(scale=1 / 16))
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
