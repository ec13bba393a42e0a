"""Sweeps over the runs of an advice."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from poolax.records import Records
from poolax.training._advice.heads import Trained, best_of
from poolax.training._advice.runs import Runs
from poolax.training._engine.limits import Limits
from poolax.training._folds import even_folds
from poolax.training._sweep.states import sweep_states
from poolax.training._sweep.write import head_directory
from poolax.training.solver import Converged
from poolax.training.tasks import Task

_SOLVER = Converged()


@dataclasses.dataclass(frozen=True)
class Sweeper:
    """Heads on token states, run by run.

    Attributes:
        states: Token states, shape ``(N, *parts, n, d)``.
        mask: True at real tokens; ``None`` if all are.
        targets: Targets, one row an example.
        task: What heads predict.
        runs: Splits and seeds.
        folder: Where records and heads are written.
        limits: Memory, devices, checkpoints.
        name: What records call the model.
    """

    states: np.ndarray
    mask: np.ndarray | None
    targets: Any
    task: Task
    runs: Runs
    folder: epath.Path
    limits: Limits
    name: str | None

    def heads(
        self, label: str, pooler: Any, runs: Sequence[int], should_stop: Callable[[], bool]
    ) -> Mapping[int, Sequence[Mapping[str, Any]]]:
        """Records of a pooler's heads in some runs, one for each learning rate.

        Raises:
            PreemptedError: if asked to stop.
        """
        limits = dataclasses.replace(self.limits, should_stop=should_stop)
        seeds = {run: self.runs.seeds[run] for run in runs}
        if not self.runs.is_crossed:
            found = self._sweep(label, pooler, self.runs.splits[0], [*seeds.values()], 0, limits)
            return {run: found.where(seed=seed) for run, seed in seeds.items()}
        return {
            run: self._sweep(label, pooler, self.runs.splits[run], [seed], run, limits)
            for run, seed in seeds.items()
        }

    def directory(self, label: str, trained: Trained) -> epath.Path:
        """Where the head of a pooler is saved that validates best."""
        rows = trained.rows[label]
        best = best_of([row for _, row in sorted(rows.items())])
        run = next(run for run, row in rows.items() if row["id"] == best["id"])
        return head_directory(self._folder_of(run), best)

    def on_half(self, label: str, pooler: Any, seed: int) -> float:
        """Test score of the head of a pooler that is trained on half of the training examples."""
        splits = self.runs.splits[0]
        half, _ = even_folds(splits["train"], self.targets, seed, 2)[0]
        own = {**splits, "train": np.sort(half)}
        folder = self.folder / "half"
        found = self._sweep(label, pooler, own, [self.runs.seeds[0]], folder, self.limits)
        return best_of(list(found))["test"]

    def _folder_of(self, run: int) -> epath.Path:
        return self.folder / f"part-{run}" if self.runs.is_crossed else self.folder

    def _sweep(self, label, pooler, splits, seeds, place, limits) -> Records:
        return sweep_states(
            self.states,
            self.mask,
            self.targets,
            self.task,
            splits=splits,
            poolers={label: pooler},
            seeds=seeds,
            solver=_SOLVER,
            out=self._folder_of(place) if isinstance(place, int) else place,
            name=self.name,
            limits=limits,
        )
