"""What the commands share: exit codes, progress, records on standard output."""

import contextlib
import contextvars
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import rich.console
import rich.progress
from rich.text import Text

from poolax._progress import Progress, no_progress
from poolax._signals import INTERRUPTED as INTERRUPTED
from poolax._text import one_line, printable
from poolax.records import as_written, check_record
from poolax.reporting import Table

COMPLETE = 0
"""Exit code: all that was asked for is there."""
FAILURE = 1
"""Exit code: something went wrong that is not the user's."""
USAGE = 2
"""Exit code: something was asked for that cannot be."""
DIVERGED = 3
"""Exit code: complete, with heads that diverged."""

_SHOWS_PROGRESS = contextvars.ContextVar("shows_progress", default=True)


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
def without_progress() -> Iterator[None]:
    """Inside, :func:`progress_bars` shows nothing."""
    token = _SHOWS_PROGRESS.set(False)
    try:
        yield
    finally:
        _SHOWS_PROGRESS.reset(token)


@contextlib.contextmanager
def progress_bars(console: rich.console.Console) -> Iterator[Progress]:
    """Bars for what takes a while, one for each description that is reported."""
    if not _SHOWS_PROGRESS.get():
        yield no_progress
        return
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
