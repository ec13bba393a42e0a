"""What the heads of a sweep are known by."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import flax.linen as nn
import numpy as np

from poolax import codec
from poolax._dataset import Dataset
from poolax.backbones import Backbone
from poolax.records import digest, fingerprint
from poolax.training._convex.rule import RULE
from poolax.training._engine.jobs import Run as Training
from poolax.training._sweep.methods import SCHEDULE, Method
from poolax.training._sweep.rates import Search, all_rates, search
from poolax.training._sweep.readers import Reader
from poolax.training.arguments import rates_of, seeds_of
from poolax.training.former import describe_config, former_identity
from poolax.training.solver import Converged
from poolax.training.tasks import Task
from poolax.training.token_head import TokenHead

# Learning rate and seed; a head that is solved has no learning rate.
Run = tuple[float | None, int]


@dataclasses.dataclass(frozen=True)
class Heads:
    """The heads of a sweep: poolers, learning rates and seeds, finished or not.

    Attributes:
        task: What the heads predict.
        readers: Poolers and what they read, by key, which is the label of those that read the output.
        runs: Learning rates and seeds of each pooler whose heads are trained in steps.
        epochs: Passes over the training split.
        batch_size: Examples a step.
        source: What else makes a head another one, plain JSON.
        former: What earlier programs said of parts of the source, of which ids are digests still.
        solver: How heads are trained to the end; ``None`` for Adam alone.
        methods: How heads of each pooler are trained to the end; nothing without a solver.
        own: What else makes the heads of a key others, beside the source.
        resampled: Whether each seed has training examples of its own, so that it changes heads of a
            convex loss as well.
        further: With Adam alone, learning rates that are tried beyond either edge, at most.
    """

    task: Task
    readers: Mapping[str, Reader]
    runs: tuple[Training, ...]
    epochs: int
    batch_size: int
    source: Mapping[str, Any]
    former: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    solver: Converged | None = None
    methods: Mapping[str, Method] = dataclasses.field(default_factory=dict)
    own: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    resampled: bool = False
    further: int = 0

    @functools.cached_property
    def poolers(self) -> dict[str, nn.Module]:
        """Modules by key."""
        return {key: reader.pooler for key, reader in self.readers.items()}

    def source_of(self, key: str) -> dict[str, Any]:
        """What else makes the heads of a key others, as their records say."""
        return {**self.source, **self.readers[key].own, **self.own.get(key, {})}

    @property
    def solved(self) -> frozenset[str]:
        """Labels of the poolers whose heads are solved and not trained in steps."""
        return frozenset(label for label, how in self.methods.items() if how.name != SCHEDULE)

    @property
    def on_vectors(self) -> frozenset[str]:
        """Labels of the poolers whose heads a solver trains on their vectors, in steps or not."""
        return frozenset(label for label, how in self.methods.items() if how.is_fixed)

    @classmethod
    def of(
        cls,
        task: Task,
        readers: Mapping[str, Reader],
        *,
        seeds: int | Sequence[int],
        learning_rates: Sequence[float],
        epochs: int,
        batch_size: int,
        source: Mapping[str, Any],
        former: Mapping[str, Any] | None = None,
        solver: Converged | None = None,
        methods: Mapping[str, Method] | None = None,
        own: Mapping[str, Mapping[str, Any]] | None = None,
        resampled: bool = False,
        further: int = 0,
    ) -> Self:
        """All learning rates with all seeds.

        Args:
            task: What the heads predict.
            readers: Poolers and what they read, by key.
            seeds: Number of seeds, or the seeds.
            learning_rates: Learning rates to try.
            epochs: Passes over the training split.
            batch_size: Examples a step.
            source: What else makes a head another one, plain JSON.
            former: What earlier programs said of parts of it.
            solver: How heads are trained to the end; ``None`` for Adam alone.
            methods: How by it those of each pooler are.
            own: Of the heads of a key, what else makes them others.
            resampled: Whether each seed has training examples of its own.
            further: With Adam alone, learning rates that are tried beyond either edge, at most.

        Raises:
            ValueError: for numbers out of range.
        """
        numbers = seeds_of(seeds)
        runs = tuple((rate, seed) for rate in rates_of(learning_rates) for seed in numbers)
        return cls(
            task,
            dict(readers),
            runs,
            epochs,
            batch_size,
            dict(source),
            dict(former or {}),
            solver,
            dict(methods or {}),
            dict(own or {}),
            resampled,
            further,
        )

    def runs_of(self, label: str) -> tuple[Run, ...]:
        """Learning rates and seeds that heads of a pooler may have.

        Of a convex loss the seed changes nothing, so that there is one head.
        """
        seeds = dict.fromkeys(seed for _, seed in self.runs)
        if label in self.solved:
            return tuple(
                (None, seed) for seed in ([0] if self.task.is_convex and not self.resampled else seeds)
            )
        return tuple((rate, seed) for rate in self._known_rates for seed in seeds)

    def wanted(self, label: str, finished: Mapping[tuple[str, Run], Mapping]) -> tuple[Run, ...]:
        """Those that it has to have, as far as is known from the records of those that are finished."""
        if label in self.solved or not self.searches:
            return self.runs_of(label)
        found = self.rates_of(label, finished)
        runs = self.runs_of(label)
        judges = self._judges
        known = (*found.tried, *found.next)
        return tuple(
            (rate, seed)
            for rate, seed in runs
            if rate == found.chosen or (seed in judges and rate in known)
        )

    @property
    def searches(self) -> bool:
        """Whether learning rates are searched for, and not all of those that are asked for trained."""
        return len(self._known_rates) > 1 and (self.solver is not None or self.further > 0)

    @property
    def chosen_by(self) -> str:
        """What chooses a learning rate that is searched for, in words."""
        if self.solver is None:
            return "mean validation score over seeds"
        return "validation of the first seed"

    @property
    def _judges(self) -> tuple[int, ...]:
        """Seeds by whose validation a learning rate is chosen."""
        seeds = tuple(dict.fromkeys(seed for _, seed in self.runs))
        return seeds if self.solver is None else seeds[:1]

    def rates_of(self, label: str, finished: Mapping[tuple[str, Run], Mapping]) -> Search:
        """How far the search for the learning rate of a pooler is: by its first seed, or by all."""
        rates, judges = self._rates, self._judges
        rows = {
            rate: [finished[label, (rate, seed)] for seed in judges]
            for rate in self._known_rates
            if all((label, (rate, seed)) in finished for seed in judges)
        }
        # Of another search, farther away than this one has come.
        reached = {rate: own for rate, own in rows.items() if rate in rates}
        while True:
            found = search(
                rates,
                {rate: _validation(own) for rate, own in reached.items()},
                higher_is_better=self.task.higher_is_better,
                further=self._further,
            )
            more = {rate: rows[rate] for rate in found.next if rate in rows}
            if not more or found.chosen is not None:
                return found
            reached |= more

    @property
    def _rates(self) -> tuple[float, ...]:
        return tuple(dict.fromkeys(rate for rate, _ in self.runs))

    @property
    def _further(self) -> int:
        return self.further if self.solver is None else self.solver.further_rates

    @property
    def _known_rates(self) -> tuple[float, ...]:
        """Learning rates that a search may come to."""
        return all_rates(self._rates, self._further)

    @functools.cached_property
    def ids(self) -> dict[tuple[str, Run], str]:
        """What each head is known by, in the order of the records."""
        task = self.task
        common = {
            "task": task.name,
            "task_options": _task_options(task),
            "num_outputs": task.num_outputs,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            **self._solver(),
        }
        found = {}
        for key, reader in self.readers.items():
            source = {**former_identity(self.source_of(key)), **self.former}
            own = {"source": source, "label": reader.label, "pooler": describe(reader.pooler)}
            if key in self.solved:  # chosen by another rule it may be another head
                own["rule"] = RULE
            for run in self.runs_of(key):
                found[key, run] = digest({**common, **own, "run": run})
        return found

    def _solver(self) -> dict[str, Any]:
        """What is said of a solver; of Adam alone nothing, as before there was another."""
        return {} if self.solver is None else {"solver": codec.to_plain(self.solver, of="solver")}

    def fields(self, label: str, run: Run) -> dict[str, Any]:
        """What a record says of its head, trained or not."""
        task = self.task
        return {
            "kind": "head",
            "id": self.ids[label, run],
            "task": task.name,
            "task_options": _task_options(task),
            "metric": task.metric,
            "higher_is_better": task.higher_is_better,
            "pooler": self.readers[label].label,
            "resolved": describe(self.poolers[label]),
            "learning_rate": run[0],
            "seed": run[1],
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            **self._solver(),
            **self.source_of(label),
        }

    def config(self, label: str, run: Run) -> dict[str, Any]:
        """What the checkpoint of a head says of it."""
        return {
            "pooler": _config_or_none(self.poolers[label]),
            "num_outputs": self.task.num_outputs,
            "task": self.task.name,
            **({"joins_parts": True} if self.task.joins_parts else {}),
            "learning_rate": run[0],
            "seed": run[1],
            "epochs": self.epochs,
            "num_skipped": self.readers[label].view.num_prefix,
            **self._solver(),
            **self.source_of(label),
        }


def _validation(rows):
    """Mean validation score of heads, without those that diverged; NaN where all did."""
    scores = [row["validation"] for row in rows if not row["diverged"]]
    return float(np.mean(scores)) if scores else float("nan")


def _config_or_none(pooler):
    if codec.name_of(type(pooler)) is None:
        return None
    try:
        return codec.to_plain(pooler, of="head" if isinstance(pooler, TokenHead) else "pooler")
    except ValueError:
        return None


def identity_of(backbone: Backbone, dataset: Dataset, *, include_prefix: bool) -> dict[str, Any]:
    """What records say of a backbone and the data that it reads, and heads are known by."""
    identity = {
        "dataset": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "backbone": type(backbone).__name__,
        "backbone_config": describe_config(backbone.config),
        "backbone_fingerprint": fingerprint_of(backbone),
        "preprocess": backbone.preprocessing.describe_for(dataset.inputs.shape),
        "include_prefix": include_prefix,
    }
    if backbone.pooler is not None:
        identity["backbone_pooler"] = describe(backbone.pooler)
    positions = backbone.describe_positions(dataset.inputs.shape)
    if positions is not None:
        identity["positions"] = positions
    return identity


def fingerprint_of(backbone: Backbone) -> str:
    """What a backbone is known by in records and heads: weights, configuration, what it reads."""
    return fingerprint(
        backbone.params, backbone.config, backbone.preprocess, str(backbone.compute_dtype)
    )


def describe(pooler: nn.Module) -> dict[str, Any]:
    """Name and options of a pooler, or what there is to say of one of a user's own."""
    return _config_or_none(pooler) or {"name": type(pooler).__name__, "options": repr(pooler)}


def _task_options(task: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(task):
        return {}
    return {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
