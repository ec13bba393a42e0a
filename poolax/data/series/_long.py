"""Long series from CSV files: a date, then the channels."""

import dataclasses
import datetime
from collections.abc import Callable

import numpy as np
from etils import epath

from poolax._checks import check_choice
from poolax.data._damage import damaged_data
from poolax.data.series._embedded import co2, sunspots
from poolax.data.series._files import find, read_lines
from poolax.data.series._series import Series, month_borders, ratio_borders

ETT_SOURCE = "https://github.com/zhouhaoyi/ETDataset"
AUTOFORMER_SOURCE = "https://github.com/thuml/Autoformer"


@dataclasses.dataclass(frozen=True)
class LongSeries:
    """How a long series is read.

    Attributes:
        file: Its file.
        folders: Folders that hold it in published layouts, beside none.
        borders: Ends of the splits from the number of steps.
        source: Home page.
        licence: Licence, as the source states it.
    """

    file: str
    folders: tuple[str, ...]
    borders: Callable[[int], tuple[int, int, int]]
    source: str
    licence: str


def _ett(file: str, steps_per_hour: int) -> LongSeries:
    def borders(num_steps: int) -> tuple[int, int, int]:
        ends = month_borders(steps_per_hour)
        if num_steps < ends[-1]:
            raise damaged_data(file, f"expected at least {ends[-1]} rows, 20 months, got {num_steps}")
        return ends

    return LongSeries(file, ("ETT-small", "ett"), borders, ETT_SOURCE, "CC BY-ND 4.0")


def _custom(name: str) -> LongSeries:
    return LongSeries(f"{name}.csv", (name,), ratio_borders, AUTOFORMER_SOURCE, "none found")


LONG_SERIES = {
    "etth1": _ett("ETTh1.csv", 1),
    "etth2": _ett("ETTh2.csv", 1),
    "ettm1": _ett("ETTm1.csv", 4),
    "ettm2": _ett("ETTm2.csv", 4),
    "electricity": _custom("electricity"),
    "traffic": _custom("traffic"),
    "weather": _custom("weather"),
}
EMBEDDED = {"co2": co2, "sunspots": sunspots}


def read_series(
    name: str, directory: epath.PathLike | None = None, *, sentinel: float | None = None
) -> Series:
    """A long series with its standard borders.

    ``etth1``, ``etth2``, ``ettm1`` and ``ettm2``: 12, 4 and 4 months of 30 days; ``electricity``,
    ``traffic``, ``weather``, ``co2`` and ``sunspots``: 70 %, 10 % and 20 %.

    Args:
        name: Name of the series.
        directory: Folder of its CSV file, a date and then the channels, the target last; or of the
            folder in which the file is published. None for ``co2`` and ``sunspots``, which come with
            statsmodels.
        sentinel: A number that stands for a missing value and reads as NaN. Weather marks faults of
            its sensors by -9999, which the standard protocol takes for measurements.

    Returns:
        The series.

    Raises:
        ValueError: if there is no such series, no file, or a line that does not fit; the error names
            file and line.

    Example:
        >>> read_series("sunspots").borders
        (216, 248, 309)

    Reference:
        Zhou et al., "Informer" (AAAI 2021); Wu et al., "Autoformer" (NeurIPS 2021).
    """
    check_choice("name", name, (*LONG_SERIES, *EMBEDDED))
    if name in EMBEDDED:
        return EMBEDDED[name]()
    if directory is None:
        raise ValueError(f"data_dir: expected the folder of {LONG_SERIES[name].file}, got none")
    return with_sentinel(read_long(name, directory), sentinel)


def read_long(name: str, directory: epath.PathLike) -> Series:
    """A long series as its file has it."""
    spec = LONG_SERIES[name]
    path = find(directory, (spec.file, *(f"{folder}/{spec.file}" for folder in spec.folders)))
    names, dates, values = read_csv(path)
    return Series(
        name=name,
        values=values,
        names=names,
        borders=spec.borders(len(values)),
        source=spec.source,
        licence=spec.licence,
        dates=dates,
        notes=_irregular_steps(dates),
        file=str(path),
    )


def with_sentinel(series: Series, sentinel: float | None) -> Series:
    """The series with NaN wherever it has the number that stands for a missing value."""
    if sentinel is None:
        faults = int((series.values == -9999).sum()) if series.name == "weather" else 0
        if not faults:
            return series
        note = f"{faults} values of -9999 left as they are; sentinel=-9999 reads them as missing"
        return dataclasses.replace(series, notes=(*series.notes, note))
    marked = series.values == sentinel
    note = f"{int(marked.sum())} values of {sentinel:g} read as missing"
    values = np.where(marked, np.nan, series.values)
    return dataclasses.replace(series, values=values, notes=(*series.notes, note))


def read_csv(path: epath.Path) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Channel names, dates and values of a CSV file whose first column is the date.

    Empty cells are missing. If a column is called ``OT``, it is put last.
    """
    lines = read_lines(path)
    header = [name.strip() for name in lines[0].split(",")] if lines else []
    if len(header) < 2 or header[0] != "date":
        raise damaged_data(
            f"{path}, line 1",
            f"expected 'date' and the names of channels, got "
            f"{lines[0][:60] if lines else 'an empty file'!r}",
        )
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) < 2:
        raise damaged_data(path, "expected rows below the names, got none")
    values = np.empty((len(lines) - 1, len(header) - 1))
    dates = np.empty(len(values), "datetime64[s]")
    for row, line in enumerate(lines[1:]):
        cells, where = line.split(","), f"{path}, line {row + 2}"
        if len(cells) != len(header):
            raise damaged_data(where, f"expected {len(header)} values as in line 1, got {len(cells)}")
        dates[row] = _date(cells[0].strip(), where)
        try:
            values[row] = cells[1:]
        except ValueError:
            values[row] = [_number(cell, where) for cell in cells[1:]]
        for column in np.flatnonzero(np.isinf(values[row])):
            raise damaged_data(
                f"{where}, column {header[1 + column]!r}",
                f"expected a finite number, got {values[row, column]}",
            )
    names = header[1:]
    order = sorted(range(len(names)), key=lambda index: names[index] == "OT")
    return tuple(names[index] for index in order), dates, values[:, order]


def _date(cell: str, where: str) -> np.datetime64:
    try:
        return np.datetime64(datetime.datetime.fromisoformat(cell), "s")
    except ValueError:
        raise damaged_data(
            where, f"expected a date such as 2016-07-01 00:00:00, got {cell!r}"
        ) from None


def _number(cell: str, where: str) -> float:
    if not cell.strip():
        return np.nan
    try:
        return float(cell)
    except ValueError:
        raise damaged_data(where, f"expected numbers, got {cell!r}") from None


def _irregular_steps(dates: np.ndarray) -> tuple[str, ...]:
    """A note where dates do not follow each other evenly, which the protocol takes no notice of."""
    steps = np.diff(dates)
    if not len(steps):
        return ()
    lengths, counts = np.unique(steps, return_counts=True)
    usual = lengths[counts.argmax()]
    uneven = int((steps != usual).sum())
    if not uneven:
        return ()
    first = dates[1:][steps != usual][0]
    return (
        f"{uneven} rows do not follow the one before by {usual}, first {first}; read as if they did",
    )
