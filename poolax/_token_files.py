"""Files of token ids, bare integers one behind the other, read without holding them in memory."""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from poolax._checks import check_choice, check_path
from poolax._files import damaged, json_object
from poolax._paths import absolute_path, size_and_time

RECORD = "tokens.json"
DTYPES = ("uint16", "uint32")
# What nanoGPT calls the file of a split; our own files are called likewise, so that it reads them.
_NAMES = {"train": "train", "validation": "val"}
_CHUNK = 1 << 24
_REMEDY = "write the tokens anew"


@dataclasses.dataclass(frozen=True, eq=False)
class TokenShards:
    """Token ids in one or several files, indexed as one long array.

    Attributes:
        paths: The files, in order.
        arrays: Their content, memory-mapped.
        digests: SHA-256 of the content of each file; ``None`` where none was written with it.
        record: What :func:`poolax.data.tokens.write` wrote beside them; empty for bare files.
        recorded_fingerprint: The fingerprint that is in the record; ``None`` where none is.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for part in (0, 1):
        ...         path = pathlib.Path(folder, f"train-{part:05d}.bin")
        ...         np.arange(3 * part, 3 * part + 3).astype(np.uint16).tofile(path)
        ...     tokens = read(folder)
        ...     len(tokens), tokens[2:5]
        (6, array([2, 3, 4], dtype=uint16))
    """

    paths: tuple[str, ...]
    arrays: tuple[np.ndarray, ...]
    digests: tuple[str | None, ...]
    record: Mapping[str, Any]
    recorded_fingerprint: str | None = None

    @functools.cached_property
    def ends(self) -> np.ndarray:
        """Where each file ends among all tokens, shape ``(files,)``."""
        return np.cumsum([len(array) for array in self.arrays])

    def __len__(self) -> int:
        """The number of tokens."""
        return int(self.ends[-1])

    def __getitem__(self, part: slice, /) -> np.ndarray:
        """A copy of the tokens of a slice, of the type that the files have."""
        start, stop, step = part.indices(len(self))
        first = int(np.searchsorted(self.ends, start, side="right"))
        pieces, begin = [], int(self.ends[first - 1]) if first else 0
        for array in self.arrays[first:]:
            if begin >= stop:
                break
            pieces.append(array[max(start - begin, 0) : stop - begin])
            begin += len(array)
        return np.concatenate(pieces or [self.arrays[0][:0]])[::step]

    @property
    def dtype(self) -> np.dtype:
        """Type of the numbers."""
        return self.arrays[0].dtype

    @property
    def end_of_text(self) -> int | None:
        """Id of the token that ends a document; ``None`` where no record says one."""
        return self.record.get("end_of_text")

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content, shortened to 16 digits, however many files hold it."""
        if self.recorded_fingerprint is not None:
            return self.recorded_fingerprint
        digest = fingerprint_of(self.dtype)
        for array in self.arrays:
            _update(digest, array)
        return digest.hexdigest()[:16]

    def check(self) -> None:
        """Compare the content with what was written beside it.

        Raises:
            DamagedFileError: for a file that is not as it was written.
        """
        for path, array, digest in zip(self.paths, self.arrays, self.digests, strict=True):
            found = hashlib.sha256()
            _update(found, array)
            if digest is not None and found.hexdigest() != digest:
                raise damaged(path, "expected the content that was written, got another", _REMEDY)


def read(
    path: epath.PathLike | Sequence[epath.PathLike],
    *,
    split: str = "train",
    dtype: str | None = None,
    verify: bool = True,
) -> TokenShards:
    """Open files of token ids without reading them into memory.

    Args:
        path: A folder that :func:`poolax.data.tokens.write` wrote, or one with ``train.bin`` and
            ``val.bin``, or ``train-00000.bin`` and so on; or one file, or several, which are read one
            behind the other.
        split: ``"train"`` or ``"validation"``, where ``path`` is a folder.
        dtype: ``"uint16"`` or ``"uint32"``; ``None`` for what the record beside the files says, and
            uint16, which nanoGPT writes, where there is none.
        verify: Whether content is compared with the checksum that was written with it, for which all of
            it is read once.

    Returns:
        The tokens.

    Raises:
        ValueError: for a path without such files, or another dtype than the record's.
        DamagedFileError: for files that are not as they were written, or of part of a number.
    """
    if dtype is not None:
        check_choice("dtype", dtype, DTYPES)
    if not isinstance(path, (str, os.PathLike)):
        if not path:
            raise ValueError("path: expected files, got none")
        return _given([_local(one) for one in path], dtype)
    folder = _local(path)
    if not folder.exists():
        raise ValueError(
            f"path: expected a file or folder of tokens, got {path}, where there is nothing"
        )
    if not folder.is_dir():
        return _given([folder], dtype)
    check_choice("split", split, _NAMES)
    if (folder / RECORD).exists():
        return _recorded(folder, split, dtype, verify)
    name = _NAMES[split]
    found = [folder / f"{name}.bin"] if (folder / f"{name}.bin").exists() else []
    found = found or sorted(folder.glob(f"{name}-*.bin"))
    if not found:
        raise ValueError(f"path: expected {name}.bin or {name}-00000.bin in {path}, got neither")
    return _open(found, dtype or "uint16")


def shard_name(split: str, index: int, total: int) -> str:
    """Name of a file of a split: a number is in it where there are several."""
    return f"{_NAMES[split]}.bin" if total == 1 else f"{_NAMES[split]}-{index:05d}.bin"


def _local(path: epath.PathLike) -> epath.Path:
    check_path("path", path)
    found = absolute_path(path)
    if "://" in os.fspath(found):
        raise ValueError(
            f"path: expected a local file or folder, which can be memory-mapped, got {path}"
        )
    return found


def _given(paths: Sequence[epath.Path], dtype: str | None) -> TokenShards:
    """Files one by one, of the type that a record in their folder says."""
    where = paths[0].parent / RECORD
    if not where.exists():
        return _open(paths, dtype or "uint16")
    record, written = _read_record(where, dtype)
    return dataclasses.replace(_open(paths, written), record=record)


def _read_record(where: epath.Path, dtype: str | None) -> tuple[dict[str, Any], str]:
    record = json_object(where.read_bytes(), where, _REMEDY)
    written = record.get("dtype")
    if written not in DTYPES:
        raise damaged(where, f"expected dtype {' or '.join(DTYPES)}, got {written!r}", _REMEDY)
    if dtype not in (None, written):
        raise ValueError(f"dtype: expected {written}, as {where} says, got {dtype}")
    return record, written


def _recorded(folder: epath.Path, split: str, dtype: str | None, verify: bool) -> TokenShards:
    where = folder / RECORD
    record, written = _read_record(where, dtype)
    try:
        of_split = record["splits"][split]
        parts = [(part["file"], part["tokens"], part["sha256"]) for part in of_split["files"]]
        recorded = of_split["fingerprint"]
    except (KeyError, TypeError):
        raise damaged(where, f"expected the files of {split}, got none", _REMEDY) from None
    tokens = _open([folder / file for file, _, _ in parts], written)
    for path, array, (_, count, _) in zip(tokens.paths, tokens.arrays, parts, strict=True):
        if len(array) != count:
            raise damaged(path, f"expected {count} tokens, got {len(array)}", _REMEDY)
    digests = tuple(digest for _, _, digest in parts)
    tokens = dataclasses.replace(tokens, digests=digests, record=record, recorded_fingerprint=recorded)
    if verify:
        tokens.check()
    return tokens


def _open(paths: Sequence[epath.Path], dtype: str) -> TokenShards:
    kind = np.dtype(dtype).newbyteorder("<")
    arrays = []
    for path in paths:
        size = size_and_time(path)[0] if path.exists() else 0
        if not size or size % kind.itemsize:
            expected = f"whole numbers of type {dtype}, {kind.itemsize} bytes each"
            raise damaged(path, f"expected {expected}, got {size} bytes", _REMEDY)
        arrays.append(np.memmap(os.fspath(path), dtype=kind, mode="r"))
    return TokenShards(tuple(map(os.fspath, paths)), tuple(arrays), (None,) * len(arrays), {})


def fingerprint_of(dtype: np.dtype) -> Any:
    """A digest of tokens of one type, to be fed with their bytes."""
    return hashlib.sha256(dtype.newbyteorder("<").str.encode())


def _update(digest: Any, array: np.ndarray) -> None:
    for start in range(0, len(array), _CHUNK):
        digest.update(array[start : start + _CHUNK].data)


def as_record(record: Mapping[str, Any]) -> str:
    """The text of the file beside tokens."""
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"
