"""What the commands share: exit codes, numbers for people, progress, records on standard output."""

import contextlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import rich.console
import rich.progress
from rich.text import Text

from poolax._progress import Progress
from poolax._signals import INTERRUPTED as INTERRUPTED
from poolax._text import one_line, printable
from poolax.records import as_written, check_record
from poolax.reporting import Table

COMPLETE, FAILURE, USAGE, DIVERGED = 0, 1, 2, 3

_MANY_DIGITS = 6


def number(value: float | None, log10: float | None = None) -> str:
    """A number for people; beyond a million, and where only its logarithm is known, as ``10^x``."""
    if value is not None and not math.isfinite(value):
        value = None
    if log10 is None and value:
        log10 = math.log10(abs(value))
    if log10 is not None and (value is None or log10 > _MANY_DIGITS):
        return f"10^{log10:.1f}"
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}" if value == 0 or value >= 1e-3 else f"{value:.1e}"


def show(tables: Iterable[Table], records: Iterable[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print tables, or the records behind them as JSON lines."""
    if as_json:
        for record in records:
            row = as_written(record)
            check_record(row)
            print(json.dumps(row))
        return
    print_tables(tables, rich.console.Console())


def print_tables(tables: Iterable[Table], console: rich.console.Console) -> None:
    """Print tables as wide as a console is."""
    for table in tables:
        for part in table.for_width(console.width):
            console.print(part)
        # Notes as wide as the terminal rather than as the table.
        for note in table.notes:
            console.print(Text(printable(note)))


@contextlib.contextmanager
def progress_bars(console: rich.console.Console) -> Iterator[Progress]:
    """Bars for what takes a while, one for each description that is reported."""
    columns = (
        rich.progress.TextColumn("{task.description:>22.22}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
    )
    bars = rich.progress.Progress(*columns, console=console)
    tasks = {}

    def report(description: str, done: int, total: int) -> None:
        if not tasks:
            bars.start()
        if description not in tasks:
            tasks[description] = bars.add_task(one_line(description), total=total)
        bars.update(tasks[description], completed=done, total=total)

    try:
        yield report
    finally:
        # Bars that never were would leave an empty line behind.
        if tasks:
            bars.stop()


def tell(console: rich.console.Console, text: str) -> None:
    """Print one line as it is, however long, without markup or control characters."""
    console.print(Text(printable(text)), soft_wrap=True)


def stderr() -> rich.console.Console:
    """The console that progress goes to, so that standard output can be piped."""
    return rich.console.Console(file=sys.stderr)
