"""Runs a comparison: all sweeps, then its table and figure from their records."""

import dataclasses
import functools
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import rich.console
import tyro
from etils import epath
from rich.logging import RichHandler

from comparison._chosen import check_fit, check_together, chosen_cases
from comparison._options import Options, made_small
from comparison._raw import NAME, raw_scores, with_raw
from comparison._study import Case, Context, Model, Study
from comparison._tables import has_radar, markdown, published, tables
from poolax.cli import COMPLETE, DIVERGED, progress_bars, run_program, show, simulate_devices, tell
from poolax.records import write_atomically
from poolax.reporting import Table, joined, plot_radar, plot_scores
from poolax.training import Limits, Progress, Records, stop_on_sigterm, sweep
from poolax.training.holding import holding


def main(study: Study, arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run the comparison.

    Args:
        study: What is compared.
        arguments: The command line; ``None`` for the process's own.

    Returns:
        The process's exit code: 0 complete, 1 failure, 2 usage, 3 complete with diverged heads,
        75 interrupted and resumable.
    """
    read = functools.partial(
        tyro.cli, type(study.options), default=study.options, prog=f"{study.name}.py", args=arguments
    )
    return run_program(study.name, lambda: _Command(study, read()))


@dataclasses.dataclass(frozen=True)
class _Command:
    study: Study
    options: Any

    resumable: ClassVar[bool] = True

    @property
    def debug(self) -> bool:
        return self.options.debug

    def run(self) -> int:
        options = made_small(self.options, self.study.options, self.study.quick)
        options.check()
        cases = chosen_cases(self.study, options)
        if options.devices is not None:
            simulate_devices(options.devices)
        console = rich.console.Console(file=sys.stderr)
        # Where token states are kept, how many heads are trained at once, and what that takes.
        logging.basicConfig(format="%(message)s", handlers=[RichHandler(console=console)])
        logging.getLogger("poolax").setLevel(logging.INFO)
        out = epath.Path(options.out)
        with holding(out):
            with progress_bars(console) as progress:
                records = _sweep(self.study, cases, Context(options, out, progress))
            shown = tables(records)
            _write(self.study, out, records, shown)
        show(shown, records, as_json=options.as_json)
        diverged = len(records.where(diverged=True))
        if diverged:
            tell(console, f"Complete with {diverged} diverged heads: {out}")
            return DIVERGED
        tell(console, f"Complete: {out}")
        return COMPLETE


def _sweep(study: Study, cases: Mapping[str, Case], context: Context) -> Records:
    """The records of all cases, without what is long."""
    options = context.options
    # All data first: what is missing is told before anything is trained.
    datasets = {name: case.dataset(context) for name, case in cases.items()}
    check_together(study, datasets)
    check_fit(study, datasets, options.backbone)
    rows = []
    for name, case in cases.items():
        task, raw = case.task(datasets[name]), None
        if options.raw:
            with stop_on_sigterm() as should_stop:
                raw = raw_scores(
                    datasets[name],
                    task,
                    out=context.out / NAME,
                    limits=_limits(options, should_stop),
                    progress=_within(f"{name}, {NAME}", context.progress),
                )
        for model in case.models(context, datasets[name], study.modality):
            found = _of_model(name, case, model, context)
            rows += [published(with_raw(row, raw), study=study, model=model) for row in found]
    return Records(rows)


def _of_model(name: str, case: Case, model: Model, context: Context) -> list[dict[str, Any]]:
    """The records of a backbone on a data set, by all solvers."""
    options, found = context.options, []
    for solver in dict.fromkeys(options.solvers):
        with stop_on_sigterm() as should_stop:
            found += sweep(
                model.backbone,
                model.data,
                case.task(model.data),
                poolers=options.poolers,
                seeds=options.seeds,
                epochs=options.epochs or case.epochs,
                batch_size=case.batch_size,
                **options.solving(solver),
                layers=options.layers,
                features=options.features,
                out=context.out,
                limits=_limits(options, should_stop),
                progress=_within(f"{model.name}, {name}", context.progress),
            )
    return found


def _limits(options: Options, should_stop: Callable[[], bool]) -> Limits:
    mebibytes = options.memory_budget
    return Limits(
        memory_budget=None if mebibytes is None else mebibytes * 2**20,
        shard=options.shard,
        should_stop=should_stop,
    )


def _within(name: str, progress: Progress) -> Progress:
    return lambda description, done, total: progress(f"{name}: {description}", done, total)


def _write(study: Study, out: epath.Path, records: Records, shown: Sequence[Table]) -> None:
    """The records of the tables, the tables and the figure."""
    records.write_as(out / f"{study.name}.jsonl")
    texts = {
        "md": markdown(shown, title=study.title),
        "csv": joined(shown).csv(),
        "tex": "\n".join(table.latex() for table in shown),
    }
    for suffix, text in texts.items():
        write_atomically(out / f"{study.name}.{suffix}", text)
    if not all(row["diverged"] for row in records):
        plot_scores(records, out / f"{study.name}.png")
    if study.radar and has_radar(records):
        plot_radar(records, out / f"{study.name}-radar.png")
