"""Which heads a sweep has, which of them are finished, and how the others are trained."""

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from etils import epath
from jaxtyping import PyTree

from poolax import codec
from poolax._checkpoint import replace_checkpoint
from poolax._ending import ending_with
from poolax._paths import absolute_path, path_component
from poolax._processes import once
from poolax._progress import Progress
from poolax.records import Records, digest, environment
from poolax.training._engine.jobs import JobMaker
from poolax.training._engine.keeping import Keeper
from poolax.training._engine.train import STATE_FORMAT, train_groups
from poolax.training._states.pooled import is_fixed
from poolax.training._states.sources import (
    TokenSource,
)
from poolax.training.arguments import rates_of, seeds_of
from poolax.training.finished import recorded_heads
from poolax.training.former import former_identity
from poolax.training.tasks import Task
from poolax.training.token_head import TokenHead

_log = logging.getLogger(__name__)
_RECORDS = "records.jsonl"


class SweepPlan:
    """The heads of a sweep: poolers, learning rates and seeds.

    Args:
        task: What the heads predict.
        poolers: Modules by label.
        seeds: Number of seeds, or the seeds.
        epochs: Passes over the training split.
        batch_size: Examples a step.
        learning_rates: Learning rates to try.
        identity: What else makes a head another one, plain JSON.
        out: Folder for records and heads; ``None`` writes nothing.
        resume: Whether to take over what is finished in ``out``.
        limits: What may be used.

    Raises:
        ValueError: for numbers out of range.
    """

    def __init__(
        self, task, poolers, seeds, epochs, batch_size, learning_rates, identity, out, resume, limits
    ):
        seeds, learning_rates = seeds_of(seeds), rates_of(learning_rates)
        self.task: Task = task
        self.poolers: Mapping[str, nn.Module] = poolers
        self.epochs, self.batch_size, self.limits = epochs, batch_size, limits
        self.runs = tuple((rate, seed) for rate in learning_rates for seed in seeds)
        self.identity = dict(identity)
        self.extra = {}
        self.out = None if out is None else absolute_path(out)
        self.finished = {}
        common = {
            "task": task.name,
            "task_options": _task_options(task),
            "num_outputs": task.num_outputs,
            "epochs": epochs,
            "batch_size": batch_size,
            "source": former_identity(self.identity),
        }
        self.ids = {
            (label, run): digest({**common, "label": label, "pooler": _describe(pooler), "run": run})
            for label, pooler in poolers.items()
            for run in self.runs
        }
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            # Read in any case: what is damaged is told before anything is trained.
            expected = {key: self._of_head(*key) for key in self.ids} if resume else {}
            directory_of = functools.partial(head_directory, self.out)
            self.finished = recorded_heads(self.out / _RECORDS, expected, directory_of)

    def pending(self) -> dict[str, tuple]:
        """The runs of each pooler that are not finished, of poolers that have any."""
        missing = {
            label: tuple(run for run in self.runs if (label, run) not in self.finished)
            for label in self.poolers
        }
        return {label: runs for label, runs in missing.items() if runs}

    def rename(self, model: str) -> None:
        """Let the records that are taken over call their model by this name."""
        renamed = {
            key: {**row, "model": model}
            for key, row in self.finished.items()
            if row.get("model") != model
        }
        self.finished |= renamed
        self._write(renamed.values())

    def records(self) -> Records:
        """Records of all heads, in order."""
        return Records(self.finished[key] for key in self.ids)

    def fixed(self, shape: tuple[int, ...]) -> dict[str, nn.Module] | None:
        """The poolers of all heads that are not finished, if none of them has anything to learn."""
        pending = {label: self.poolers[label] for label in self.pending()}
        return pending if all(is_fixed(pooler, shape) for pooler in pending.values()) else None

    def run(
        self,
        source: TokenSource,
        targets: PyTree,
        splits: Mapping[str, np.ndarray],
        prefixes: Mapping[str, int],
        progress: Progress,
        pooled: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Train all that is not finished, and record it.

        Args:
            source: Token states.
            targets: Targets of the examples of the source.
            splits: Their splits.
            prefixes: Real tokens in front that the heads of a pooler do not see.
            progress: As for :func:`sweep`.
            pooled: Vectors of the fixed poolers, where they are there already.

        Raises:
            PreemptedError: if asked to stop.
        """
        maker = JobMaker(
            self.task,
            self.poolers,
            prefixes,
            source,
            targets,
            self.epochs,
            self.batch_size,
            self.limits,
            self.runs,
        )
        streams = pooled is None and source.is_computed
        pending = self.pending()
        for job in maker.streamed(pending) if streams else maker.kept(pending, pooled):
            self._train(job, targets, splits, progress)

    def _train(self, job, targets, splits, progress):
        started = time.perf_counter()
        keys = job.keys()
        description = ", ".join(label for labels in job.labels for label in labels)
        directory = None
        if self.out is not None:
            # What is kept counts chunks, of which there are as many as the source makes.
            kept = [*(self.ids[key] for key in keys), job.protocol.chunk_steps, STATE_FORMAT]
            directory = self.out / "unfinished" / digest(kept)
        keeper = Keeper(
            directory, every=self.limits.checkpoint_every, should_stop=self.limits.should_stop
        )
        # Whatever ends it, what is on its way to disk gets there.
        with ending_with(keeper.close):
            trained = train_groups(
                job.source,
                job.groups,
                targets,
                self.task,
                job.protocol,
                splits=splits,
                keeper=keeper,
                progress=progress,
                description=description,
            )
        wall_s = round(time.perf_counter() - started, 3)
        train, test = (_rows(targets, splits[name]) for name in ("train", "test"))
        common = {
            "baseline": self.task.baseline(train, test),
            "best_constant": self.task.baseline(test, test),
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
                    row = self._row(label, run, heads, place, test) | common
                    row |= {**self.extra, **environment()}
                    rows[label, run] = row
                    self._save(label, run, row, heads.variables, place)
        self.finished |= rows
        self._write(rows.values())
        keeper.discard()

    def _write(self, rows):
        if self.out is not None:
            path = self.out / _RECORDS
            once(lambda: Records(rows).write_to(path), f"{path}: its records")

    def _of_head(self, label, run):
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
            "resolved": _describe(self.poolers[label]),
            "learning_rate": run[0],
            "seed": run[1],
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            **self.identity,
        }

    def _row(self, label, run, heads, place, test_targets):
        task = self.task
        diverged_step = int(heads.diverged_step[place])
        scores = task.example_scores(np.asarray(heads.test_scores[place]), test_targets)
        validation = heads.validation_score[place]
        return {
            **self._of_head(label, run),
            "validation": float(heads.validation_metrics[task.metric][place]),
            "test": float(heads.test_metrics[task.metric][place]),
            "test_metrics": {name: float(value[place]) for name, value in heads.test_metrics.items()},
            "test_scores": [float(f"{score:.6g}") for score in scores],
            "train_loss": heads.train_loss[place].tolist(),
            "gradient_norm": heads.gradient_norm[place].tolist(),
            "validation_loss": heads.validation_loss[place].tolist(),
            "validation_score": validation.tolist(),
            "steps_to_95_percent": steps_to_share(
                validation, heads.num_steps, higher_is_better=task.higher_is_better
            ),
            "lipschitz": heads.lipschitz[place].tolist(),
            "diverged": bool(heads.diverged[place]),
            "diverged_step": diverged_step if diverged_step >= 0 else None,
        }

    def _save(self, label, run, row, variables, place):
        if self.out is None:
            return
        config = {
            "pooler": _config_or_none(self.poolers[label]),
            "num_outputs": self.task.num_outputs,
            "task": self.task.name,
            "learning_rate": run[0],
            "seed": run[1],
            "epochs": self.epochs,
            **self.identity,
        }
        own = jax.tree.map(lambda leaf: leaf[place], variables)
        # A head that is there without a record was left behind by an interrupted run.
        replace_checkpoint(
            head_directory(self.out, row),
            own,
            metadata=config,
            is_own=lambda saved: "num_outputs" in saved,
            step=self.epochs,
        )


def head_directory(out: epath.PathLike, record: Mapping[str, Any]) -> epath.Path:
    """Where a sweep keeps the checkpoint of a head.

    It stands in a folder of its task and of its pooler's label, percent-encoded or cut where a label
    cannot be the name of a folder.

    Args:
        out: The sweep's folder.
        record: The head's record.

    Returns:
        The directory that :func:`load_head` takes.

    Example:
        >>> record = {"task": "sts", "pooler": "a/b", "learning_rate": 0.1, "seed": 2, "id": "1234abcd"}
        >>> str(head_directory("out", record))
        'out/heads/sts/a%2Fb/lr-0.1-seed-2-1234abcd'
    """
    parts = ("task", "pooler", "learning_rate", "seed", "id")
    if not isinstance(record, Mapping) or any(part not in record for part in parts):
        raise ValueError(f"record: expected that of a head, with {', '.join(parts)}, got {record!r}")
    # The record's id keeps heads of other configurations apart.
    name = f"lr-{record['learning_rate']:g}-seed-{record['seed']}-{record['id'][:8]}"
    task, label = str(record["task"]), str(record["pooler"])
    heads = epath.Path(out) / "heads"
    directory = heads / path_component(task) / path_component(label) / name
    if (path_component(task), path_component(label)) != (task, label) and _is_below(task, label):
        # Where runs that did not encode labels have left it.
        before = heads / task / label / name
        return before if before.exists() else directory
    return directory


def _is_below(*names):
    """Whether folders of these names are inside of the one that they are looked up in."""
    parts = [part for name in names for part in name.split("/")]
    lengths = [len(part.encode(errors="surrogatepass")) for part in parts]
    return ".." not in parts and "\0" not in "".join(names) and 1 <= min(lengths) <= max(lengths) <= 255


def steps_to_share(
    scores: np.ndarray, num_steps: int, *, higher_is_better: bool, share: float = 0.95
) -> int | None:
    """Steps after which a validation score first reached a share of its final value.

    Args:
        scores: The score after each epoch.
        num_steps: Steps of an epoch, in which the result is counted.
        higher_is_better: Whether it grows; of a score that falls, ``1 / share`` times the final one.
        share: The share.

    Returns:
        Steps, or ``None`` for a score that is not finite at the end.

    Example:
        >>> steps_to_share(np.array([0.5, 0.8, 0.79, 0.8]), 10, higher_is_better=True)
        20
    """
    final = scores[-1]
    if not math.isfinite(final):
        return None
    if higher_is_better:
        reached = scores >= final - (1 - share) * abs(final)
    else:
        reached = scores <= final + (1 / share - 1) * abs(final)
    return (int(np.argmax(reached)) + 1) * num_steps


def _rows(targets, indices):
    return jax.tree.map(lambda array: array[indices], targets)


def _config_or_none(pooler):
    if codec.name_of(type(pooler)) is None:
        return None
    try:
        return codec.to_plain(pooler, of="head" if isinstance(pooler, TokenHead) else "pooler")
    except ValueError:
        return None


def _describe(pooler: nn.Module):
    return _config_or_none(pooler) or {"name": type(pooler).__name__, "options": repr(pooler)}


def _task_options(task: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(task):
        return {}
    return {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
