"""What presets read: batches to train on, batches held out, preprocessing and objective."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from poolax import data
from poolax.backbones import (
    Backbone,
    ImagePreprocess,
    SeriesPreprocess,
    TextPreprocess,
    is_saved_backbone,
)
from poolax.cli import is_own, load_data
from poolax.data.series import read_series
from poolax.records import digest
from poolax.training import Progress
from poolax.training.pretraining import (
    ArrayBatches,
    Batches,
    MaskedPatches,
    MaskedSeries,
    MaskedTokens,
    NextToken,
    Objective,
    TokenBatches,
)
from pretraining._options import Options
from pretraining._presets import Preset

_MASK = "[MASK]"
# Of the windows of series, which have no validation split of their own.
_HELD_OUT = 0.1
# Texts that share this much with one that is held out are not trained on.
_NEAR_COPIES = 0.3


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a run is made of.

    Attributes:
        objective: What is learned.
        batches: What it is learned from.
        evaluation: Batches held out, or ``None``.
        preprocess: From raw inputs to the model's.
        images: Preprocessed images that are trained on; else ``None``.
    """

    objective: Objective
    batches: Batches
    evaluation: Batches | None
    preprocess: Any
    images: np.ndarray | None = None

    def inputs(self, count: int) -> Any:
        """Fixed inputs, the first that are held out: token ids, images or series."""
        batch = (self.batches if self.evaluation is None else self.evaluation).batch(0)
        name = next(name for name in ("ids", "images", "series") if name in batch)
        rows = np.asarray(batch[name][:count])
        if name != "ids":
            return rows
        most = self.objective.config.max_tokens
        return rows[:, :most].astype(np.int32)


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
    if preset.family in ("gpt2", "bert"):
        return _texts(options, preset, out, progress, init)
    if preset.family == "moment":
        return _series(options, preset, init)
    return _images(options, preset, init)


def path_of_model(init: str) -> str:
    """Where the model lies that training goes on from.

    Args:
        init: A checkpoint or a hub id, which stay as they are, or the folder of another run.
    """
    of_run = epath.Path(init) / "backbone"
    return str(of_run) if is_saved_backbone(of_run) else init


def _objective_of(preset):
    kinds = {"gpt2": NextToken, "bert": MaskedTokens, "moment": MaskedSeries}
    return kinds.get(preset.family, MaskedPatches)


def _check_kind(preset, init):
    families = _objective_of(preset).families
    if type(init.config) not in families:
        names = ", ".join(family.__name__ for family in families.values())
        raise ValueError(
            f"init: expected a model of {names} for a preset of {preset.family}, got "
            f"{type(init).__name__}"
        )


def _datasets(options: Options, names: Sequence[str]) -> list[data.Dataset]:
    found = []
    for name in names:
        embedded = not is_own(name) and data.entry(name).embedded is not None
        folder = None if is_own(name) or embedded else options.data_dir
        found.append(load_data(name, options.files, data_dir=folder)[1])
    return found


def _texts(options, preset, out, progress, init) -> Prepared:
    tokens, tokenizer = _token_files(options, preset, out, progress)
    record = data.tokens.read(tokens).record if epath.Path(tokens).is_dir() else {}
    objective = _of_texts(preset, record.get("vocab_size", preset.vocab_size), record, tokenizer, init)
    most = objective.config.max_tokens
    rows = {
        "block": preset.block if most is None else min(preset.block, most),
        "batch_size": preset.batch_size,
    }
    rows["overlap"] = 1 if preset.family == "gpt2" else 0
    batches = TokenBatches(tokens, **rows, seed=options.seed)
    evaluation = None
    if epath.Path(tokens).is_dir() and "validation" in record.get("splits", {"validation": {}}):
        evaluation = TokenBatches(tokens, **rows, order="sequential", split="validation")
    preprocess = None if init is None else init.preprocess
    if preprocess is None and tokenizer is not None:
        preprocess = _text_preprocess(tokenizer, preset, record)
    return Prepared(objective, batches, evaluation, preprocess)


def _of_texts(preset, vocab_size, record, tokenizer, init) -> Objective:
    if preset.family == "gpt2":
        return NextToken(preset.text_config(vocab_size) if init is None else init.config)
    # The mask token of a new model stands behind the vocabulary, whatever that is.
    config, mask_id = preset.text_config(vocab_size + 1), vocab_size
    if init is not None:
        config = init.config
        mask_id = None if tokenizer is None else tokenizer.token_to_id(_MASK)
        if mask_id is None:
            raise ValueError(f"tokenizer: expected the model's, with {_MASK} in it, got none")
    end = record.get("end_of_text")
    return MaskedTokens(config, mask_id, preset.hidden_fraction, () if end is None else (end,))


def _token_files(options, preset, out, progress):
    """A folder or file of tokens, and the tokenizer where one is known: a model's own goes on."""
    known = options.tokenizer
    if known is None and options.init is not None:
        known = path_of_model(options.init)
    if len(preset.data) == 1 and _are_tokens(preset.data[0]):
        if options.vocab_size is not None and known is not None:
            raise ValueError("vocab_size: expected none beside a tokenizer, got both")
        given, folder = known, epath.Path(preset.data[0])
        if given is None and folder.is_dir() and (folder / "tokenizer.json").exists():
            given = folder
        return preset.data[0], None if given is None else data.tokens.load_tokenizer(given)
    source = _documents(options, preset.data)
    vocab_size = None if known is not None else preset.vocab_size
    how = {"vocab_size": vocab_size, "tokenizer": known, "near_copies": _NEAR_COPIES}
    folder = out / f"tokens-{digest({'data': preset.data, **how})[:8]}"
    if not folder.exists():
        data.tokens.write(source, folder, progress=progress, **how)
    return str(folder), data.tokens.load_tokenizer(folder)


def _are_tokens(name):
    path = epath.Path(name)
    return name.endswith(".bin") or (path.is_dir() and any(path.glob("*.bin")))


def _documents(options, names):
    """One source as it is, so that it may be larger than memory; of several all their texts."""
    if len(names) == 1 and is_own(names[0]):
        return data.tokens.documents(names[0], text_column=options.files.text_column)
    texts: list[str] = []
    for name in names:
        if is_own(name):
            texts += data.tokens.documents(name, text_column=options.files.text_column)
        else:
            texts += data.unlabelled.training_texts(_datasets(options, [name])[0])
    return texts


def _text_preprocess(tokenizer, preset, record):
    if preset.family == "bert":
        tokenizer.add_special_tokens([_MASK])
    end = record.get("end_of_text_token")
    around = () if end is None else (end,)
    # As in training, where the end of the document before stands in front of each.
    suffix = around if preset.family == "bert" else ()
    return TextPreprocess(tokenizer.to_str(), preset.block, prefix=around, suffix=suffix)


def _images(options, preset, init) -> Prepared:
    if len(preset.data) != 1:
        raise ValueError(f"data: expected one set of images, got {len(preset.data)}")
    [dataset] = _datasets(options, preset.data)
    images = data.unlabelled.training_images(dataset)
    _, side, _, channels = images.shape
    is_bytes = images.dtype == np.uint8
    prepare = ImagePreprocess(scale=1 / (255 if is_bytes else float(np.abs(images).max()) or 1.0))
    prepare = prepare if init is None or init.preprocess is None else init.preprocess
    config = preset.image_config(side, channels) if init is None else init.config
    objective = MaskedPatches(config, preset.hidden_fraction)
    inputs = np.asarray(prepare(images), np.float32)
    tokens = (inputs.shape[1] // config.patch_size) ** 2
    rows = {"batch_size": preset.batch_size, "tokens_per_row": tokens}
    batches = ArrayBatches({"images": inputs}, **rows, seed=options.seed)
    evaluation = None
    if "validation" in dataset.splits:
        held_out: Any = prepare(np.asarray(dataset.inputs[dataset.splits["validation"]]))
        held_out = np.asarray(held_out, np.float32)
        evaluation = ArrayBatches({"images": held_out}, **rows, shuffle=False)
    return Prepared(objective, batches, evaluation, prepare, images=inputs)


def _series(options, preset, init) -> Prepared:
    config = preset.series_config() if init is None else init.config
    sources: list[Any] = []
    for name in preset.data:
        is_long = not is_own(name) and data.entry(name).task != "classification"
        if is_long:
            embedded = data.entry(name).embedded is not None
            folder = None if embedded else options.data_dir
            sources.append(read_series(name, folder))
        else:
            sources += _datasets(options, [name])
    series, observed = data.unlabelled.training_series(
        sources, num_steps=config.num_steps, patch_len=config.patch_len
    )
    order = np.random.default_rng(0).permutation(len(series))
    held_out, kept = np.split(order, [max(1, round(_HELD_OUT * len(series)))])
    if not len(kept):
        raise ValueError(f"data: expected several windows of series, got {len(series)}")
    tokens = config.num_steps // config.patch_len
    rows = {"batch_size": preset.batch_size, "tokens_per_row": tokens}

    preprocess = SeriesPreprocess(config.num_steps, config.patch_len)
    preprocess = preprocess if init is None or init.preprocess is None else init.preprocess

    def batches(chosen, **how):
        arrays = {"series": series[chosen], "observed": observed[chosen]}
        return ArrayBatches(arrays, **rows, **how)

    return Prepared(
        MaskedSeries(config, preset.hidden_fraction),
        batches(kept, seed=options.seed),
        batches(held_out, shuffle=False),
        preprocess,
    )
