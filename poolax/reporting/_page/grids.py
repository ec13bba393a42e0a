"""Tables that a reader sorts and filters: of scores, and of records of any kind."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from poolax._text import one_line
from poolax.reporting._escapes import csv_text
from poolax.reporting._numbers import number_text

Row = Mapping[str, Any]
#: Rows that a page holds at most: more than a browser lays out at once without a pause.
MOST_ROWS = 1000
_LONGEST = 120
# What a record was made with stands in a part of its own.
_NOT_SHOWN = ("kind", "id", "command", "versions", "devices", "git", "title", "study", "test_scores")
_SCORES = {
    "backbone": "model",
    "dataset": "data",
    "task": "task",
    "variant": "variant",
    "protocol": "training",
    "pooler": "pooler",
    "metric": "metric",
    "validation": "validation",
    "mean": "test",
    "std": "± over seeds",
    "test_low": "95 % from",
    "test_high": "to",
    "difference": "difference to chosen",
    "difference_low": "from",
    "difference_high": "to ",
    "baseline": "baseline",
    "num_seeds": "seeds",
    "chosen": "chosen",
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A cell of a grid.

    Attributes:
        text: What it shows.
        key: What it is sorted by: a number as text, or the text itself.
        is_number: Whether it is a number.
    """

    text: str
    key: str
    is_number: bool


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table to sort and filter.

    Attributes:
        title: Above it.
        columns: Headings.
        rows: Its cells, of the first :data:`MOST_ROWS` rows.
        num_rows: How many rows there are.
        csv: All of it, for a spreadsheet.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    num_rows: int
    csv: str


def score_grid(summaries: Iterable[Row], title: str) -> Grid:
    """Scores of all poolers on all tasks.

    Args:
        summaries: Tidy rows of :func:`poolax.reporting.score_tables`.
        title: Above it.
    """
    rows = list(summaries)
    shown = {
        name: heading
        for name, heading in _SCORES.items()
        if any(row.get(name) not in (None, "") for row in rows)
    }
    # Where ways of training alone tell rows apart, it says the same.
    if len({(row["variant"], row["protocol"]) for row in rows}) == len(
        {row["protocol"] for row in rows}
    ):
        shown.pop("variant", None)
    named = [{heading: row.get(name) for name, heading in shown.items()} for row in rows]
    return _grid(named, list(shown.values()), title)


def record_grid(rows: Sequence[Row], title: str) -> Grid:
    """Records of any kind: fields that hold one number or text, and those of objects of such."""
    flat = [_flat(row) for row in rows]
    return _grid(flat, list(dict.fromkeys(name for row in flat for name in row)), title)


def _grid(rows: Sequence[Row], columns: Sequence[str], title: str) -> Grid:
    cells = [[_entry(row.get(name)) for name in columns] for row in rows[:MOST_ROWS]]
    are_numbers = [
        all(cell.is_number or not cell.key for cell in column) for column in zip(*cells, strict=True)
    ]
    cells = [
        [dataclasses.replace(cell, is_number=side) for cell, side in zip(row, are_numbers, strict=True)]
        for row in cells
    ]
    written = [{name.strip(): row.get(name) for name in columns} for row in rows]
    return Grid(title, columns, cells, len(rows), csv_text(written))


def _flat(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        if name in _NOT_SHOWN:
            continue
        if isinstance(value, Mapping):
            parts = {f"{name}: {key}": part for key, part in value.items() if _is_one(part)}
            found |= parts
        elif _is_one(value):
            found[name] = value
        elif isinstance(value, list) and all(isinstance(part, str) for part in value):
            found[name] = ", ".join(value)
    return found


def _is_one(value: Any) -> bool:
    return value is None or isinstance(value, (str, bool, int, float))


def _entry(value: Any) -> Entry:
    if value is None or value == "":
        return Entry("–", "", False)
    if isinstance(value, bool):
        return Entry("yes" if value else "no", "1" if value else "0", False)
    if isinstance(value, (int, float)):
        is_finite = math.isfinite(value)
        return Entry(_number(value), json.dumps(value) if is_finite else "", True)
    text = one_line(value, longest=_LONGEST)
    return Entry(text, text.casefold(), False)


def _number(value: float) -> str:
    """Four digits where people read numbers out, as of scores."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e4 else number_text(value)
