"""Speed of poolax beside the alternatives, measured side by side in one run.

    python experiments/benchmark.py --suite forward --data-dir DIR  # backbones beside PyTorch
    python experiments/benchmark.py --suite forward --profile       # where their time goes
    python experiments/benchmark.py --suite pretrain     # training steps of GPT-2 beside PyTorch
    python experiments/benchmark.py --suite lipschitz    # Jacobian norms beside dense Jacobians
    python experiments/benchmark.py --suite ledger       # bounds of seven billion parameters
    python experiments/benchmark.py --suite sweep --data-dir DIR    # heads beside PyTorch
    python experiments/benchmark.py --suite solvers --data-dir DIR  # heads beside scikit-learn
    python experiments/benchmark.py --suite scale        # a sweep on disk against examples and heads

In "forward", "pretrain" and "lipschitz" the runs of all contestants are interleaved, figures are
medians, and before each timed call there is a pause, for idle threads of one library's pool spin for a
while and would slow the other down, and one call that is not timed. "ledger", "sweep", "solvers" and
"scale" take minutes and are run once, with compilation, each side of "sweep" and each case of "scale"
in a process of its own. Ratios come from one run alone.

Duration (estimate, two CPU cores): some minutes a suite, half an hour for "forward".
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("benchmark")

import dataclasses
import json
import os
import pathlib
from typing import Literal, TypedDict

import tyro
from benchmarks import converged, forward, ledger, lipschitz, pretrain, scale, sweep
from benchmarks.banking77 import Plan

from poolax.records import Records, record_kind, write_atomically
from poolax.reporting import Cell, Table


@record_kind("benchmark")
class BenchmarkRecord(TypedDict):
    """One figure of a suite, whose other fields are its own."""

    suite: str


@dataclasses.dataclass(frozen=True)
class Options:
    """Speed of poolax beside the alternatives, measured side by side in one run.

    Attributes:
        suite: What is measured, in float32: "forward" is the forward pass of frozen backbones beside
            PyTorch, and loading them; "pretrain" a training step of small GPT-2s beside PyTorch, L2
            attention beside dot product, and their memory; "lipschitz" the Jacobian norm of a pooled
            block, matrix-free beside exact, and the search for its largest; "ledger" the bounds of a
            decoder with seven billion parameters, once; "sweep" heads of six poolers and five seeds on
            BANKING77 with MiniLM beside PyTorch and, trained to the end, beside scikit-learn, once;
            "solvers" the latter alone, beside Adam's; "scale" time and memory of a sweep on disk,
            against examples and heads.
        repeats: Timed calls of each contestant.
        pause: Seconds of rest before each call.
        threads: Threads of PyTorch; by default as many as there are cores.
        num_layers: Layers of the decoder in the suite "ledger".
        data_dir: Folder with banking77/, for the suites "sweep", "solvers" and "forward"; the last
            leaves texts of mixed lengths out without it.
        profile: In the suite "forward", where our time goes instead, by XLA's profile.
        epochs: Passes over the training split in the suite "sweep".
        num_examples: Most examples of each split in the suite "sweep", or of the largest case in
            "scale"; by default all.
        out: Folder to whose benchmark.jsonl records are appended, and where their table is written as
            SUITE.md; nothing is written by default.
        json: Print records instead of a table.
    """

    suite: Literal["forward", "pretrain", "lipschitz", "ledger", "sweep", "solvers", "scale"] = (
        "forward"
    )
    repeats: int = 9
    pause: float = 0.3
    threads: int | None = None
    num_layers: int = ledger.CONFIG.num_layers
    data_dir: str | None = None
    profile: bool = False
    epochs: int = 10
    num_examples: int | None = None
    out: str | None = None
    json: bool = False


def tables(records: list[dict[str, object]], columns: dict[str, str]) -> list[Table]:
    """Records as tables, one for all that have the same columns."""
    by_columns: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for record in records:
        by_columns.setdefault(tuple(name for name in columns if name in record), []).append(record)
    return [
        Table(
            title=str(own[0]["suite"]),
            columns=[name.replace("_", " ") for name in names],
            rows=[[Cell(columns[name].format(record[name])) for name in names] for record in own],
            notes=(),
            tidy=own,
        )
        for names, own in by_columns.items()
    ]


def sweep_plan(options: Options) -> Plan:
    """What the suites "sweep" and "solvers" do."""
    if options.data_dir is None:
        raise SystemExit(
            "data_dir: expected a folder with banking77/ for the suites sweep and solvers, got none"
        )
    return Plan(
        options.data_dir,
        epochs=options.epochs,
        num_examples=options.num_examples,
        threads=options.threads or os.cpu_count() or 1,
    )


def main() -> None:
    """Measure, print and record."""
    options = tyro.cli(Options)
    if options.out is not None:  # before minutes of measurements
        pathlib.Path(options.out).mkdir(parents=True, exist_ok=True)
    if options.suite == "forward":
        columns = forward.COLUMNS
        records = forward.run(
            repeats=options.repeats,
            pause=options.pause,
            threads=options.threads,
            data_dir=options.data_dir,
            by_part=options.profile,
        )
    elif options.suite == "pretrain":
        columns = pretrain.COLUMNS
        records = pretrain.run(repeats=options.repeats, pause=options.pause, threads=options.threads)
    elif options.suite == "lipschitz":
        columns = lipschitz.COLUMNS
        records = lipschitz.run(repeats=options.repeats, pause=options.pause)
    elif options.suite == "ledger":
        columns = ledger.COLUMNS
        records = ledger.run(num_layers=options.num_layers)
    elif options.suite == "scale":
        columns = scale.COLUMNS
        records = scale.run(most_examples=options.num_examples)
    elif options.suite == "solvers":
        columns = converged.COLUMNS
        records = converged.run(sweep_plan(options))
    else:
        columns = sweep.COLUMNS
        records = sweep.run(sweep_plan(options))
    found = tables(records, columns)
    if options.out is not None:
        out = pathlib.Path(options.out)
        Records(records).write_to(out / "benchmark.jsonl")
        write_atomically(out / f"{options.suite}.md", "\n".join(table.markdown() for table in found))
    if options.json:
        print("\n".join(json.dumps(record) for record in records))
    else:
        print("\n\n".join(map(str, found)))


if __name__ == "__main__":
    main()
