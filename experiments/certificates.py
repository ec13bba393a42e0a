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
import sys
from collections.abc import Iterator, Sequence

import certificates_models as subjects
import grid
import minilm
from bounds_cases import KINDS
from certificates_tables import tables

from poolax.cli import OptionalPath, check_choice, check_count

MODELS = ("head", "block", "backbone", "cost")


@dataclasses.dataclass(frozen=True)
class Options:
    """Certified radii beside attacked ones.

    Attributes:
        models: Which of "head", "block", "backbone" and "cost", seconds of many heads' examples.
        poolers: Names of the heads' poolers.
        geometries: Norms of changes of heads' inputs.
        kinds: Kinds of attention of blocks, which are certified in the Frobenius norm.
        num_inputs: Test images of each model.
        num_sentences: Sentences that the backbone is certified at, of 10 tokens and of 32, or the
            longest below.
        steps: Steps of each attack.
        restarts: Restarts of each attack.
        seed: Sets weights and attacks.
        quick: Two images, an average, and short attacks.
        out: Folder for records and tables; nothing is written by default.
        tables_only: Measure nothing: tables of what is recorded in the folder.
        json: Print records instead of tables.
    """

    models: tuple[str, ...] = MODELS
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


def work(options: Options) -> Iterator[grid.Case]:
    """What is certified, and how: one record a model and geometry."""
    known = {
        "models": MODELS,
        "poolers": subjects.HEADS,
        "geometries": subjects.GEOMETRIES,
        "kinds": KINDS,
    }
    for field, choices in known.items():
        for name in getattr(options, field):
            check_choice(field, name, tuple(choices))
    for field in ("num_inputs", "num_sentences", "steps", "restarts"):
        check_count(field, getattr(options, field))
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
        what |= {"dataset": "sentences", "num_inputs": options.num_sentences}
        row = {"model": minilm.NAME, "attention": None, "pooler": "average", "geometry": "frobenius"}
        for most in subjects.MOST_TOKENS:
            yield (
                {**what, **row, "most_tokens": most},
                functools.partial(subjects.of_backbone, options, most),
            )
    if "cost" in options.models:
        for name in subjects.COST:
            for norm in options.geometries:
                row = {"kind": "certify_cost", "pooler": name, "geometry": norm, "seed": options.seed}
                shape = list(subjects.COST[name])
                yield (
                    {**row, "shape": shape},
                    functools.partial(subjects.cost, options, name, norm),
                )


def certificates(options: Options) -> grid.Grid:
    """The grid of a command line."""
    return grid.Grid("certificates", options.resolved(), work, tables)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, record, and write and print the tables."""
    return grid.main("certificates", Options, certificates, arguments)


if __name__ == "__main__":
    sys.exit(main())
