"""Series of a user's files: the UCR archive's format, tables with a series a group, long series."""

import datetime
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from etils import epath

from poolax._checks import check_choice
from poolax._dataset import Dataset
from poolax.data._own._assemble import LICENCE, Splitting, labelled
from poolax.data._own._table import Table, labels_of, numbers_of
from poolax.data.series._files import read_lines
from poolax.data.series._series import Series, ratio_borders
from poolax.data.series._tasks import forecasting, imputation
from poolax.data.series._ucr import parse_examples, stack_series

Missing = Literal["error", "keep"]
_LEAST_NUMBERS = 3


def is_ucr(path: epath.Path) -> bool:
    """Whether a file has the archive's format: a label, then the numbers of a series, in every line."""
    if path.suffix == ".ts":
        return True
    if path.suffix not in (".tsv", ".txt", ".csv"):
        return False
    first = path.read_bytes().split(b"\n", 1)[0].decode("utf-8", errors="replace")
    cells = first.replace(",", "\t").split("\t") if path.suffix != ".txt" else first.split()
    return len(cells) > _LEAST_NUMBERS and all(map(is_number, cells[1:]))


def ucr_dataset(
    name: str,
    files: Mapping[str, epath.Path],
    splitting: Splitting,
    *,
    missing: Missing = "error",
    source: str,
) -> Dataset:
    """Labelled series, one a line with its label in front.

    Args:
        name: Name of the data set.
        files: The file of each split that has one.
        splitting: How the others are cut off.
        missing: ``"error"`` refuses gaps and several lengths, ``"keep"`` reads them as NaN.
        source: Where the data come from.

    Raises:
        ValueError: for a line that does not fit; the error names it.
    """
    check_choice("missing", missing, ("error", "keep"))
    examples, given = [], {}
    for split, path in files.items():
        part = parse_examples(read_lines(path), str(path))
        if not part:
            raise ValueError(f"{path}: expected series, got none")
        given[split] = np.arange(len(examples), len(examples) + len(part))
        examples += part
    return labelled(
        name,
        stack_series(examples, missing),
        [label for label, _, _ in examples],
        given,
        splitting,
        lambda index: examples[index][2],
        source=source,
    )


def grouped_series(
    name: str,
    table: Table,
    splitting: Splitting,
    *,
    series_column: str,
    value_column: str,
    label_column: str,
    time_column: str | None,
    source: str,
) -> Dataset:
    """Labelled series from a table with a row for each step.

    Args:
        name: Name of the data set.
        table: The rows.
        splitting: How the splits are cut.
        series_column: Column that tells series apart.
        value_column: Column of values.
        label_column: Column of labels, the same in all rows of a series.
        time_column: Column by which steps are ordered; ``None`` for the order of the rows.
        source: Where the data come from.

    Raises:
        ValueError: for series of several lengths or labels; the error names their lines.
    """
    values = np.array(numbers_of(table, "value_column", value_column), np.float32)
    labels = labels_of(table, "label_column", label_column)
    times: Any = None if time_column is None else _times(table, time_column)
    rows: dict[Any, list[int]] = {}
    for row, key in enumerate(table.column("series_column", series_column)):
        rows.setdefault(key, []).append(row)
    first_key, first = next(iter(rows.items()))
    series, series_labels, places = [], [], []
    for key, own in rows.items():
        place = f"{table.place(own[0])}, series {key!r}"
        if len(own) != len(first):
            raise ValueError(
                f"{place}: expected {len(first)} steps as series {first_key!r} has, got {len(own)}"
            )
        found = sorted({labels[row] for row in own})
        if len(found) > 1:
            raise ValueError(f"{place}: expected one label, got {', '.join(map(repr, found[:3]))}")
        order = own if times is None else sorted(own, key=lambda row: times[row])
        series.append(values[order])
        series_labels.append(found[0])
        places.append(place)
    given = {"train": np.arange(len(series))}
    return labelled(
        name,
        np.stack(series),
        series_labels,
        given,
        splitting,
        places.__getitem__,
        source=source,
    )


def long_series(
    name: str,
    table: Table,
    *,
    time_column: str,
    task: Literal["forecasting", "imputation"] = "forecasting",
    context: int = 512,
    horizon: int = 96,
    stride: int = 1,
    source: str,
) -> Dataset:
    """Windows of a long series: a table with a time and the values of channels in each row.

    The first 70 % of the steps are the training part, the next 10 % validation, the last 20 % the test.

    Args:
        name: Name of the data set.
        table: The rows, in the order of time.
        time_column: Column of times; all others are channels.
        task: ``"forecasting"`` of the next ``horizon`` steps, or ``"imputation"`` of hidden spans.
        context: Steps of a window that are seen.
        horizon: Steps that are predicted.
        stride: Steps from the start of a window to that of the next.
        source: Where the data come from.

    Raises:
        ValueError: for cells that are no numbers, times out of order, and series that are too short.
    """
    check_choice("task", task, ("forecasting", "imputation"))
    series = series_of_table(name, table, time_column=time_column, source=source)
    if task == "imputation":
        return imputation(series, context=context)
    return forecasting(series, context=context, horizon=horizon, stride=stride)


def series_of_table(name: str, table: Table, *, time_column: str | None, source: str) -> Series:
    """A long series: a row for each step, in the order of time.

    Args:
        name: Name of the series.
        table: The rows.
        time_column: Column of times; ``None`` if there is none. All others are channels.
        source: Where the data come from.

    Raises:
        ValueError: for cells that are no numbers, times out of order, and too few steps.
    """
    times = [] if time_column is None else _times(table, time_column)
    for row in range(1, len(times)):
        if not times[row] > times[row - 1]:
            got = table.columns[time_column or ""][row]
            raise ValueError(
                f"{table.place(row)}: expected a later time than in the row before, got {got!r}"
            )
    names = tuple(column for column in table.columns if column != time_column)
    if not names:
        raise ValueError(f"{table.path}: expected columns of values beside {time_column!r}, got none")
    return Series(
        name=name,
        values=np.array([numbers_of(table, "channels", column) for column in names]).T.copy(),
        names=names,
        borders=ratio_borders(len(table)),
        source=source,
        licence=LICENCE,
        file=table.path,
    )


def _times(table: Table, name: str) -> list[Any]:
    """Times as numbers, where all are, or as dates."""
    given = table.column("time_column", name)
    if all(map(is_number, given)):
        return [float(time) for time in given]
    times = []
    for row, time in enumerate(given):
        try:
            date = datetime.datetime.fromisoformat(str(time).strip())
        except ValueError:
            raise ValueError(
                f"{table.place(row)}, column {name!r}: expected a date such as 2016-07-01 00:00:00, or "
                f"a number, got {time!r}"
            ) from None
        times.append(date if date.tzinfo is None else date.astimezone(datetime.UTC))
    return times


def is_number(cell: Any) -> bool:
    """Whether a cell holds a number, or stands for one that is missing."""
    try:
        float(cell)
    except (TypeError, ValueError):
        return str(cell).strip() == "?"
    return True
