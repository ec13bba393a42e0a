"""Reading text files, with errors that say where, and putting splits together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from poolax._files import DamagedFileError
from poolax.data._damage import damaged_data
from poolax.data._entry import existing


def find(directory: epath.PathLike, file: str, folder: str) -> epath.Path:
    """The path of a file: in ``directory`` itself or in its ``folder``, where the publisher has it."""
    directory = epath.Path(directory)
    nested = directory / folder / file
    return nested if nested.exists() and not (directory / file).exists() else existing(directory, file)


def malformed(path: epath.PathLike, line: int, expected: str, got: Any) -> DamagedFileError:
    """What to raise for a line that is not as it should be."""
    return damaged_data(f"{path}, line {line}", f"expected {expected}, got {got}")


def read_text(path: epath.Path) -> str:
    """Content of a UTF-8 file, line ends as they are."""
    return decode(path.read_bytes(), path)


def decode(content: bytes, path: epath.PathLike, first_line: int = 1) -> str:
    """Text of UTF-8 bytes that start at ``first_line`` of a file."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + content.count(b"\n", 0, error.start)
        raise malformed(path, line, "UTF-8", error.reason) from None


def read_lines(path: epath.Path) -> list[str]:
    """Lines of a UTF-8 file, which end with line feeds alone: tweets hold other separators."""
    lines = read_text(path).split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def join(
    parts: Mapping[str, tuple[Sequence[Any], Sequence[Any]]], dtype: Any
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """One array of texts, one of targets, and the splits, from texts and targets by split."""
    texts, targets, splits = [], [], {}
    for split, (split_texts, split_targets) in parts.items():
        splits[split] = np.arange(len(texts), len(texts) + len(split_texts))
        texts.extend(split_texts)
        targets.extend(split_targets)
    return np.array(texts, dtype=object), np.array(targets, dtype), splits
