"""Groups of sentences: one, others that mean the same, and others that do not; from a file."""

import csv
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

HERE = pathlib.Path(__file__).parent
#: Written for this project; what kinds of change there are stands in its third column.
BUILT_IN = HERE / "sentences.tsv"
ROLES = ("base", "similar", "dissimilar")
_FIELDS = ("group", "role", "text")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A changed sentence.

    Attributes:
        text: The sentence.
        kind: What was changed.
        similar: Whether its meaning stays.
    """

    text: str
    kind: str
    similar: bool


@dataclasses.dataclass(frozen=True)
class Group:
    """A sentence and what was made of it.

    Attributes:
        name: What it is called.
        base: The sentence.
        variants: What was made of it.
    """

    name: str
    base: str
    variants: tuple[Variant, ...]


def read(path: pathlib.Path) -> list[Group]:
    """Groups from a file of CSV, TSV or JSON lines.

    Each row or object has ``group``, ``role`` ("base", "similar" or "dissimilar"), ``text`` and, of
    variants, ``kind``: what was changed, by default the role.

    Args:
        path: The file.

    Returns:
        The groups in the order of their first rows.

    Raises:
        ValueError: for anything else, with the number of the line.
    """
    if not path.is_file():
        raise ValueError(f"sentences: expected a file, got {path}")
    bases: dict[str, tuple[int, str]] = {}
    variants: dict[str, list[Variant]] = {}
    lines: dict[str, int] = {}
    for line, row in _rows(path):
        group, role, text = (_text(path, line, row, name) for name in _FIELDS)
        if role not in ROLES:
            raise _wrong(path, line, f"a role of {', '.join(ROLES)}", repr(role))
        lines.setdefault(group, line)
        if role != "base":
            kind = str(row.get("kind") or role).strip()
            variants.setdefault(group, []).append(Variant(text, kind, role == "similar"))
        elif group in bases:
            raise _wrong(path, line, "one base of a group", f"a second one of {group!r}")
        else:
            bases[group] = (line, text)
    if not lines:
        raise ValueError(f"sentences: {path}: expected at least one group, got none")
    _check_groups(path, lines, bases, variants)
    _check_kinds(path, lines, variants)
    return [Group(name, bases[name][1], tuple(variants[name])) for name in lines]


def _check_groups(path, lines, bases, variants):
    for name, line in lines.items():
        if name not in bases:
            raise _wrong(path, line, f"a base of group {name!r}", "none")
        roles = {one.similar for one in variants.get(name, [])}
        if roles != {True, False}:
            missing = "similar" if True not in roles else "dissimilar"
            raise _wrong(path, line, f"something {missing} in group {name!r}", "none")


def _check_kinds(path, lines, variants):
    """Refuse a kind of change that keeps the meaning here and not there."""
    known: dict[str, bool] = {}
    for name, line in lines.items():
        for one in variants[name]:
            if known.setdefault(one.kind, one.similar) != one.similar:
                raise _wrong(path, line, f"kind {one.kind!r} in one role", f"both by {name!r}")


def _rows(path: pathlib.Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows with the numbers of their lines."""
    suffix = path.suffix.lower()
    if suffix not in (*_DELIMITERS, ".jsonl"):
        raise ValueError(f"sentences: expected a file of .csv, .tsv or .jsonl, got {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise _wrong(path, line, "text in UTF-8", "other bytes") from None
    yield from _objects(path, text) if suffix == ".jsonl" else _cells(path, text, _DELIMITERS[suffix])


def _objects(path, text):
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            raise _wrong(path, line, "JSON", f"{error.msg} at column {error.colno}") from None
        if not isinstance(row, dict):
            raise _wrong(path, line, "an object", type(row).__name__)
        yield line, row


def _cells(path, text, delimiter):
    reader = csv.reader(text.splitlines(), delimiter=delimiter, strict=True)
    header, first = None, 1
    try:
        for cells in reader:
            line, first = first, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip().lower() for cell in cells]
                missing = [name for name in _FIELDS if name not in header]
                if missing:
                    raise _wrong(path, line, f"a column {missing[0]!r}", ", ".join(header))
                continue
            if len(cells) != len(header):
                raise _wrong(path, line, f"{len(header)} cells", str(len(cells)))
            yield line, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise _wrong(path, first, "cells", str(error)) from None


def _text(path, line, row, name):
    value = row.get(name)
    text = str(value).strip() if isinstance(value, (str, int)) else ""
    if not text:
        raise _wrong(path, line, f"a text of {name!r}", "none" if value is None else repr(value))
    return text


def _wrong(path, line, expected, got):
    return ValueError(f"sentences: {path}, line {line}: expected {expected}, got {got}")
