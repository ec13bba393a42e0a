"""``poolax advise``."""

import dataclasses
import shlex
import time
from typing import Annotated, ClassVar

import tyro

from poolax._checks import check_number
from poolax._paths import absolute_path
from poolax._text import one_line
from poolax.cli._console import COMPLETE, progress_bars, show, stderr
from poolax.cli._models import load_backbone
from poolax.cli._options import OptionalCount, OptionalNumber, OptionalPath
from poolax.cli._own_data import FileFlags, load_data, warn_of
from poolax.pooling import from_name
from poolax.records import Records, environment
from poolax.reporting import advice_table, plot_advice, write_figure, write_tables
from poolax.training import Advice, advise, task_for

FAST = ("avg", "last", "max", "sum", "l2", "wavg")
_FAST_MINUTES = 1.0
_MINUTES = 3.0
# Seconds before the command itself begins; a share of the time that is left in any case.
_STARTING, _LEAST_SHARE = 4.0, 0.2


@dataclasses.dataclass(frozen=True)
class Advise:
    """Which pooler to put on a frozen backbone for your data, why, and how sure that is.

        poolax advise sentence-transformers/all-MiniLM-L6-v2 reviews.csv --text-column body

    Token states are computed once; heads of all poolers are trained to the end; the best by validation
    is compared with every other pooler on test examples that had no part in choosing. Where no
    difference is beyond noise, the cheapest pooler is recommended. Records, the table, a figure and the
    trained head are left in --out.

    Attributes:
        model: Directory or hub id of a backbone.
        dataset: Name of a data set, see poolax data list, or your own file or folder.
        minutes: Time for all of it; poolers for which there is none are named.
        fast: An answer within a minute, from poolers that cost little.
        poolers: Poolers to compare; by default the usual ones.
        num_examples: Most examples of each split.
        max_tokens: Tokens that texts are cut to.
        seed: Of everything random.
        data_dir: Folder of the files of a data set that has a name.
        out: Folder for records, table, figure and heads.
        files: How your own files are read.
        as_json: Print the advice as one line of JSON.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = True

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="BACKBONE")]
    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    minutes: OptionalNumber = None
    fast: bool = False
    poolers: tuple[str, ...] = ()
    num_examples: OptionalCount = None
    max_tokens: OptionalCount = None
    seed: int = 0
    data_dir: OptionalPath = None
    out: str = "poolax-advice"
    files: tyro.conf.OmitArgPrefixes[FileFlags] = dataclasses.field(default_factory=FileFlags)
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        started = time.perf_counter()
        for pooler in self.poolers:
            from_name(pooler)
        entry, dataset, _ = load_data(
            self.dataset, self.files, data_dir=self.data_dir, argument="dataset"
        )
        if self.num_examples is not None:
            dataset = dataset.subset(self.num_examples, seed=self.seed)
        warnings = warn_of(dataset)
        backbone = load_backbone(self.model, entry.modality, dataset)
        with progress_bars(stderr()) as progress:
            advice = advise(
                backbone,
                dataset,
                task_for(dataset),
                minutes=self._minutes(time.perf_counter() - started),
                poolers=self.poolers or (FAST if self.fast else None),
                max_tokens=self.max_tokens,
                out=self.out,
                seed=self.seed,
                progress=progress,
            )
        record = {
            **advice.to_record(),
            "model": self.model,
            "dataset": dataset.name,
            "data_warnings": list(warnings),
            "wall_s": round(time.perf_counter() - started, 1),
            **environment(),
        }
        self._write(record)
        table = advice_table(record)
        show([table], [record], as_json=self.as_json)
        if not self.as_json:
            for line in self._next(advice):
                print(line)
        return COMPLETE

    def _minutes(self, spent: float) -> float:
        """Minutes that are left of those that are given, of which something has to be."""
        given = self.minutes
        if given is None:
            given = _FAST_MINUTES if self.fast else _MINUTES
        check_number("minutes", given, above=0.0)
        return max(given - (spent + _STARTING) / 60, _LEAST_SHARE * given)

    def _write(self, record) -> None:
        folder = absolute_path(self.out)
        Records([record]).write_as(folder / "advice.jsonl")
        write_tables([advice_table(record)], folder, "advice")
        write_figure(plot_advice, record, folder, "advice")

    def _next(self, advice: Advice) -> list[str]:
        """What to do with it."""
        head = shlex.quote(str(advice.directory))
        return [
            "",
            f"Table, figure and records: {one_line(self.out)}",
            f"The head: training.load_head({str(advice.directory)!r}).predict(states, mask)",
            f"Its bounds: poolax bounds {head}",
        ]
