"""Where documents come from: text files, folders, tables, data sets, sequences of texts."""

import dataclasses
import fnmatch
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etils import epath

from poolax._checks import check_choice, check_instance
from poolax._dataset import Dataset
from poolax._paths import size_and_time
from poolax.data._own._columns import usual_text_column
from poolax.data._own._table import JSON_LINES, TABLES, Table, read_table, texts_of
from poolax.data.tokens._documents import (
    PIECE,
    Documents,
    Piece,
    by_file,
    by_line,
    by_paragraph,
    by_separator,
    joined,
    lines_of,
)
from poolax.data.unlabelled import training_texts

END_OF_TEXT = "<|endoftext|>"
UNITS = ("auto", "file", "paragraph", "line")
# A folder of fewer files has too few to hold some out.
_MANY_FILES = 20
_SPLITTERS: dict[str, Callable[..., Iterator[Piece]]] = {
    "file": by_file,
    "paragraph": by_paragraph,
    "line": by_line,
}


def documents(
    source: Any,
    *,
    unit: str = "auto",
    separator: str | None = None,
    text_column: str | None = None,
    pattern: str = "*",
) -> Documents:
    r"""The documents of a source, read piece by piece each time they are asked for.

    Args:
        source: A text file in UTF-8; a folder of such, with the folders in it, hidden ones left out; a
            table (``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``), each row a document; a data set of
            texts, of which the training split is taken (see
            :func:`poolax.data.unlabelled.training_texts`); or a sequence of texts. Text files and
            ``.jsonl`` may be larger than memory.
        unit: What a document of text files is: ``"file"``, ``"paragraph"`` (between blank lines), or
            ``"line"``. ``"auto"``: what stands between ``<|endoftext|>`` where the first megabyte has
            one, a file where a folder has at least 20, else a paragraph, or, where the first megabyte
            has no blank line, a line.
        separator: What stands behind each document of text files, in place of ``unit``.
        text_column: Column of a table; by default one that is called ``text``, ``sentence``, …
        pattern: Which files of a folder are taken, such as ``"*.txt"``.

    Returns:
        The documents.

    Raises:
        ValueError: for a source that is none of these, or arguments that do not fit; while documents
            are read, for bytes that are no UTF-8, with file and line.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "tales.txt")
        ...     _ = file.write_text("Once there was\na fox.\n\nIt slept.\n")
        ...     found = documents(file)
        ...     found.unit, list(found)
        ('paragraph', ['Once there was\na fox.', 'It slept.'])
    """
    check_choice("unit", unit, UNITS)
    if separator is not None:
        check_instance("separator", separator, str, "a text")
        if not separator or "\n" in separator:
            raise ValueError(f"separator: expected a text without line ends, got {separator!r}")
        if unit != "auto":
            raise ValueError(f"unit: expected none beside a separator, got {unit!r}")
    if not isinstance(source, (str, os.PathLike)):
        for name, given in (("unit", unit != "auto"), ("separator", separator is not None)):
            if given:
                raise ValueError(f"{name}: expected for text files, got it for {type(source).__name__}")
        return _of_object(source)
    path = epath.Path(source).expanduser()
    if not path.exists():
        raise ValueError(f"source: expected a file or folder, got {source}, where there is nothing")
    files = _files(path, pattern) if path.is_dir() else [path]
    size, version = _state(files, path)
    texts = [file for file in files if file.suffix.lower() not in TABLES]
    if not texts:
        if unit != "auto" or separator is not None:
            raise ValueError(
                "unit: expected for text files, got it for tables, whose rows are documents"
            )
        tables = functools.partial(_of_tables, files, text_column)
        return Documents(tables, "row", (str(source),), size, (), version)
    if text_column is not None and len(texts) == len(files):
        raise ValueError(f"text_column: expected a table, got {source}")
    found, note = separator, ()
    if separator is None:
        unit, found = _unit(unit, texts)
        note = ("documents end where the text says so",) if found else ()
    split = functools.partial(by_separator, separator=found) if found else _SPLITTERS[unit]

    def pieces() -> Iterator[Piece]:
        for file in files:
            if file.suffix.lower() in TABLES:
                yield from _of_tables([file], text_column)
            else:
                yield from joined(split(lines_of(file)))

    unit = f"text before {found}" if found else unit
    return Documents(pieces, unit, (str(source),), size, note, version)


def _of_object(source: Any) -> Documents:
    if isinstance(source, Documents):
        return source
    if isinstance(source, Dataset):
        found = Documents.of(training_texts(source), source=f"{source.name} ({source.source})")
        note = "texts of the training split that are in no other"
        return dataclasses.replace(found, notes=(*source.notes, note))
    if not isinstance(source, Sequence) or not all(isinstance(text, str) for text in source):
        raise ValueError(
            "source: expected a file, a folder, a data set of texts or a sequence of texts, got "
            f"{type(source).__name__}"
        )
    return Documents.of(source)


def _files(folder: epath.Path, pattern: str) -> list[epath.Path]:
    found = [file for file in _below(folder) if fnmatch.fnmatch(file.name, pattern)]
    if not found:
        raise ValueError(f"source: expected files {pattern} in {folder}, got none")
    return found


def _state(files: Sequence[epath.Path], root: epath.Path) -> tuple[int, str]:
    """Bytes of files, and a digest of their names below a folder, lengths and times."""
    size, digest = 0, hashlib.sha256()
    for file in files:
        length, time = size_and_time(file)
        size += length
        name = os.fspath(file).removeprefix(os.fspath(root))
        digest.update(f"{name}\0{length} {time}\n".encode())
    return size, digest.hexdigest()


def _below(folder: epath.Path) -> Iterator[epath.Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _below(path)
        else:
            yield path


def _unit(unit: str, texts: Sequence[epath.Path]) -> tuple[str, str | None]:
    """What documents are where nothing is said, and what they end with if the text has it."""
    if unit != "auto":
        return unit, None
    beginning, size = [], 0
    for line in lines_of(texts[0]):
        beginning.append(line)
        size += len(line)
        if size >= PIECE:
            break
    if any(END_OF_TEXT in line for line in beginning):
        return "auto", END_OF_TEXT
    if len(texts) >= _MANY_FILES:
        return "file", None
    inside = itertools.dropwhile(lambda line: not line.strip(), beginning)
    has_blank = any(not line.strip() for line in inside)
    return ("paragraph" if has_blank else "line"), None


def _of_tables(files: Sequence[epath.Path], text_column: str | None) -> Iterator[Piece]:
    for file in files:
        rows = _json_rows if file.suffix.lower() in JSON_LINES else _rows
        yield from joined((text, True) for text in rows(file, text_column))


def _rows(file: epath.Path, text_column: str | None) -> Iterator[str]:
    table = read_table(file)
    column = text_column or usual_text_column(table)
    yield from texts_of(table, "text_column", column)


def _json_rows(file: epath.Path, text_column: str | None) -> Iterator[str]:
    """Texts of JSON lines, one after another."""
    column = text_column
    for number, line in enumerate(_whole_lines(file), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: expected a JSON object, got: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{where}: expected a JSON object, got {line[:40]!r}")
        if column is None:
            column = usual_text_column(Table(dict.fromkeys(row, (None,)), str(file), (number,)))
        text = row.get(column)
        if not isinstance(text, str):
            raise ValueError(
                f"{where}: expected a text in column {column!r} of {', '.join(row)}, got none"
            )
        yield text


def _whole_lines(file: epath.Path) -> Iterator[str]:
    """Lines, however long."""
    held: list[str] = []
    for part in lines_of(file):
        held.append(part)
        if part.endswith("\n"):
            yield "".join(held)
            held = []
    yield "".join(held)
