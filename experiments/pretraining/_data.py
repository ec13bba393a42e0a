"""What presets read: batches to train on, batches held out, preprocessing and objective."""

import dataclasses
from typing import Any

import numpy as np
from etils import epath

from poolax.backbones import Backbone, ViT, is_saved_backbone
from poolax.training import Progress
from pretraining._arrays import images_of, series_of
from pretraining._options import Options
from pretraining._prepared import Prepared, errors_of_data, objective_of
from pretraining._presets import Preset
from pretraining._texts import texts_of


def prepare(
    options: Options,
    preset: Preset,
    out: epath.Path,
    progress: Progress,
    init: Backbone | None = None,
) -> Prepared:
    """Read what a preset is trained on.

    Args:
        options: The command line.
        preset: The preset with all that is said otherwise.
        out: Folder for token files.
        progress: Called with a description, the number done and the total.
        init: Model to go on from, whose sizes and preprocessing count in place of the preset's.

    Raises:
        ValueError: for data or a model of another kind, or no data.
    """
    if not preset.data:
        raise ValueError("data: expected token files or texts for this preset, got none")
    if init is not None:
        _check_kind(preset, init)
    reads_texts = preset.family in ("gpt2", "bert")
    for name in ("tokenizer", "token_dtype"):
        if not reads_texts and getattr(options, name) is not None:
            raise ValueError(f"{name}: expected none for {preset.title}, which reads no texts, got one")
    with errors_of_data():
        if reads_texts:
            model = None if options.init is None else path_of_model(options.init)
            return texts_of(options, preset, out, progress, init, model)
        if preset.family == "moment":
            return series_of(options, preset, init)
        return images_of(options, preset, progress, init)


def path_of_model(init: str) -> str:
    """Where the model lies that training goes on from.

    Args:
        init: A checkpoint or a hub id, which stay as they are, or the folder of another run.
    """
    of_run = epath.Path(init) / "backbone"
    return str(of_run) if is_saved_backbone(of_run) else init


def with_mask_token(model: Backbone) -> Backbone:
    """A ViT with a token for hidden patches, of zeros where it has none; others stay as they are.

    Args:
        model: Any.
    """
    config: Any = model.config
    if not isinstance(model, ViT) or config.use_mask_token:
        return model
    vit: Any = model
    token = np.zeros(config.width, np.float32)
    params = {**vit.params, "embeddings": {**vit.params["embeddings"], "mask_token": token}}
    return vit.replace(config=dataclasses.replace(config, use_mask_token=True), params=params)


def _check_kind(preset, init):
    families = objective_of(preset).families
    if type(init.config) not in families:
        names = ", ".join(family.__name__ for family in families.values())
        raise ValueError(
            f"init: expected a model of {names} for a preset of {preset.family}, got "
            f"{type(init).__name__}"
        )
