"""The paper's 1,032 values beside those of records, and how many were attempted, matched and skipped.

    python experiments/paper_table.py                          # from results/, into results/paper/
    python experiments/paper_table.py --records OUT/language.jsonl --models BERT=bert-base-uncased

Reads records alone. A value of the paper stands above what records of the
same data, task, metric and pooler say; a difference is shown only where model and data are the same.
Which checkpoint the paper calls "BERT" it does not say: --models says which of yours you take it for.

Duration (estimate, two CPU cores): seconds.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("paper_table")

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import ClassVar

import tyro
from paper_records import in_form_of_heads

from poolax.cli import COMPLETE, run_program
from poolax.records import Records, write_atomically
from poolax.reporting import beside_paper, joined, paper_counts, paper_tables

HERE = pathlib.Path(__file__).parent
#: Scripts whose records stand in results/, a file each.
COMPARISONS = ("language", "time_series", "vision")
#: Scripts beside them of whose records the paper has tables.
PROBES = ("robustness", "sequence_length")
_NOT_HERE = "its files were not at hand without a network"
#: Data sets of the paper of which there was no copy where the stored records were made.
ABSENT: dict[str, str] = dict.fromkeys(
    (
        *("cifar100", "imagenet100", "cub200", "miniplaces", "celeba", "flowers102", "pets", "voc"),
        *("tinystories", "electric_devices", "ford_a", "ford_b", "etth2", "ettm1", "ettm2"),
        *("electricity", "traffic", "weather"),
    ),
    _NOT_HERE,
)


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """Set the paper's values and those of records side by side.

    Attributes:
        records: Files of records of comparisons, robustness.py and sequence_length.py; by default those
            in results/.
        models: NAME=MODEL: the paper's name of a model, and what the records call it.
        out: Folder for paper.md and paper.csv.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = False

    records: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    out: str = str(HERE / "results" / "paper")
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        paths = [*map(pathlib.Path, self.records)] or read_by_paper(HERE / "results")
        records = [row for path in paths for row in _read(path)]
        out = pathlib.Path(self.out)
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts(records, models=_pairs(self.models)).items():
            write_atomically(out / name, text)
        print(counts(records, models=_pairs(self.models)))
        return COMPLETE


def stored(results: pathlib.Path) -> list[pathlib.Path]:
    """Files of records of comparisons, in order."""
    paths = (results / f"{name}.jsonl" for name in COMPARISONS)
    return [path for path in paths if path.exists()]


def read_by_paper(results: pathlib.Path) -> list[pathlib.Path]:
    """Files of records that stand beside values of the paper, those that are there."""
    probes = [results / name / f"{name}.jsonl" for name in PROBES]
    return [*stored(results), *(path for path in probes if path.exists())]


def texts(records: Sequence[Mapping], *, models: Mapping[str, str] | None = None) -> dict[str, str]:
    """The tables in Markdown and as tidy rows, by the names of their files.

    Args:
        records: Records of comparisons, and of :data:`PROBES`.
        models: What the records call a model, by the paper's name of it.
    """
    found = beside_paper(in_form_of_heads(records), models=models, absent=ABSENT)
    tables = paper_tables(found)
    shown = "\n".join(table.markdown(level=2) for table in tables)
    head = f"# The paper's values beside ours\n\n{paper_counts(found)}"
    return {
        "paper.md": f"{head} Those of the paper are printed as there.\n\n{shown}",
        "paper.csv": joined(tables).csv(),
    }


def counts(records: Sequence[Mapping], *, models: Mapping[str, str] | None = None) -> str:
    """How many of the paper's values have one of these records beside them, in a sentence.

    Args:
        records: Records of comparisons, and of :data:`PROBES`.
        models: What the records call a model, by the paper's name of it.
    """
    return paper_counts(beside_paper(in_form_of_heads(records), models=models))


def _read(path: pathlib.Path) -> Records:
    if not path.is_file():
        raise ValueError(f"records: expected a file of records, got {path}")
    return Records.read(path)


def _pairs(models: Sequence[str]) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in models]
    for name, equals, model in pairs:
        if not (name and equals and model):
            raise ValueError(f"models: expected NAME=MODEL, got {name}{equals}{model}")
    return {name: model for name, _, model in pairs}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and write the tables."""
    return run_program("paper_table", lambda: tyro.cli(PaperTable, args=arguments))


if __name__ == "__main__":
    sys.exit(main())
