"""What scripts share that measure a grid: records in a file, each made once, and tables of them."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import rich.console
import rich.progress
import tyro
from comparison import portable_command

from poolax.cli import COMPLETE, run_program, show
from poolax.records import Journal, Records, environment, write_atomically
from poolax.reporting import Table
from poolax.startup import keep_programs_few

#: What is measured, and a function that does so.
Case = tuple[dict[str, Any], Callable[[], dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Grid:
    """A grid to measure, as a command.

    Attributes:
        name: Of the files in ``options.out``.
        options: The command line, with ``out``, ``tables_only`` and ``json``.
        work: Gives the cases, or refuses the options with a ``ValueError``.
        tables: Of the records, by the end of their files' names.
        former: What earlier programs said of a case, where that is something else.
    """

    resumable: ClassVar[bool] = False  # each record is kept as soon as it is made
    debug: ClassVar[bool] = False

    name: str
    options: Any
    work: Callable[[Any], Iterable[Case]]
    tables: Callable[[Records], Mapping[str, Table]]
    former: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda what: None

    def run(self) -> int:
        """Measure what is not recorded yet, write the tables, and print them."""
        options = self.options
        path = None if options.out is None else pathlib.Path(options.out) / f"{self.name}.jsonl"
        records = self._recorded(path) if options.tables_only else self._measured(path)
        found = self.tables(records)
        if path is not None:
            text = "\n".join(table.markdown() for table in found.values())
            write_atomically(path.with_suffix(".md"), text)
            for name, table in found.items():
                write_atomically(path.parent / f"{self.name}_{name}.csv", table.csv())
        show(found.values(), records, as_json=options.json)
        return COMPLETE

    def _recorded(self, path):
        if path is None or not path.exists():
            raise ValueError(
                f"tables_only: expected --out to be a folder with {self.name}.jsonl, got "
                f"{self.options.out}"
            )
        return Records.read(path)

    def _measured(self, path):
        work = list(self.work(self.options))
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        journal = Journal(path, made_with=_made_with)
        console = rich.console.Console(stderr=True)
        records = []
        for what, measure in rich.progress.track(work, "measuring", console=console):
            records.append(journal.measured(what, measure, formerly=self.former(what)))
            keep_programs_few()
        return Records(records)


def _made_with():
    row = environment()
    return {**row, "command": portable_command(row["command"])}


def main(
    name: str,
    options: type,
    grid: Callable[[Any], Grid],
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse the command line and measure.

    Args:
        name: Name of the script.
        options: Its command line.
        grid: Makes a grid of it.
        arguments: The command line; ``None`` for the process's own.

    Returns:
        The process's exit code.
    """
    return run_program(name, lambda: grid(tyro.cli(options, args=arguments, prog=f"{name}.py")))
