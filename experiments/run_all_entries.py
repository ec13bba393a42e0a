"""What ``run_all.py`` runs: a line of a table for each script, its arguments and how long it takes."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

Model = Literal["language", "vision", "series"]
Arguments = Mapping[str, Any]

#: Flags of ``run_all.py`` that are handed on to the comparisons and to what shares their command line.
SHARED = ("data_dir", "solvers", "seeds", "epochs", "num_examples", "devices")
#: Comparisons, whose records the scripts that measure nothing read.
COMPARISONS = ("language", "vision", "time_series")
_NEXT_TOKEN = "next_token"
#: Beside them, records of single examples that claims are tested on.
_OF_EXAMPLES = ("expressivity", "sequence_length", "robustness")
_CUT: Arguments = {"num_examples": 2000, "seeds": 3}
_QUICK = {"quick": True, "poolers": ("last", "avg", "wavg")}


class Run(NamedTuple):
    """One way to run a script.

    Attributes:
        minutes: How long that takes on two cores, an estimate; for each backbone that is handed on.
        arguments: Of its command line, by the names of its options.
        models: What the backbones read that are handed on to it.
        most: How many of them it takes; ``None`` for all.
    """

    minutes: float
    arguments: Arguments
    models: Sequence[Model] = ()
    most: int | None = None


class Entry(NamedTuple):
    """A script of this folder.

    Attributes:
        name: Of its folder, and for ``--only``.
        script: Its file.
        shows: What of the paper it gives.
        full: How it is run.
        quick: How it is run with ``--quick``; ``None`` where that has enough of its kind.
        flags: Those of ``run_all.py`` that it takes.
        records: The file in its folder whose records are counted; ``None`` where it writes none.
        reads: Entries whose records it reads, at least one of which has to be there.
    """

    name: str
    script: str
    shows: str
    full: Run
    quick: Run | None
    flags: Sequence[str] = SHARED
    records: str | None = None
    reads: Sequence[str] = ()


def _comparison(name: str, shows: str, minutes: float, model: Model, **arguments: Any) -> Entry:
    return Entry(
        name,
        f"{name}.py",
        shows,
        Run(minutes, arguments, (model,)),
        Run(1, _QUICK, (model,)),
        records=f"{name}.jsonl",
    )


def _probe(
    name: str,
    shows: str,
    minutes: float,
    *,
    models: Sequence[Model] = ("language",),
    quick: Sequence[Model] = (),
    **arguments: Any,
) -> Entry:
    """A script with the command line of ``probing.py``; it is quick on digits, or on texts."""
    flags = [flag for flag in SHARED if flag != "solvers"]
    return Entry(
        name,
        f"{name}.py",
        shows,
        Run(minutes, arguments, models),
        Run(1, _QUICK, quick),
        flags,
        records=f"{name}.jsonl",
    )


def _preset(name: str, minutes: float, *, is_quick: bool = False) -> Entry:
    quick = Run(1, {"preset": name, "quick": True}) if is_quick else None
    full = Run(minutes, {"preset": name, "worth": True})
    flags = ("data_dir", "devices")
    return Entry(
        f"pretrain-{name}", "pretrain.py", "backbones", full, quick, flags, records="records.jsonl"
    )


ENTRIES = {
    entry.name: entry
    for entry in (
        # Backbones first: what comes after them reads them.
        _preset("gpt2-64", 5, is_quick=True),
        _preset("gpt2-l2-64", 5),
        _preset("gpt2-128", 10),
        _preset("gpt2-l2-128", 10),
        _preset("gpt2-192", 15),
        _preset("gpt2-l2-192", 15),
        _preset("vit", 15, is_quick=True),
        _preset("lipsformer", 15),
        _preset("moment", 12, is_quick=True),
        # Cut so that one backbone takes less than an hour; the notes of the tables say so.
        _comparison("language", "Tables 2, 8; Figure 1", 50, "language", num_examples=1000, seeds=3),
        Entry(
            _NEXT_TOKEN,
            "language.py",
            "Tables 2, 8",
            Run(40, {"datasets": ("hellaswag_next_token",), "seeds": 3}, ("language",)),
            None,
            records="language.jsonl",
        ),
        _comparison("vision", "Tables 1, 4", 45, "vision", num_examples=2000, seeds=3),
        _comparison(
            "time_series",
            "Tables 3, 5-7",
            40,
            "series",
            num_examples=1000,
            seeds=3,
            from_average=True,  # some sets have ten validation examples
        ),
        Entry(
            "bounds",
            "bounds.py",
            "Section 4",
            # Of the language models the first alone: its blocks are those of BERT.
            Run(40, {}, ("language",), most=1),
            Run(
                1,
                {
                    "quick": True,
                    "suites": ("random",),
                    "kinds": ("l2",),
                    "targets": ("attention", "avg"),
                    "restarts": 2,
                },
            ),
            ("data_dir",),
            records="bounds.jsonl",
        ),
        _probe("optimisation", "third trend", 30, datasets=("banking77", "stsb"), **_CUT),
        _probe("data_size", "beyond the paper", 20, datasets=("banking77",), **_CUT),
        _probe("weights", "Figures 3, 5", 15, datasets=("banking77", "stsb"), **_CUT),
        _probe(
            "sequence_length",
            "Table 9",
            50,
            quick=("language",),
            datasets=("hellaswag",),
            num_examples=300,
            seeds=3,
        ),
        _probe(
            "expressivity",
            "Figures 2, 4",
            10,
            models=("language", "vision", "series"),
            quick=("language",),
            datasets=("banking77", "cifar10", "swedish_leaf"),
        ),
        Entry(
            "robustness",
            "robustness.py",
            "Table 10",
            Run(
                50,
                {
                    "datasets": ("cifar10",),
                    "num_examples": 2000,
                    "seeds": 1,
                    "num_inputs": 60,
                    "restarts": 1,
                },
                ("vision",),
            ),
            Run(3, _QUICK),
            records="robustness.jsonl",
        ),
        _preset("bert", 12),
        _preset("swin", 15),
        Entry(
            "claims",
            "claims.py",
            "claims",
            Run(5, {}),
            Run(1, {"quick": True}),
            (),
            records="claims.jsonl",
            reads=(*COMPARISONS, _NEXT_TOKEN, *_OF_EXAMPLES),
        ),
        Entry(
            "paper_table",
            "paper_table.py",
            "all values",
            Run(0.5, {}),
            Run(0.5, {}),
            (),
            reads=(*COMPARISONS, _NEXT_TOKEN, "sequence_length", "robustness"),
        ),
    )
}
