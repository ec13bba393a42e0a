"""Speed of poolax beside the alternatives, measured side by side in one run.

    python experiments/benchmark.py --suite forward      # backbones beside PyTorch
    python experiments/benchmark.py --suite lipschitz    # Jacobian norms beside dense Jacobians
    python experiments/benchmark.py --suite ledger       # bounds of seven billion parameters

Runs of all contestants are interleaved, figures are medians, and ratios come from one run alone. Before
each timed call there is a pause, for idle threads of one library's pool spin for a while and would slow
the other down, and one call that is not timed.
"""

import dataclasses
import json
import pathlib
from typing import Literal

import rich
import rich.table
import tyro
from benchmarks import forward, ledger, lipschitz

from poolax.training import Records


@dataclasses.dataclass(frozen=True)
class Options:
    """Speed of poolax beside the alternatives, measured side by side in one run.

    Attributes:
        suite: What is measured, in float32: "forward" is the forward pass of frozen backbones beside
            PyTorch; "lipschitz" the Jacobian norm of a pooled block, matrix-free beside exact, and the
            search for its largest; "ledger" the bounds of a decoder with seven billion parameters,
            once.
        repeats: Timed calls of each contestant.
        pause: Seconds of rest before each call.
        threads: Threads of PyTorch; by default as many as there are cores.
        num_layers: Layers of the decoder in the suite "ledger".
        out: Folder to which a record is appended; nothing is written by default.
        json: Print records instead of a table.
    """

    suite: Literal["forward", "lipschitz", "ledger"] = "forward"
    repeats: int = 15
    pause: float = 0.3
    threads: int | None = None
    num_layers: int = ledger.CONFIG.num_layers
    out: str | None = None
    json: bool = False


def show(records: list[dict[str, object]], columns: dict[str, str]) -> None:
    """Print records as a table; what a record does not have stays empty."""
    table = rich.table.Table(*(column.replace("_", " ") for column in columns))
    for record in records:
        cells = (form.format(record[key]) if key in record else "" for key, form in columns.items())
        table.add_row(*cells)
    rich.print(table)


def main() -> None:
    """Measure, print and record."""
    options = tyro.cli(Options)
    if options.suite == "forward":
        columns = forward.COLUMNS
        records = forward.run(repeats=options.repeats, pause=options.pause, threads=options.threads)
    elif options.suite == "lipschitz":
        columns = lipschitz.COLUMNS
        records = lipschitz.run(repeats=options.repeats, pause=options.pause)
    else:
        columns = ledger.COLUMNS
        records = ledger.run(num_layers=options.num_layers)
    if options.out is not None:
        Records(records).write_to(pathlib.Path(options.out) / "benchmark.jsonl")
    if options.json:
        print("\n".join(json.dumps(record) for record in records))
    else:
        show(records, columns)


if __name__ == "__main__":
    main()
