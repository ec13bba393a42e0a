"""Documents to files of token ids, with a record of what they hold."""

import array
import dataclasses
import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tokenizers
from etils import epath

from poolax._checks import check_count, check_number
from poolax._paths import absolute_path, new_folder
from poolax._progress import Progress, no_progress
from poolax._token_files import RECORD, as_record, fingerprint_of, shard_name
from poolax.data.tokens._documents import Documents
from poolax.data.tokens._near_copies import repeats
from poolax.data.tokens._sources import documents as documents_of
from poolax.data.tokens._tokenizers import load_tokenizer, token_that_ends, train_tokenizer

VOCAB_SIZE = 4096
_END_OF_TEXT = "<|endoftext|>"
_TOKENIZER = "tokenizer.json"
# Characters that are tokenised at once.
_BATCH = 1 << 20
_MOST_PIECES = 1 << 14
# Where a document goes; to none of both if it is left out.
_SPLITS = ("train", "validation", "")


def write(
    source: Any,
    out: epath.PathLike,
    *,
    tokenizer: Any = None,
    vocab_size: int | None = None,
    end_of_text: str | None = None,
    validation: float = 0.05,
    near_copies: float | None = None,
    seed: int = 0,
    shard_tokens: int = 1 << 28,
    unit: str = "auto",
    separator: str | None = None,
    text_column: str | None = None,
    pattern: str = "*",
    progress: Progress = no_progress,
) -> dict[str, Any]:
    r"""Tokenise documents into files that a language model is pretrained from.

    The folder holds ``train.bin`` and ``val.bin``, bare little-endian integers as nanoGPT reads them
    (``train-00000.bin`` and so on where there are several), ``tokenizer.json``, and ``tokens.json``,
    the record. The token that ends a document stands behind each. What is held out is whole documents,
    drawn by a digest of their content, so that copies of one are on one side; with ``near_copies``
    documents that nearly repeat one of them are left out of both, so that what is held out is new to a
    model. A tokenizer that is trained sees the documents of ``train`` alone. Documents are read several
    times and never held; the same source and arguments give the same bytes.

    Args:
        source: What :func:`poolax.data.tokens.documents` takes.
        out: New folder, which appears once it is whole.
        tokenizer: What :func:`load_tokenizer` takes; ``None`` to train one.
        vocab_size: Tokens of a tokenizer that is trained, by default 4096.
        end_of_text: The token that ends a document; by default ``<|endoftext|>``, or the first usual
            one that a given tokenizer has.
        validation: Share of the bytes that is held out; 0 for none.
        near_copies: Jaccard index of the runs of three words from which on a document counts as copy of
            one that is held out, in (0, 1); ``None`` to compare none. All runs of what is held out are
            in memory then.
        seed: Seed of what is held out.
        shard_tokens: Most tokens of a file.
        unit: See :func:`documents`.
        separator: See :func:`documents`.
        text_column: See :func:`documents`.
        pattern: See :func:`documents`.
        progress: Called with a description, how many bytes are read, and all.

    Returns:
        The record: counts of documents, bytes and tokens of each split, its files with their checksums,
        tokenizer, end of text, and what was decided.

    Raises:
        ValueError: for arguments that do not fit, no document, or too few to hold some out.

    Example:
        >>> import tempfile
        >>> texts = [f"The {n}th of many small texts." for n in range(100)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     record = write(texts, f"{folder}/tokens", vocab_size=300)
        >>> record["dtype"], [part["documents"] for part in record["splits"].values()]
        ('uint16', [96, 4])
    """
    check_number("validation", validation, at_least=0.0, below=1.0)
    if near_copies is not None:
        check_number("near_copies", near_copies, above=0.0, below=1.0)
    check_count("seed", seed, at_least=0)
    check_count("shard_tokens", shard_tokens)
    if tokenizer is not None and vocab_size is not None:
        raise ValueError("vocab_size: expected none beside a tokenizer, got both")
    if absolute_path(out).exists():
        raise ValueError(f"out: expected a new folder, got {out}, where there is something")
    given = None if tokenizer is None else load_tokenizer(tokenizer)
    found = documents_of(
        source, unit=unit, separator=separator, text_column=text_column, pattern=pattern
    )
    held_out, total = _held_out(found, validation, seed, progress)
    splits = held_out.astype(np.int8)
    notes = [*found.notes, "held out are whole documents, drawn by a digest of their content"]
    if near_copies is not None:
        repeated = repeats(found.pieces, held_out, near_copies, progress)
        splits[repeated] = _SPLITS.index("")
        notes.append(
            f"{repeated.sum()} documents are left out, near copies of what is held out (Jaccard "
            f"index of their runs of three words from {near_copies:g} on)"
        )
    if given is None:
        size = VOCAB_SIZE if vocab_size is None else vocab_size
        token = _END_OF_TEXT if end_of_text is None else end_of_text
        texts = (text for text, _, split in _parts(found, splits) if split == "train")
        made = train_tokenizer(texts, size, end_of_text=token, progress=progress, total=total)
        origin = f"byte-level, trained on the documents of train, at most {size} tokens"
    else:
        made, origin = given, str(tokenizer)[:200]
    token, end = token_that_ends(made, end_of_text)
    highest = max(made.get_vocab(with_added_tokens=True).values())
    dtype = "uint16" if highest < 1 << 16 else "uint32"
    with new_folder(out) as folder:
        writers = {"train": _Split(folder, "train", dtype, shard_tokens)}
        if validation:
            writers["validation"] = _Split(folder, "validation", dtype, shard_tokens)
        _encode(_parts(found, splits), made, end, writers, total, progress)
        content = made.to_str(pretty=True)
        (folder / _TOKENIZER).write_text(content)
        record = {
            "kind": "tokens",
            "format": 1,
            "source": list(found.sources),
            "document": found.unit,
            "dtype": dtype,
            "vocab_size": highest + 1,
            "tokenizer": {
                "file": _TOKENIZER,
                "sha256": hashlib.sha256(content.encode()).hexdigest(),
                "origin": origin,
            },
            "end_of_text": end,
            "end_of_text_token": token,
            "validation": validation,
            "near_copies": near_copies,
            "seed": seed,
            "splits": {split: writer.close() for split, writer in writers.items()},
            "notes": notes,
        }
        (folder / RECORD).write_text(as_record(record))
    return record


def _key(seed: int):
    return hashlib.blake2b(digest_size=8, key=str(seed).encode())


def _held_out(
    found: Documents, validation: float, seed: int, progress: Progress
) -> tuple[np.ndarray, int]:
    """Which documents are held out, in order, and the bytes of all of them."""
    digests, sizes = array.array("Q"), array.array("Q")
    digest, size, total = _key(seed), 0, 0
    for text, ends in found.pieces():
        content = text.encode()
        digest.update(content)
        size += len(content)
        if ends:
            digests.append(int.from_bytes(digest.digest(), "little"))
            sizes.append(size)
            total += size
            digest, size = _key(seed), 0
            progress("reading documents", min(total, found.size), found.size)
    if not digests:
        raise ValueError(f"source: expected documents, got none in {', '.join(found.sources)}")
    keys, counts = np.frombuffer(digests, np.uint64), np.frombuffer(sizes, np.uint64)
    if not validation:
        return np.zeros(len(keys), bool), total
    most = validation * total
    order = np.argsort(keys, kind="stable")
    order = order[counts[order] <= most]
    chosen = keys[order[np.cumsum(counts[order]) <= most]]
    held_out = np.isin(keys, chosen)
    if not held_out.any() or held_out.all():
        raise ValueError(
            f"validation: expected a share of several documents, or 0, got {validation:g} of "
            f"{len(keys)} (a document: {found.unit})"
        )
    return held_out, total


def _parts(found: Documents, splits: np.ndarray) -> Iterator[tuple[str, bool, str]]:
    """Pieces, whether their document ends there, and the split it is in.

    Raises:
        ValueError: if there are not as many documents as when they were counted.
    """
    document = 0
    for text, ends in found.pieces():
        if document < len(splits):
            yield text, ends, _SPLITS[splits[document]]
        document += ends
    if document != len(splits):
        raise ValueError(
            f"source: expected the {len(splits)} documents that were read before, got {document}; it "
            "changed in between"
        )


def _encode(
    parts: Iterator[tuple[str, bool, str]],
    tokenizer: tokenizers.Tokenizer,
    end: int,
    writers: dict[str, "_Split"],
    total: int,
    progress: Progress,
) -> None:
    """Tokenise pieces, many at once, and write each to its split."""
    # Text that looks like a special token is text.
    tokenizer.encode_special_tokens = True
    held, characters, done = [], 0, 0
    for part in itertools.chain(parts, (None,)):
        if part is not None:
            held.append(part)
            characters += len(part[0])
        if characters < _BATCH and len(held) < _MOST_PIECES and part is not None:
            continue
        texts = [text for text, _, _ in held]
        encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for encoding, (text, ends, split) in zip(encoded, held, strict=True):
            size = len(text.encode())
            if split in writers:
                writers[split].add(encoding.ids + [end] * ends, size, ends)
            done += size
        progress("writing tokens", done, total)
        held, characters = [], 0


@dataclasses.dataclass
class _Split:
    """Files of a split as they are written."""

    folder: epath.Path
    split: str
    dtype: str
    most: int

    def __post_init__(self):
        self.documents, self.bytes = 0, 0
        self.whole = fingerprint_of(np.dtype(self.dtype))
        self.done: list[tuple[int, str]] = []
        self.tokens, self.digest, self.file = 0, hashlib.sha256(), None

    def add(self, ids: list[int], size: int, ends: bool) -> None:
        """Write the tokens of a piece of ``size`` bytes."""
        self.documents += ends
        self.bytes += size
        tokens = np.asarray(ids, np.dtype(self.dtype).newbyteorder("<"))
        self.whole.update(tokens.tobytes())
        while len(tokens):
            part, tokens = np.split(tokens, [self.most - self.tokens])
            if self.file is None:
                self.file = self._temporary(len(self.done)).open("wb")
            self.file.write(part.tobytes())
            self.digest.update(part.tobytes())
            self.tokens += len(part)
            if self.tokens == self.most:
                self._end_file()

    def close(self) -> dict[str, Any]:
        """Give the files their names, and say what they hold."""
        if self.file is not None:
            self._end_file()
        files = []
        for index, (count, digest) in enumerate(self.done):
            name = shard_name(self.split, index, len(self.done))
            self._temporary(index).rename(self.folder / name)
            files.append({"file": name, "tokens": count, "sha256": digest})
        tokens = sum(count for count, _ in self.done)
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "tokens": tokens,
            "fingerprint": self.whole.hexdigest()[:16],
            "files": files,
        }

    def _temporary(self, index):
        return self.folder / f"{self.split}-{index}.part"

    def _end_file(self):
        if self.file is not None:
            self.file.close()
        self.done.append((self.tokens, self.digest.hexdigest()))
        self.tokens, self.digest, self.file = 0, hashlib.sha256(), None
