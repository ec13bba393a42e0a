"""Images and series that presets read."""

from typing import Any

import numpy as np

from poolax import data
from poolax.backbones import Backbone, ImagePreprocess, SeriesPreprocess
from poolax.data.series import read_series
from poolax.training import Progress
from poolax.training.pretraining import ArrayBatches, MaskedPatches, MaskedSeries
from pretraining._options import Options
from pretraining._prepared import Prepared, datasets, is_file
from pretraining._presets import Preset

# Of the series, which have no validation split of their own.
_HELD_OUT = 0.1


def images_of(options: Options, preset: Preset, progress: Progress, init: Backbone | None) -> Prepared:
    """What a model of images is trained on.

    Args:
        options: The command line.
        preset: The preset with all that is said otherwise.
        progress: Called with a description, the number done and the total.
        init: Model to go on from, whose sizes and preprocessing count in place of the preset's.

    Raises:
        ValueError: for several sets, or no images.
    """
    if len(preset.data) != 1:
        raise ValueError(f"data: expected one set of images, got {len(preset.data)}")
    images, held_out = _images(options, preset.data[0], progress, init)
    _, side, _, channels = images.shape
    is_bytes = images.dtype == np.uint8
    prepare: Any = ImagePreprocess(scale=1 / (255 if is_bytes else float(np.abs(images).max()) or 1.0))
    prepare = prepare if init is None or init.preprocess is None else init.preprocess
    config: Any = preset.image_config(side, channels) if init is None else init.config
    objective = MaskedPatches(config, preset.hidden_fraction)
    inputs = np.asarray(prepare(images), np.float32)
    tokens = (inputs.shape[1] // config.patch_size) ** 2
    rows = {"batch_size": preset.batch_size, "tokens_per_row": tokens}
    batches = ArrayBatches({"images": inputs}, **rows, seed=options.seed)
    evaluation = None
    if held_out is not None:
        held_out = np.asarray(prepare(held_out), np.float32)
        evaluation = ArrayBatches({"images": held_out}, **rows, shuffle=False)
    return Prepared(objective, batches, evaluation, prepare, images=inputs)


def _images(options, name, progress, init) -> tuple[np.ndarray, np.ndarray | None]:
    """Images to train on, and those that are held out."""
    if is_file(name):
        given = options.files.arguments()
        size = given.pop("size", None)
        if size is None:
            config: Any = None if init is None else init.config
            size = options.files.size if config is None else config.image_size
        return data.unlabelled.read_images(name, size=size, progress=progress, **given)
    [dataset] = datasets(options, [name])
    held_out = None
    if "validation" in dataset.splits:
        held_out = np.asarray(dataset.inputs[dataset.splits["validation"]])
    return data.unlabelled.training_images(dataset), held_out


def series_of(options: Options, preset: Preset, init: Backbone | None) -> Prepared:
    """What a model of series is trained on.

    Args:
        options: The command line.
        preset: The preset with all that is said otherwise.
        init: Model to go on from, whose sizes and preprocessing count in place of the preset's.

    Raises:
        ValueError: for other data, or too few series to hold some out.
    """
    config: Any = preset.series_config() if init is None else init.config
    if options.block is not None and options.block != config.num_steps:
        raise ValueError(
            f"block: expected {config.num_steps}, the steps of the model, got {options.block}"
        )
    sources: list[Any] = []
    for name in preset.data:
        if is_file(name):
            sources += data.unlabelled.read_series(name, **options.files.arguments())
        elif data.entry(name).task != "classification":
            embedded = data.entry(name).embedded is not None
            sources.append(read_series(name, None if embedded else options.data_dir))
        else:
            sources += datasets(options, [name])
    kept, held_out = data.unlabelled.held_out_series(
        sources, num_steps=config.num_steps, fraction=_HELD_OUT
    )
    tokens = config.num_steps // config.patch_len
    rows = {"batch_size": preset.batch_size, "tokens_per_row": tokens}

    preprocess: Any = SeriesPreprocess(config.num_steps, config.patch_len)
    preprocess = preprocess if init is None or init.preprocess is None else init.preprocess

    def batches(chosen, **how):
        sizes = {"num_steps": config.num_steps, "patch_len": config.patch_len}
        series, observed = data.unlabelled.training_series(chosen, **sizes)
        return ArrayBatches({"series": series, "observed": observed}, **rows, **how)

    return Prepared(
        MaskedSeries(config, preset.hidden_fraction),
        batches(kept, seed=options.seed),
        batches(held_out, shuffle=False),
        preprocess,
    )
