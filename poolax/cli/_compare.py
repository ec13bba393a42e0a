"""``poolax compare``."""

import dataclasses
import time
from typing import Annotated, ClassVar

import tyro

from poolax._paths import absolute_path
from poolax.cli._console import COMPLETE, progress_bars, show, stderr
from poolax.cli._models import load_backbone
from poolax.cli._options import OptionalCount, OptionalNumber, OptionalPath
from poolax.cli._own_data import FileFlags, load_data, warn_of
from poolax.pooling import from_name
from poolax.records import Records, environment
from poolax.reporting import comparison_table, write_tables
from poolax.training import compare, task_for


@dataclasses.dataclass(frozen=True)
class Compare:
    """Which of several frozen backbones to take for your data, with which pooler, and how sure that is.

        poolax compare sentence-transformers/all-MiniLM-L6-v2 BAAI/bge-small-en-v1.5 --data reviews.csv

    On each backbone poolers are compared as poolax advise does it; the best of each, chosen by
    validation, are compared on the same test examples, which had no part in choosing. The table has a
    row for each backbone and a column for each pooler. Records, the table and the heads are left in
    --out; the same command goes on from what is finished there.

    Attributes:
        models: Directories or hub ids of backbones, two or more.
        data: Name of a data set, see poolax data list, or your own file or folder.
        minutes: Time for all of it, which backbones share; by default as long as it takes.
        poolers: Poolers to compare; by default the usual ones.
        num_examples: Most examples of each split.
        max_tokens: Tokens that texts are cut to.
        seed: Of everything random.
        data_dir: Folder of the files of a data set that has a name.
        out: Folder for records, table and heads.
        files: How your own files are read.
        as_json: Print the comparison as one line of JSON.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = True

    models: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="BACKBONE BACKBONE …")
    ]
    data: Annotated[str, tyro.conf.arg(metavar="DATA")]
    minutes: OptionalNumber = None
    poolers: tuple[str, ...] = ()
    num_examples: OptionalCount = None
    max_tokens: OptionalCount = None
    seed: int = 0
    data_dir: OptionalPath = None
    out: str = "poolax-compare"
    files: tyro.conf.OmitArgPrefixes[FileFlags] = dataclasses.field(default_factory=FileFlags)
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        if len(self.models) < 2:
            got = ", ".join(self.models) or "none"
            raise ValueError(f"models: expected two backbones or more, got {got}")
        for pooler in self.poolers:
            from_name(pooler)
        entry, dataset, _ = load_data(self.data, self.files, data_dir=self.data_dir, argument="data")
        if self.num_examples is not None:
            dataset = dataset.subset(self.num_examples, seed=self.seed)
        warnings = warn_of(dataset)
        backbones = [load_backbone(path, entry.modality, dataset) for path in self.models]
        started = time.perf_counter()
        with progress_bars(stderr()) as progress:
            found = compare(
                backbones,
                dataset,
                task_for(dataset),
                minutes=self.minutes,
                poolers=self.poolers or None,
                max_tokens=self.max_tokens,
                out=self.out,
                seed=self.seed,
                progress=progress,
            )
        record = {
            **found.to_record(),
            "models": list(self.models),
            "dataset": dataset.name,
            "data_warnings": list(warnings),
            "wall_s": round(time.perf_counter() - started, 1),
            **environment(),
        }
        folder, table = absolute_path(self.out), comparison_table(record)
        Records([record]).write_as(folder / "comparison.jsonl")
        write_tables([table], folder, "comparison")
        show([table], [record], as_json=self.as_json)
        if not self.as_json:
            print(f"\nTable, records and heads: {self.out}")
        return COMPLETE
