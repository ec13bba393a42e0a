"""Certified radii beside attacked ones, on real inputs: how far may they move, and their class stay?

    python experiments/certificates.py --out results/certificates

Heads and one-block models learn scikit-learn's handwritten digits, whose patches are tokens;
all-MiniLM-L6-v2 tells two sentences apart by whose pooled vector is nearer, and its embeddings move.
The truth lies between what is certified and what a search finds. Records are added to
OUT/certificates.jsonl and tables are made from records alone; what is recorded already is not measured
again.

Duration (estimate, two CPU cores): ten minutes.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("certificates")

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import certificates_models as subjects
import minilm
import rich.console
import rich.progress
import tyro
from bounds_cases import KINDS
from certificates_tables import tables
from comparison import portable_command

from poolax.cli import OptionalPath, show
from poolax.records import Journal, Records, environment, write_atomically


@dataclasses.dataclass(frozen=True)
class Options:
    """Certified radii beside attacked ones.

    Attributes:
        models: Which of "head", "block", "backbone" and "cost", seconds of many heads' examples.
        poolers: Names of the heads' poolers.
        geometries: Norms of changes of heads' inputs.
        kinds: Kinds of attention of blocks, which are certified in the Frobenius norm.
        num_inputs: Test images of each model.
        num_sentences: Sentences that the backbone is certified at.
        steps: Steps of each attack.
        restarts: Restarts of each attack.
        seed: Sets weights and attacks.
        quick: Two images, an average, and short attacks.
        out: Folder for records and tables; nothing is written by default.
        tables_only: Measure nothing: tables of what is recorded in the folder.
        json: Print records instead of tables.
    """

    models: tuple[str, ...] = ("head", "block", "backbone", "cost")
    poolers: tuple[str, ...] = tuple(subjects.HEADS)
    geometries: tuple[str, ...] = subjects.GEOMETRIES
    kinds: tuple[str, ...] = tuple(KINDS)
    num_inputs: int = 16
    num_sentences: int = 4
    steps: int = 40
    restarts: int = 2
    seed: int = 0
    quick: bool = False
    out: OptionalPath = None
    tables_only: bool = False
    json: bool = False

    def resolved(self) -> "Options":
        """The options, made small if that is asked for."""
        if not self.quick:
            return self
        small = {"models": ("head",), "poolers": ("average",), "num_inputs": 2, "steps": 5}
        return dataclasses.replace(self, **small, restarts=1)


def work(options: Options) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """What is certified, and how: one record a model and geometry."""
    what = {"kind": "certified", "seed": options.seed, "dataset": "digits"}
    what |= {"num_inputs": options.num_inputs, "steps": options.steps, "restarts": options.restarts}
    cases = [("head", None, name, norm) for name in options.poolers for norm in options.geometries]
    cases += [("block", kind, "average", "frobenius") for kind in options.kinds]
    for model, kind, name, norm in cases:
        if model in options.models:
            row = {"model": model, "attention": kind, "pooler": name, "geometry": norm}
            yield (
                {**what, **row},
                functools.partial(subjects.of_digits, options, kind, name, norm),
            )
    if "backbone" in options.models:
        what |= {"dataset": "sentences", "num_inputs": options.num_sentences, "steps": 0, "restarts": 0}
        row = {"model": minilm.NAME, "attention": None, "pooler": "average", "geometry": "frobenius"}
        yield {**what, **row}, functools.partial(subjects.of_backbone, options)
    if "cost" in options.models:
        for name in subjects.COST:
            for norm in options.geometries:
                row = {"kind": "certify_cost", "pooler": name, "geometry": norm, "seed": options.seed}
                shape = list(subjects.COST[name])
                yield (
                    {**row, "shape": shape},
                    functools.partial(subjects.cost, options, name, norm),
                )


def _made_with():
    row = environment()
    return {**row, "command": portable_command(row["command"])}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, record, and write and print the tables."""
    options = tyro.cli(Options, args=arguments).resolved()
    path = None if options.out is None else pathlib.Path(options.out) / "certificates.jsonl"
    if options.tables_only:
        if path is None or not path.exists():
            raise SystemExit("tables_only: expected --out to be a folder with certificates.jsonl")
        records = Records.read(path)
    else:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        journal = Journal(path, made_with=_made_with)
        console = rich.console.Console(stderr=True)
        records = Records(
            journal.measured(what, measured)
            for what, measured in rich.progress.track(
                list(work(options)), "certifying", console=console
            )
        )
    found = tables(records)
    if path is not None:
        text_of_all = "\n".join(table.markdown() for table in found.values())
        write_atomically(path.parent / "certificates.md", text_of_all)
        for name, table in found.items():
            write_atomically(path.parent / f"certificates_{name}.csv", table.csv())
    show(found.values(), records, as_json=options.json)


if __name__ == "__main__":
    main()
