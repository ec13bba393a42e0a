"""Which heads of a sweep are finished, and how the others are trained."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import PyTree

from poolax._ending import ending_with
from poolax._processes import agreed
from poolax._progress import Progress
from poolax._signals import PreemptedError
from poolax.records import Records, environment
from poolax.training._convex.choose import solve_head
from poolax.training._convex.head import SolvedHead
from poolax.training._engine.best import Until
from poolax.training._engine.jobs import Job, JobMaker
from poolax.training._engine.keeping import Keeper
from poolax.training._engine.limits import Limits
from poolax.training._engine.train import STATE_FORMAT, train_groups
from poolax.training._scaling import Scaling
from poolax.training._states.pooled import is_fixed, pool
from poolax.training._states.scaled import scaled
from poolax.training._states.sources import PooledSource, TokenSource
from poolax.training._states.views import View
from poolax.training._sweep.averages import starts_of
from poolax.training._sweep.identities import Heads
from poolax.training._sweep.kept import constants_of
from poolax.training._sweep.nearest import Nearest
from poolax.training._sweep.notes import notes_on_head, notes_on_targets
from poolax.training._sweep.rows import row_of, solved_row
from poolax.training._sweep.variables import for_raw_states
from poolax.training._sweep.write import Folder
from poolax.training.token_head import TokenHead

_log = logging.getLogger(__name__)


class SweepPlan:
    """What is left to do of a sweep.

    Args:
        heads: All heads.
        folder: Where they are written.
        limits: What may be used.
        resume: Whether to take over what is finished in the folder.
        neighbours: As for :class:`Nearest`.
    """

    def __init__(
        self,
        heads: Heads,
        folder: Folder,
        limits: Limits,
        *,
        resume: bool,
        neighbours: str = "fixed",
    ):
        self._neighbours = neighbours
        self._heads, self._folder, self._limits = heads, folder, limits
        self.finished = folder.finished(heads, resume=resume)
        self._said: set[tuple[str, str]] = set()

    def pending(self) -> dict[str, tuple]:
        """The runs of each pooler that are to be trained next, of poolers that have any."""
        missing = {
            label: tuple(run for run in runs if (label, run) not in self.finished)
            for label, runs in self._wanted().items()
        }
        return {label: runs for label, runs in missing.items() if runs}

    def _wanted(self) -> dict[str, tuple]:
        """The runs of each pooler, as far as they are known."""
        return {label: self._heads.wanted(label, self.finished) for label in self._heads.poolers}

    def rename(self, model: str) -> None:
        """Let the records that are taken over call their model by this name."""
        renamed = {
            key: {**row, "model": model}
            for key, row in self.finished.items()
            if row.get("model") != model
        }
        self.finished |= renamed
        self._folder.write(renamed.values())

    def records(self) -> Records:
        """Records of all heads, in order."""
        return Records(
            self.finished[label, run] for label, runs in self._wanted().items() for run in runs
        )

    def to_pool(
        self, shape: tuple[int, ...], views: Mapping[str, View], *, streams: bool
    ) -> dict[str, nn.Module]:
        """Poolers whose vectors are all that their heads need, so that no token states are kept.

        Args:
            shape: Shape of the token states.
            views: What the heads of a pooler see of them.
            streams: Whether token states are not kept in any case, and heads share what passes.

        Returns:
            Those of all heads that are not finished, if none of them has anything to learn; of heads
            that a solver trains on vectors, in any case where nothing is kept.
        """
        pending = {label: self._heads.poolers[label] for label in self.pending()}
        on_vectors = {
            label: pooler for label, pooler in pending.items() if label in self._heads.on_vectors
        }
        if streams or len(on_vectors) == len(pending):
            return on_vectors
        fixed = (is_fixed(pooler, views[label].shape(shape)) for label, pooler in pending.items())
        return pending if all(fixed) else {}

    def run(
        self,
        source: TokenSource,
        targets: PyTree,
        splits: Mapping[str, np.ndarray],
        views: Mapping[str, View],
        progress: Progress,
        *,
        about: Mapping[str, Any],
        pooled: Mapping[str, np.ndarray] | None = None,
        given: Mapping[str, SolvedHead] | None = None,
        read_inputs: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        """Train all that is not finished, and record it.

        Args:
            source: Token states.
            targets: Targets of the examples of the source.
            splits: Their splits.
            views: What the heads of a pooler see of the source.
            progress: As for :func:`sweep`.
            about: What records say beside, on which no head depends.
            pooled: Vectors of the fixed poolers, where they are there already.
            given: Heads of poolers that are solved already, and are to be recorded alone.
            read_inputs: Gives raw inputs of examples, of which rules predict that learn nothing.

        Raises:
            PreemptedError: if asked to stop.
        """
        heads, until = self._heads, None
        if pooled is not None:
            pooled = {label: heads.task.inputs_of(vectors) for label, vectors in pooled.items()}
        nearest = Nearest(self._neighbours, heads.task, targets, splits)
        about = {**about, **constants_of(heads.task, targets, splits, read_inputs)}
        if heads.solver is not None:
            until = Until(heads.solver.patience, heads.solver.warmup)

        def jobs_of(read, scalings, starts=None):
            return JobMaker(
                heads.task,
                heads.poolers,
                views,
                read,
                targets,
                heads.epochs,
                heads.batch_size,
                self._limits,
                heads.runs,
                until,
                {label: scaling.largest_factor for label, scaling in scalings.items()},
                starts or {},
            )

        labels = [label for label in self.pending() if label in heads.on_vectors]
        if labels:
            fixed = {label: heads.poolers[label] for label in labels}
            vectors = pooled or {
                label: heads.task.inputs_of(own)
                for label, own in pool(fixed, views, source, self._limits.mapping).items()
            }
            solved = {label: vectors[label] for label in labels if label in heads.solved}
            self._solve(solved, targets, splits, progress, about, nearest, given or {})
            labels = [label for label in labels if label not in heads.solved]
            for label in labels:  # before they are brought to units of their spread
                nearest.of_fixed(label, vectors[label])
            scalings = {label: Scaling.of(vectors[label][splits["train"]]) for label in labels}
            inputs = {label: scaling.apply(vectors[label]) for label, scaling in scalings.items()}
            while runs := {label: own for label, own in self.pending().items() if label in labels}:
                for job in jobs_of(source, scalings).kept(runs, inputs):
                    self._train(job, targets, splits, progress, about, scalings, nearest)
        pending = self.pending()
        read, scalings, starts = source, {}, {}
        if heads.solver is not None and pending:
            read = scaled(source, splits["train"], budget=self._limits.budget // 2)
            scalings = {label: Scaling(*map(views[label].take, read.scaling)) for label in pending}
            if heads.solver.from_average:
                learned = {label: heads.poolers[label] for label in pending}
                about_heads = (targets, heads.task, splits, heads.solver, self._limits.mapping)
                starts = starts_of(learned, views, read, *about_heads)
        maker = jobs_of(read, scalings, starts)
        # Which learning rates are tried next follows from what others have come to.
        while pending := self.pending():
            streams = source.is_computed and not (pooled and set(pending) <= set(pooled))
            for job in maker.streamed(pending) if streams else maker.kept(pending, pooled):
                self._train(job, targets, splits, progress, about, scalings, nearest)

    def _folds(self, label: str) -> bool:
        """Whether the linear layer of a pooler's heads reads what is brought to units of its spread."""
        return label in self._heads.on_vectors or isinstance(self._heads.poolers[label], TokenHead)

    def _solve(
        self,
        vectors: Mapping[str, np.ndarray],
        targets: PyTree,
        splits: Mapping[str, np.ndarray],
        progress: Progress,
        about: Mapping[str, Any],
        nearest: Nearest,
        given: Mapping[str, SolvedHead],
    ) -> None:
        """Solve the heads of these poolers on their vectors, and record each as it is found."""
        heads, solver = self._heads, self._heads.solver
        if solver is None:
            raise ValueError("solver: expected one that solves heads, got None")
        pending = self.pending()
        keys = [(label, run) for label in vectors for run in pending[label]]
        for number, (label, run) in enumerate(keys):
            started = time.perf_counter()
            if agreed(self._limits.should_stop())[0]:
                raise PreemptedError("stopped before the next head; those that are solved are kept")
            head = given.get(label)
            if head is None:
                head = solve_head(vectors[label], targets, heads.task, splits, solver, seed=run[1])
            row = solved_row(
                heads.fields(label, run), heads.task, head, vectors[label], targets, splits
            )
            wall_s = round(time.perf_counter() - started, 3)
            row |= heads.methods[label].describe() | nearest.of_fixed(label, vectors[label])
            row |= self._noted(label, {**row, **about}, targets, splits)
            row |= {"wall_s": wall_s, **about, **environment()}
            variables = {"params": {"output": {"kernel": head.kernel, "bias": head.bias}}}
            self._folder.save(row, variables, heads.config(label, run))
            self.finished[label, run] = row
            self._folder.write([row])
            progress("solved heads", number + 1, len(keys))

    def _train(
        self,
        job: Job,
        targets: PyTree,
        splits: Mapping[str, np.ndarray],
        progress: Progress,
        about: Mapping[str, Any],
        scalings: Mapping[str, Scaling],
        nearest: Nearest,
    ) -> None:
        """Train these heads, and record them.

        Args:
            job: The heads, and what they see.
            targets: Targets of all examples.
            splits: Their splits.
            progress: As for :func:`sweep`.
            about: What records say beside.
            scalings: Of what the heads of a pooler see, where they see it in units of its spread.
            nearest: What records say of nearest neighbours.
        """
        task, limits, methods = self._heads.task, self._limits, self._heads.methods
        started = time.perf_counter()
        keys = job.keys()
        description = ", ".join(label for labels in job.labels for label in labels)
        # What is kept counts chunks, of which there are as many as the source makes.
        at_once = job.protocol.steps_at_once(len(splits["train"]))
        ids = [self._heads.ids[key] for key in keys]
        directory = self._folder.unfinished([*ids, at_once, STATE_FORMAT])
        keeper = Keeper(directory, every=limits.checkpoint_every, should_stop=limits.should_stop)
        # Whatever ends it, what is on its way to disk gets there.
        with ending_with(keeper.close):
            trained = train_groups(
                job.source,
                job.groups,
                targets,
                task,
                job.protocol,
                splits=splits,
                keeper=keeper,
                progress=progress,
                description=description,
            )
        wall_s = round(time.perf_counter() - started, 3)
        common = {
            "batch_order": "shared by all heads" if job.protocol.shared_order else "of each seed",
            "shard": job.protocol.shard,
            "heads_trained_together": len(keys),
            "wall_s": wall_s,
        }
        rows = {}
        for labels, group, heads in zip(job.labels, job.groups, trained, strict=True):
            for index, label in enumerate(labels):
                for number, run in enumerate(group.runs):
                    place = (index, number)
                    fields = self._heads.fields(label, run)
                    row = row_of(fields, task, heads, place, targets, splits) | common
                    if label in methods:
                        row |= methods[label].describe()
                        row |= self._noted(label, {**row, **about}, targets, splits)
                    own = jax.tree.map(lambda leaf, place=place: leaf[place], heads.variables)
                    if isinstance(job.source, PooledSource):
                        row |= nearest.of_fixed(label, job.source.pooled[:, index])
                    else:
                        of = (group.structure, own["params"], job.source, limits.mapping)
                        row |= nearest.of_head(*of)
                    rows[label, run] = row | {**about, **environment()}
                    own = for_raw_states(own, scalings.get(label), folds=self._folds(label))
                    self._folder.save(row, own, self._heads.config(label, run))
        self.finished |= rows
        rows |= self._chosen(dict.fromkeys(label for label, _ in rows))
        self.finished |= rows
        self._folder.write(rows.values())
        keeper.discard()

    def _noted(self, label, row, targets, splits) -> dict[str, list[str]]:
        """What a record says of its head in words, which is logged as well."""
        notes = notes_on_targets(self._heads.task, targets, splits["train"]) + notes_on_head(row)
        for note in notes:
            if (label, note) not in self._said:  # once for all seeds
                _log.warning("%s: %s", label, note)
        self._said |= {(label, note) for note in notes}
        return {"notes": notes}

    def _chosen(self, labels: Iterable[str]) -> dict[tuple[str, Any], dict[str, Any]]:
        """Records of heads whose learning rate has been chosen, which say by what."""
        heads, rows = self._heads, {}
        for label in labels if heads.searches else ():
            found = heads.rates_of(label, self.finished)
            if found.chosen is None or len(found.tried) == 1:
                continue
            said = {
                "learning_rates_tried": list(found.tried),
                "scores_tried": list(found.scores),
                "chosen_by": heads.chosen_by,
                "at_edge": found.at_edge,
            }
            for run in heads.wanted(label, self.finished):
                row = self.finished.get((label, run))
                if run[0] == found.chosen and row is not None:
                    row = row | said
                    if heads.solver is not None:
                        notes = dict.fromkeys([*row.get("notes", []), *notes_on_head(row)])
                        row |= {"notes": list(notes)}
                    rows[label, run] = row
        return rows
