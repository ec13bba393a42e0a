"""Sweeps over the runs of an advice."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
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

# Most steps of poolers with parameters, as far as epochs are neither too few nor too many.
_STEPS, _FEWEST_EPOCHS, _MOST_EPOCHS, _BATCH = 400, 6, 100, 32
_PATIENCE, _MOST_PATIENCE = 5, 15
# A few numbers bear larger steps than matrices do.
_RATES, _RATES_OF_FEW = (1e-3, 3e-3), (3e-3, 1e-2)


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
        num_skipped: Tokens in front that no pooler but first sees, as those of a prompt.
    """

    states: np.ndarray
    mask: np.ndarray | None
    targets: Any
    task: Task
    runs: Runs
    folder: epath.Path
    limits: Limits
    name: str | None
    num_skipped: int = 0

    def heads(
        self,
        label: str,
        pooler: Any,
        runs: Sequence[int],
        rate: float | None,
        length: int,
        should_stop: Callable[[], bool],
    ) -> Mapping[int, Sequence[Mapping[str, Any]]]:
        """Records of a pooler's heads in some runs, one for each learning rate.

        Args:
            label: What the pooler is called.
            pooler: The pooler.
            runs: Numbers of the runs.
            rate: The learning rate of a pooler with parameters; ``None`` tries some.
            length: How many times the usual steps it is trained.
            should_stop: Asked as in :class:`Limits`.

        Raises:
            PreemptedError: if asked to stop.
        """
        limits = dataclasses.replace(self.limits, should_stop=should_stop)
        seeds = {run: self.runs.seeds[run] for run in runs}
        if not self.runs.is_crossed:
            parts = [(self.runs.splits[0], [*seeds.values()], 0)]
        else:
            parts = [(self.runs.splits[run], [seed], run) for run, seed in seeds.items()]
        found = [self._sweep(label, pooler, *part, rate, length, limits) for part in parts]
        if self.runs.is_crossed:
            return dict(zip(seeds, found, strict=True))
        # Of a convex loss there is one head, whatever the seed.
        return {run: list(found[0].where(seed=seed)) or list(found[0]) for run, seed in seeds.items()}

    def directory(self, label: str, trained: Trained) -> epath.Path:
        """Where the head of a pooler is saved that validates best."""
        rows = trained.rows[label]
        best = best_of([row for _, row in sorted(rows.items())])
        run = next(run for run, row in rows.items() if row["id"] == best["id"])
        return head_directory(self._folder_of(run), best)

    def on_half(
        self,
        label: str,
        pooler: Any,
        seed: int,
        rate: float | None,
        length: int,
        should_stop: Callable[[], bool],
    ) -> float:
        """Test score of the head of a pooler that is trained on half of the training examples.

        Raises:
            PreemptedError: if asked to stop.
        """
        splits = self.runs.splits[0]
        half, _ = even_folds(splits["train"], self.targets, seed, 2)[0]
        own = {**splits, "train": np.sort(half)}
        folder = self.folder / "half"
        limits = dataclasses.replace(self.limits, should_stop=should_stop)
        found = self._sweep(label, pooler, own, [self.runs.seeds[0]], folder, rate, length, limits)
        return best_of(list(found))["test"]

    def _folder_of(self, run: int) -> epath.Path:
        return self.folder / f"part-{run}" if self.runs.is_crossed else self.folder

    def _sweep(self, label, pooler, splits, seeds, place, rate, length, limits) -> Records:
        return sweep_states(
            self.states,
            self.mask,
            self.targets,
            self.task,
            splits=splits,
            poolers={label: pooler},
            seeds=seeds,
            batch_size=_BATCH,
            solver=self._solver(pooler, len(splits["train"]), rate, length),
            num_prefix=self.num_skipped,
            include_prefix=False,
            out=self._folder_of(place) if isinstance(place, int) else place,
            name=self.name,
            limits=limits,
        )

    def _solver(self, pooler: Any, num_train: int, rate: float | None, length: int) -> Converged:
        """How heads are trained: two learning rates, and no more of them."""
        if rate is not None:
            rates = (rate,)
        else:
            tokens = jax.ShapeDtypeStruct((1, *self.states.shape[-2:]), jnp.float32)
            shapes = jax.eval_shape(pooler.init, jax.random.key(0), tokens)
            is_few = all(leaf.ndim < 2 for leaf in jax.tree.leaves(shapes))
            rates = _RATES_OF_FEW if is_few else _RATES
        epochs = -(-_STEPS // -(-num_train // _BATCH))
        most = length * min(max(epochs, _FEWEST_EPOCHS), _MOST_EPOCHS)
        return Converged(
            learning_rates=rates,
            further_rates=0,
            max_epochs=most,
            # A longer schedule is at its largest rate for longer.
            patience=min(_PATIENCE * length, _MOST_PATIENCE),
            from_average=True,
        )
