"""Prefixes of texts and the tokens that follow them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from poolax._checks import check_count
from poolax._dataset import Dataset
from poolax.data._splits import three_splits
from poolax.data.language._tokenize import Tokens, check_text_preprocess, read_tokens

_SPLITS = ("train", "validation", "test")


def next_token(
    texts: Dataset | Sequence[str],
    preprocess: Any,
    *,
    context: int,
    num_examples: int | Mapping[str, int],
    vocab: int | None = None,
    seed: int = 0,
    cache_dir: epath.PathLike | None = None,
) -> Dataset:
    """Next-token prediction: the first tokens of a text, and the one that follows.

    An example is the first ``length`` tokens of a text, ``1 <= length <= context``, behind the special
    tokens that ``preprocess`` puts in front and with none at the end; its target is the token that
    follows in the text. Examples are drawn from all pairs of a text and a length, each as likely as any
    other and none twice. No two splits share a text, since one that is there again is left out; short
    beginnings can still be alike.

    Args:
        texts: A data set of texts, whose splits are kept, or texts, of which a fixed tenth each becomes
            the validation and the test split.
        preprocess: A :class:`poolax.backbones.TextPreprocess`, usually the backbone's.
        context: Most tokens of a text that an example shows.
        num_examples: Examples of each split, or a mapping from splits to their numbers. The paper
            trains on 4,000 batches of 32.
        vocab: Number of classes: the most frequent targets of the training split; examples with others
            are dropped, which the notes count. ``None`` for the whole vocabulary.
        seed: Seed of the draw.
        cache_dir: Folder that keeps the tokens, as for :func:`tokenize`.

    Returns:
        Token ids, shape ``(N, prefix + context)``, padded on the side of ``preprocess``, with their
        mask; targets are ids or, with ``vocab``, classes from the most frequent to the rarest.

    Raises:
        ValueError: for numbers out of range, more examples than there are, or texts in several parts.

    Example:
        >>> import itertools, tokenizers
        >>> from poolax.backbones import TextPreprocess
        >>> model = tokenizers.models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]")
        >>> words = tokenizers.Tokenizer(model)
        >>> words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        >>> preprocess = TextPreprocess(words.to_str(), max_tokens=8)
        >>> texts = [" ".join(text) for text in itertools.product("ab", repeat=5)]
        >>> data = next_token(texts, preprocess, context=3, num_examples=4)
        >>> data.inputs.shape, data.num_classes, len(data.splits["train"])
        ((12, 3), 3, 4)
    """
    check_count("context", context)
    check_count("seed", seed, at_least=0)
    numbers = _numbers(num_examples)
    check_text_preprocess(preprocess)
    data = _without_repeats(texts if isinstance(texts, Dataset) else _split(texts))
    prefix = _prefix(preprocess)
    room = preprocess.max_tokens - len(prefix)
    if context > room:
        raise ValueError(f"context: expected at most {room} behind the prefix, got {context}")
    bare = dataclasses.replace(preprocess, max_tokens=context + 1, prefix=(), suffix=(), pad_to=None)
    strings: Any = data.inputs
    tokens = read_tokens(strings.tolist(), bare, cache_dir)
    examples = {
        split: _draw(tokens, split, data.splits[split], numbers[split], [seed, index])
        for index, split in enumerate(_SPLITS)
    }
    num_classes, names, notes = max(preprocess.tokenizer.get_vocab().values()) + 1, None, data.notes
    if vocab is not None:
        classes = _most_frequent(examples["train"].targets, vocab)
        examples, note = _restrict(examples, classes, num_classes)
        names = tuple(preprocess.tokenizer.id_to_token(int(token)) for token in classes)
        num_classes, notes = vocab, (*notes, note)
    rows = np.concatenate([part.rows for part in examples.values()])
    lengths = np.concatenate([part.lengths for part in examples.values()])
    inputs, mask = _prefixes(tokens, rows, lengths, prefix).padded(
        len(prefix) + context, preprocess.padding_side, preprocess.pad_id
    )
    ends = np.cumsum([len(part.rows) for part in examples.values()])
    indices = np.split(np.arange(len(rows)), ends[:-1])
    return dataclasses.replace(
        data,
        name=f"{data.name}_next_token",
        inputs=inputs,
        mask=mask,
        targets=np.concatenate([part.targets for part in examples.values()]).astype(np.int32),
        splits=dict(zip(examples, indices, strict=True)),
        num_classes=num_classes,
        class_names=names,
        notes=(*notes, f"the token behind the first 1 to {context} of a text, seed {seed}"),
    )


@dataclasses.dataclass(frozen=True)
class _Examples:
    """Which text, how many of its tokens, and the token behind them."""

    rows: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray


def _numbers(num_examples) -> dict[str, int]:
    if not isinstance(num_examples, Mapping):
        check_count("num_examples", num_examples)
        return dict.fromkeys(_SPLITS, num_examples)
    if set(num_examples) != set(_SPLITS):
        splits = ", ".join(num_examples)
        raise ValueError(f"num_examples: expected numbers of {', '.join(_SPLITS)}, got {splits}")
    for split, number in num_examples.items():
        check_count(f"num_examples[{split!r}]", number)
    return dict(num_examples)


def _split(texts) -> Dataset:
    if isinstance(texts, (str, bytes)):
        raise ValueError(f"texts: expected a sequence of texts, got {type(texts).__name__}")
    inputs = np.array(list(dict.fromkeys(texts)), dtype=object)
    if len(inputs) < 10:
        raise ValueError(f"texts: expected at least 10 that differ, got {len(inputs)}")
    return Dataset(
        name="texts",
        inputs=inputs,
        targets={},
        splits=three_splits(len(inputs), 0.8),
        source="texts of the caller",
        licence="not stated",
        notes=("a tenth of the texts each is validation and test",),
    )


def _without_repeats(data: Dataset) -> Dataset:
    """The data without texts that an earlier split or index has."""
    texts: Any = data.inputs
    if texts.ndim != 1 or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"texts: expected one text for each example, got shape {texts.shape}")
    seen: set[str] = set()
    splits = {}
    for split in _SPLITS:
        kept = []
        for index in data.splits[split]:
            if texts[index] not in seen:
                seen.add(texts[index])
                kept.append(index)
        splits[split] = np.array(kept, int)
    repeats = sum(len(data.splits[split]) - len(splits[split]) for split in _SPLITS)
    if not repeats:
        return data
    notes = (*data.notes, f"{repeats} texts left out that are there already")
    return dataclasses.replace(data, splits=splits, notes=notes)


def _prefix(preprocess) -> np.ndarray:
    """Ids of the special tokens in front."""
    ids, mask = dataclasses.replace(preprocess, suffix=(), pad_to=None)([""])
    return ids[mask]


def _draw(tokens: Tokens, split, texts, number, seed) -> _Examples:
    """Examples of a split: pairs of a text and a length, uniform, without repetition."""
    counts = np.maximum(tokens.lengths[texts] - 1, 0)
    ends = np.cumsum(counts)
    if number > ends[-1]:
        raise ValueError(f"num_examples: expected at most {ends[-1]} of {split}, got {number}")
    pairs = np.random.default_rng(seed).choice(ends[-1], size=number, replace=False)
    places = np.searchsorted(ends, pairs, side="right")
    rows, lengths = texts[places], pairs - (ends - counts)[places] + 1
    return _Examples(rows, lengths, tokens.ids[tokens.offsets[rows] + lengths])


def _most_frequent(targets: np.ndarray, vocab: int) -> np.ndarray:
    """The most frequent tokens; of equally frequent ones those with smaller ids."""
    check_count("vocab", vocab, at_least=2)
    counts = np.bincount(targets)
    classes = np.argsort(-counts, kind="stable")[:vocab]
    distinct = np.count_nonzero(counts)
    if vocab > distinct:
        raise ValueError(f"vocab: expected at most {distinct}, the targets of train, got {vocab}")
    return classes


def _restrict(examples, classes, num_tokens) -> tuple[dict[str, _Examples], str]:
    """The examples whose targets are among the classes, which stand for the tokens then."""
    class_of = np.full(num_tokens, -1)
    class_of[classes] = np.arange(len(classes))
    kept, dropped = {}, []
    for split, part in examples.items():
        labels = class_of[part.targets]
        keep = labels >= 0
        kept[split] = _Examples(part.rows[keep], part.lengths[keep], labels[keep])
        dropped.append(f"{np.sum(~keep)} of {len(keep)} in {split}")
    what = f"targets are the {len(classes)} most frequent tokens of train"
    return kept, f"{what}; examples with others dropped: {', '.join(dropped)}"


def _prefixes(tokens: Tokens, rows, lengths, prefix) -> Tokens:
    """The first tokens of each text behind the special tokens."""
    parts = [
        part
        for row, length in zip(rows, lengths, strict=True)
        for part in (prefix, tokens.row(row)[:length])
    ]
    return Tokens.of(np.concatenate(parts), len(prefix) + lengths)
