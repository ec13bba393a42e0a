"""Texts that presets read: token files, and those that are written of texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import rich.console
import tokenizers
from etils import epath

from poolax import data
from poolax.backbones import Backbone, TextPreprocess
from poolax.cli import tell
from poolax.training import Progress
from poolax.training.pretraining import MaskedTokens, NextToken, Objective, TokenBatches
from pretraining._options import Options
from pretraining._prepared import Prepared, datasets, is_file
from pretraining._presets import Preset

_MASK = "[MASK]"
_CHUNK = 1 << 22


def texts_of(
    options: Options,
    preset: Preset,
    out: epath.Path,
    progress: Progress,
    init: Backbone | None,
    model: str | None,
) -> Prepared:
    """What a language model is trained on.

    Args:
        options: The command line.
        preset: The preset with all that is said otherwise.
        out: Folder for token files.
        progress: Called with a description, the number done and the total.
        init: Model to go on from, whose sizes and preprocessing count in place of the preset's.
        model: Where it lies.

    Raises:
        ValueError: for data of another kind, or without the tokenizer that they need.
    """
    for name in options.files.given().keys() - {"text_column"}:
        raise ValueError(f"{name}: expected none for texts, got it for {', '.join(preset.data)}")
    path, tokenizer = _token_files(options, preset, out, progress, model)
    tokens = data.tokens.read(path, dtype=options.token_dtype)
    record = tokens.record
    objective = _objective(preset, record.get("vocab_size", preset.vocab_size), record, tokenizer, init)
    config: Any = objective.config
    if not record or init is not None:
        _check_ids(tokens, config.vocab_size, path)
    most = config.max_tokens
    if options.block is not None and most is not None and options.block > most:
        raise ValueError(f"block: expected at most {most}, which the model takes, got {options.block}")
    rows: dict[str, Any] = {
        "block": preset.block if most is None else min(preset.block, most),
        "batch_size": preset.batch_size,
        "overlap": 1 if preset.family == "gpt2" else 0,
    }
    batches = TokenBatches(tokens, **rows, seed=options.seed)
    evaluation = None
    if _holds_some_out(path, record):
        held_out = data.tokens.read(path, split="validation", dtype=options.token_dtype)
        evaluation = TokenBatches(held_out, **rows, order="sequential")
    preprocess = None if init is None else init.preprocess
    if preprocess is None and tokenizer is not None:
        preprocess = _text_preprocess(tokenizer, preset, record)
    return Prepared(objective, batches, evaluation, preprocess)


def _holds_some_out(path: epath.Path, record: Mapping[str, Any]) -> bool:
    if not path.is_dir():
        return False
    return "validation" in record["splits"] if record else any(path.glob("val*.bin"))


def _check_ids(tokens: data.tokens.TokenShards, vocab_size: int, path: epath.Path) -> None:
    """Refuse tokens that a vocabulary does not have, of files that say nothing of theirs."""
    starts = range(0, len(tokens), _CHUNK)
    highest = max(int(tokens[start : start + _CHUNK].max()) for start in starts)
    if highest >= vocab_size:
        raise ValueError(
            f"vocab_size: expected more than {highest}, the highest id in {path}, got {vocab_size}"
        )


def _objective(preset, vocab_size, record, tokenizer, init) -> Objective:
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


def _token_files(
    options: Options, preset: Preset, out: epath.Path, progress: Progress, model: str | None
) -> tuple[epath.Path, tokenizers.Tokenizer | None]:
    """A folder or file of tokens, and the tokenizer where one is known: a model's own goes on."""
    known = model if options.tokenizer is None else options.tokenizer
    if len(preset.data) == 1 and _are_tokens(preset.data[0]):
        if options.vocab_size is not None and known is not None:
            raise ValueError("vocab_size: expected none beside a tokenizer, got both")
        if options.files.text_column is not None:
            raise ValueError(f"text_column: expected a table, got {preset.data[0]}")
        folder = epath.Path(preset.data[0]).expanduser()
        tokenizer = None if known is None else data.tokens.load_tokenizer(known)
        if folder.is_dir() and (folder / "tokenizer.json").exists():
            written_by = data.tokens.load_tokenizer(folder)
            tokenizer = written_by if tokenizer is None else tokenizer
            if not written_by.get_vocab().items() <= tokenizer.get_vocab().items():
                raise ValueError(
                    f"tokenizer: expected the one that {folder} was written by, got another, {known}"
                )
        return folder, tokenizer
    if options.token_dtype is not None:
        raise ValueError(f"token_dtype: expected none for texts, got {options.token_dtype}")
    folder, former = data.tokens.write_once(
        _documents(options, preset.data),
        out,
        tokenizer=known,
        vocab_size=None if known is not None else preset.vocab_size,
        near_copies=options.near_copies or None,
        progress=progress,
    )
    if former is not None:
        tell(
            rich.console.Console(stderr=True),
            f"data: not as it was when {former.name} was written; its tokens are now in {folder.name}",
        )
    return folder, data.tokens.load_tokenizer(folder)


def _are_tokens(name: str) -> bool:
    path = epath.Path(name).expanduser()
    return name.endswith(".bin") or (path.is_dir() and any(path.glob("*.bin")))


def _documents(options: Options, names: Sequence[str]) -> data.tokens.Documents:
    """One source as it is, so that it may be larger than memory; of several all their texts."""
    if len(names) == 1 and is_file(names[0]):
        return data.tokens.documents(names[0], text_column=options.files.text_column)
    texts: list[str] = []
    for name in names:
        if is_file(name):
            texts += data.tokens.documents(name, text_column=options.files.text_column)
        else:
            texts += data.unlabelled.training_texts(datasets(options, [name])[0])
    return data.tokens.Documents.of(texts, source=", ".join(names))


def _text_preprocess(tokenizer: tokenizers.Tokenizer, preset: Preset, record: Any) -> TextPreprocess:
    if preset.family == "bert":
        tokenizer.add_special_tokens([_MASK])
    end = record.get("end_of_text_token")
    around = () if end is None else (end,)
    # As in training, where the end of the document before stands in front of each.
    suffix = around if preset.family == "bert" else ()
    return TextPreprocess(tokenizer.to_str(), preset.block, prefix=around, suffix=suffix)
