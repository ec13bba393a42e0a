"""What the heads of a sweep are known by."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import flax.linen as nn

from poolax import codec
from poolax.records import digest
from poolax.training._engine.jobs import Run
from poolax.training.arguments import rates_of, seeds_of
from poolax.training.former import former_identity
from poolax.training.tasks import Task
from poolax.training.token_head import TokenHead


@dataclasses.dataclass(frozen=True)
class Heads:
    """The heads of a sweep: poolers, learning rates and seeds, finished or not.

    Attributes:
        task: What the heads predict.
        poolers: Modules by label.
        runs: Learning rates and seeds of each pooler.
        epochs: Passes over the training split.
        batch_size: Examples a step.
        source: What else makes a head another one, plain JSON.
        former: What earlier programs said of parts of the source, of which ids are digests still.
    """

    task: Task
    poolers: Mapping[str, nn.Module]
    runs: tuple[Run, ...]
    epochs: int
    batch_size: int
    source: Mapping[str, Any]
    former: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        task: Task,
        poolers: Mapping[str, nn.Module],
        *,
        seeds: int | Sequence[int],
        learning_rates: Sequence[float],
        epochs: int,
        batch_size: int,
        source: Mapping[str, Any],
        former: Mapping[str, Any] | None = None,
    ) -> Self:
        """All learning rates with all seeds.

        Raises:
            ValueError: for numbers out of range.
        """
        numbers = seeds_of(seeds)
        runs = tuple((rate, seed) for rate in rates_of(learning_rates) for seed in numbers)
        return cls(task, poolers, runs, epochs, batch_size, dict(source), dict(former or {}))

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
            "source": {**former_identity(self.source), **self.former},
        }
        return {
            (label, run): digest({**common, "label": label, "pooler": describe(pooler), "run": run})
            for label, pooler in self.poolers.items()
            for run in self.runs
        }

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
            "pooler": label,
            "resolved": describe(self.poolers[label]),
            "learning_rate": run[0],
            "seed": run[1],
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            **self.source,
        }

    def config(self, label: str, run: Run) -> dict[str, Any]:
        """What the checkpoint of a head says of it."""
        return {
            "pooler": _config_or_none(self.poolers[label]),
            "num_outputs": self.task.num_outputs,
            "task": self.task.name,
            "learning_rate": run[0],
            "seed": run[1],
            "epochs": self.epochs,
            **self.source,
        }


def _config_or_none(pooler):
    if codec.name_of(type(pooler)) is None:
        return None
    try:
        return codec.to_plain(pooler, of="head" if isinstance(pooler, TokenHead) else "pooler")
    except ValueError:
        return None


def describe(pooler: nn.Module) -> dict[str, Any]:
    """Name and options of a pooler, or what there is to say of one of a user's own."""
    return _config_or_none(pooler) or {"name": type(pooler).__name__, "options": repr(pooler)}


def _task_options(task: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(task):
        return {}
    return {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
