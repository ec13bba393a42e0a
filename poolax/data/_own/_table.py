"""Rows of a user's file, column by column, each with the place where it was read."""

import codecs
import csv
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

DELIMITERS = (",", ";", "\t")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of one file.

    Attributes:
        columns: Values of each column by its name, all of one length; ``None`` where a row has none.
        path: The file, for messages.
        lines: Where each row was read, counted from 1.
        unit: What is counted: ``"line"`` or ``"row"``.
    """

    columns: Mapping[str, Sequence[Any]]
    path: str
    lines: Sequence[int]
    unit: str = "line"

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.lines)

    def place(self, row: int) -> str:
        """What an error calls a row."""
        return f"{self.path}, {self.unit} {self.lines[row]}"

    def column(self, argument: str, name: str) -> Sequence[Any]:
        """A column that an argument names.

        Raises:
            ValueError: if there is none of that name; the error lists those that there are.
        """
        if name not in self.columns:
            known = ", ".join(self.columns)
            raise ValueError(f"{argument}: expected a column of {self.path} ({known}), got {name!r}")
        return self.columns[name]


def read_table(path: epath.Path, *, encoding: str = "utf-8", quotes: bool = True) -> Table:
    """The rows of a file, by its suffix.

    Args:
        path: ``.csv`` (commas, semicolons or tabs, whichever the line of names has), ``.tsv``,
            ``.jsonl`` or ``.ndjson`` (an object a line), or ``.parquet``.
        encoding: Of text files.
        quotes: Whether quotes hold cells of ``.csv`` and ``.tsv`` together; otherwise they are text.

    Returns:
        The table.

    Raises:
        ValueError: for another suffix, and content that does not fit; the error names the line.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        table = _read_parquet(path)
    else:
        text = read_text(path, encoding)
        table = _read_json_lines(text, path) if suffix in JSON_LINES else _read_csv(text, path, quotes)
    if not len(table):
        raise ValueError(f"{path}: expected rows, got none")
    return table


JSON_LINES = (".jsonl", ".ndjson")
SEPARATED = (".csv", ".tsv")
TABLES = (*SEPARATED, *JSON_LINES, ".parquet")


def read_text(path: epath.Path, encoding: str) -> str:
    """The content of a text file without a byte order mark."""
    content = path.read_bytes()
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise ValueError(f"encoding: expected one that Python knows, got {encoding!r}") from None
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        line = content.count(b"\n", 0, start) + 1
        likely = "utf-16" if content.startswith(_UTF16) else "cp1252"
        raise ValueError(
            f"{path}, line {line}: expected text in {encoding.upper()}, got byte 0x{content[start]:02x}"
            f"; encoding='{likely}', or what it was written in, reads it"
        ) from None


def _read_csv(text: str, path: epath.Path, quotes: bool) -> Table:
    # Lines end where the module ends them, not at separators that texts hold.
    lines = text.replace("\r\n", "\n").split("\n")
    quoting = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(lines[0])
    reader = csv.reader(
        (f"{line}\n" for line in lines), delimiter=delimiter, quoting=quoting, strict=True
    )
    rows, places, before = [], [], 0
    try:
        for row in reader:
            if row:
                rows.append(row)
                places.append(before + 1)
            before = reader.line_num
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {before + 1}: expected cells as CSV has them, got: {error}; "
            "quotes=False takes quotes for text"
        ) from None
    names = [name.strip() for name in rows[0]] if rows else []
    _check_names(names, path)
    for row, place in zip(rows[1:], places[1:], strict=True):
        if len(row) != len(names):
            expected = f"{len(names)} cells as in line {places[0]}"
            raise ValueError(f"{path}, line {place}: expected {expected}, got {len(row)}")
    columns = dict(zip(names, zip(*rows[1:], strict=True), strict=True)) if rows[1:] else {}
    return Table(columns, str(path), places[1:])


def _delimiter(line: str) -> str:
    """The delimiter that makes most of a line of names."""
    return max(DELIMITERS, key=line.count)


def _check_names(names: Sequence[str], path: epath.Path) -> None:
    if not names:
        raise ValueError(f"{path}: expected a line with the names of columns, got an empty file")
    for name in names:
        if not name or names.count(name) > 1:
            problem = "one that is empty" if not name else f"{name!r} twice"
            raise ValueError(f"{path}, line 1: expected a name for each column, got {problem}")


def _read_json_lines(text: str, path: epath.Path) -> Table:
    rows, places = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: expected a JSON object, got: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: expected a JSON object, got {line[:40]!r}")
        rows.append(row)
        places.append(number)
    names = dict.fromkeys(name for row in rows for name in row)
    return Table({name: [row.get(name) for row in rows] for name in names}, str(path), places)


def _read_parquet(path: epath.Path) -> Table:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ValueError(
            f"{path}: expected the library pyarrow, which Parquet needs (pip install pyarrow), got none"
        ) from None
    try:
        with path.open("rb") as file:
            columns = parquet.read_table(file).to_pydict()
    except ArrowException as error:
        raise ValueError(f"{path}: expected a Parquet file, got: {error}") from None
    num_rows = len(next(iter(columns.values()), ()))
    return Table(columns, str(path), range(1, num_rows + 1), "row")


def texts_of(table: Table, argument: str, name: str) -> list[str]:
    """A column of texts.

    Raises:
        ValueError: for a row with anything but a text; the error names its line.
    """
    return _converted(table, argument, name, "a text", lambda value: _text(value))


def numbers_of(table: Table, argument: str, name: str) -> list[float]:
    """A column of finite numbers.

    Raises:
        ValueError: for a row with anything else; the error names its line.
    """
    return _converted(table, argument, name, "a finite number", lambda value: _number(value))


def labels_of(table: Table, argument: str, name: str) -> list[str]:
    """A column of labels, words or whole numbers, as words.

    Raises:
        ValueError: for a row without a label; the error names its line.
    """
    return _converted(table, argument, name, "a label, a word or a whole number", lambda v: _label(v))


def _converted(
    table: Table, argument: str, name: str, expected: str, convert: Callable[[Any], Any]
) -> list[Any]:
    converted = [convert(value) for value in table.column(argument, name)]
    for row, (value, was) in enumerate(zip(converted, table.columns[name], strict=True)):
        if value is None:
            got = "nothing" if was in (None, "") else repr(was)[:40]
            raise ValueError(f"{table.place(row)}, column {name!r}: expected {expected}, got {got}")
    return converted


def _text(value):
    return value if isinstance(value, str) else None


def _number(value):
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


def _label(value):
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, (str, bool, int)):
        return str(value).strip() or None
    return None
