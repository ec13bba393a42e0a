"""Which heads a sweep has, which of them are finished, and how the others are trained."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import PyTree

from poolax._checkpoint import save_checkpoint
from poolax._checks import check_choice, check_count, check_number
from poolax._paths import absolute_path
from poolax.pooling import AveragePool, FirstPool, HybridPool, QueryAttentionPool, to_config
from poolax.training.engine import HeadGroup, Protocol, leave_out, train_groups
from poolax.training.features import FeaturePass
from poolax.training.heads import head_module
from poolax.training.keeping import Keeper, never
from poolax.training.lipschitz import head_factors
from poolax.training.memory import default_budget, head_cost, split_runs
from poolax.training.records import Records, digest, environment
from poolax.training.sources import (
    MemorySource,
    PooledSource,
    StreamedSource,
    TokenSource,
    check_finite_states,
)
from poolax.training.step import Mapper, Progress
from poolax.training.tasks import Task
from poolax.training.token_head import TokenHead

_log = logging.getLogger(__name__)
_RECORDS = "records.jsonl"
_POOL_BATCH = 1024
_CHUNK_EXAMPLES = 2048


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a sweep may use, and what it does when it has to stop.

    Attributes:
        memory_budget: Bytes for token states, and for the heads that are trained at once; ``None`` for
            half of what is free.
        shard: What is split over devices: ``"batch"``, ``"heads"``, or ``"auto"``, heads where there
            are as many runs as devices.
        checkpoint_every: Seconds between checkpoints of heads in training.
        should_stop: Asked after every epoch or chunk of one; see :func:`stop_on_sigterm`.
    """

    memory_budget: int | None = None
    shard: str = "auto"
    checkpoint_every: float = 60.0
    should_stop: Callable[[], bool] = never

    def __post_init__(self):
        """Refuse numbers out of range."""
        check_choice("shard", self.shard, ("auto", "batch", "heads"))
        check_number("checkpoint_every", self.checkpoint_every, at_least=0.0)
        if self.memory_budget is not None:
            check_count("memory_budget", self.memory_budget)

    @property
    def budget(self) -> int:
        """Bytes."""
        return default_budget() if self.memory_budget is None else self.memory_budget

    def shard_of(self, num_runs: int) -> str:
        """What is split over devices for so many runs."""
        if self.shard != "auto":
            return self.shard
        return "heads" if 1 < jax.device_count() <= num_runs else "batch"


@dataclasses.dataclass(frozen=True)
class _Job:
    """Heads that are trained together on one source."""

    labels: tuple[tuple[str, ...], ...]  # of each group
    groups: tuple[HeadGroup, ...]
    source: TokenSource
    protocol: Protocol

    def keys(self):
        return [
            (label, run)
            for labels, group in zip(self.labels, self.groups, strict=True)
            for label in labels
            for run in group.runs
        ]


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
        check_count("epochs", epochs)
        check_count("batch_size", batch_size)
        if isinstance(seeds, (int, np.integer)):
            check_count("seeds", seeds)
            seeds = range(seeds)
        for learning_rate in learning_rates:
            check_number("learning_rates", learning_rate, above=0.0)
        self.task: Task = task
        self.poolers: Mapping[str, nn.Module] = poolers
        self.epochs, self.batch_size, self.limits = epochs, batch_size, limits
        self.runs = tuple((float(rate), int(seed)) for rate in learning_rates for seed in seeds)
        if not self.runs:
            raise ValueError("seeds, learning_rates: expected at least one of each, got none")
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
            "source": self.identity,
        }
        self.ids = {
            (label, run): digest({**common, "label": label, "pooler": _describe(pooler), "run": run})
            for label, pooler in poolers.items()
            for run in self.runs
        }
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            if resume:
                known = {row["id"]: row for row in Records.read(self.out / _RECORDS) if "id" in row}
                self.finished = {key: known[i] for key, i in self.ids.items() if i in known}

    def pending(self) -> dict[str, tuple]:
        """The runs of each pooler that are not finished, of poolers that have any."""
        missing = {
            label: tuple(run for run in self.runs if (label, run) not in self.finished)
            for label in self.poolers
        }
        return {label: runs for label, runs in missing.items() if runs}

    def records(self) -> Records:
        """Records of all heads, in order."""
        return Records(self.finished[key] for key in self.ids)

    def needs_tokens(self, shape: tuple[int, ...]) -> bool:
        """Whether a head that is not finished learns how to pool."""
        return any(not _is_fixed(self.poolers[label], shape) for label in self.pending())

    def fixed(self, shape: tuple[int, ...]) -> dict[str, nn.Module]:
        """Poolers without parameters of heads that are not finished."""
        return {
            label: self.poolers[label]
            for label in self.pending()
            if _is_fixed(self.poolers[label], shape)
        }

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
        if pooled is None and isinstance(source, StreamedSource):
            jobs = self._streamed_jobs(source, targets, prefixes)
        else:
            jobs = self._jobs(source, targets, prefixes, pooled)
        for job in jobs:
            self._train(job, targets, splits, progress)

    def _streamed_jobs(self, source, targets, prefixes):
        """All structures at once, so that the backbone runs once for them; fewer runs if they must."""
        pending = self.pending()
        for runs in dict.fromkeys(pending.values()):
            labels = [label for label in pending if pending[label] == runs]
            groups = [self._group(source, label, runs, prefixes[label]) for label in labels]
            costs = [self._cost(source, group, targets) for group in groups]
            total = dataclasses.replace(
                costs[0],
                parameters=sum(cost.parameters for cost in costs),
                activations=sum(cost.activations for cost in costs),
            )
            for part in self._split(", ".join(labels), runs, total, 1):
                yield _Job(
                    tuple((label,) for label in labels),
                    tuple(dataclasses.replace(group, runs=part) for group in groups),
                    source,
                    self._protocol(source, len(part), shared_order=True),
                )

    def _jobs(self, source, targets, prefixes, pooled):
        pending = self.pending()
        fixed = self.fixed(source.shape)
        if pooled is None:
            pooled = pool(fixed, prefixes, source)
        # What a fixed pooler needs is d numbers an example, and such heads share one structure.
        for runs in dict.fromkeys(pending[label] for label in fixed):
            labels = tuple(label for label in fixed if pending[label] == runs)
            vectors = PooledSource(np.stack([pooled[label] for label in labels], axis=1))
            group = HeadGroup(
                head_module(AveragePool(), self.task.num_outputs),
                runs,
                num_groups=len(labels),
                lipschitz=self._factors(source, [fixed[label] for label in labels], 0),
            )
            cost = self._cost(vectors, group, targets)
            for part in self._split(", ".join(labels), runs, cost, len(labels)):
                part_group = dataclasses.replace(group, runs=part)
                yield _Job((labels,), (part_group,), vectors, self._protocol(vectors, len(part)))
        for label, runs in pending.items():
            if label not in fixed:
                group = self._group(source, label, runs, prefixes[label])
                for part in self._split(label, runs, self._cost(source, group, targets), 1):
                    part_group = dataclasses.replace(group, runs=part)
                    protocol = self._protocol(source, len(part))
                    yield _Job(((label,),), (part_group,), source, protocol)

    def _group(self, source, label, runs, num_prefix):
        pooler = self.poolers[label]
        return HeadGroup(
            head_module(pooler, self.task.num_outputs),
            runs,
            num_prefix=num_prefix,
            lipschitz=self._factors(source, [pooler], num_prefix),
        )

    def _factors(self, source, poolers, num_prefix):
        low, high = (max(1, count - num_prefix) for count in source.token_counts)
        spread = None
        if any(isinstance(pooler, (QueryAttentionPool, HybridPool)) for pooler in poolers):
            if isinstance(source, StreamedSource):
                return None
            spread = largest_norm(source)
        return head_factors(poolers, token_counts=(low, high), dim=source.shape[-1], spread=spread)

    def _cost(self, source, group, targets):
        loss = group.loss_fn(self.task)

        def of_batch(params, batch):
            return loss(params, batch, jnp.arange(self.batch_size), None)

        tokens = (
            source.fetch(np.zeros(1, np.int64))
            if not isinstance(source, StreamedSource)
            else (source.features.one_output)
        )
        states = tokens.states[:, 0] if isinstance(source, PooledSource) else tokens.states
        batch = {"states": states, "targets": jax.tree.map(lambda array: array[:1], targets)}
        if tokens.mask is not None:
            batch["mask"] = tokens.mask
        batch = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((self.batch_size, *leaf.shape[1:]), leaf.dtype), batch
        )
        return head_cost(of_batch, group.shapes(source), batch)

    def _split(self, description, runs, cost, num_groups):
        budget = self.limits.budget
        parts = split_runs(runs, cost, num_groups, budget)
        _log.info(
            "%s: %d heads of %.3g MB (parameters %.3g, activations %.3g), %d at once in %d parts, "
            "budget %.3g MB",
            description,
            len(runs) * num_groups,
            cost.total / 1e6,
            cost.parameters / 1e6,
            cost.activations / 1e6,
            len(parts[0]) * num_groups,
            len(parts),
            budget / 1e6,
        )
        return parts

    def _protocol(self, source, num_runs, *, shared_order=False):
        chunk_steps = None
        if not isinstance(source, (MemorySource, PooledSource)):
            chunk_steps = max(1, _CHUNK_EXAMPLES // self.batch_size)
        shard = self.limits.shard_of(num_runs)
        return Protocol(self.epochs, self.batch_size, chunk_steps, shared_order, shard)

    def _train(self, job, targets, splits, progress):
        started = time.perf_counter()
        keys = job.keys()
        description = ", ".join(label for labels in job.labels for label in labels)
        directory = None
        if self.out is not None:
            directory = self.out / "unfinished" / digest([self.ids[key] for key in keys])
        keeper = Keeper(
            directory, every=self.limits.checkpoint_every, should_stop=self.limits.should_stop
        )
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
                    row |= {**self.identity, **self.extra, **environment()}
                    rows[label, run] = row
                    self._save(label, run, row, heads.variables, place)
        self.finished |= rows
        if self.out is not None:
            Records(rows.values()).write_to(self.out / _RECORDS)
        keeper.discard()

    def _row(self, label, run, heads, place, test_targets):
        task = self.task
        diverged_step = int(heads.diverged_step[place])
        scores = task.example_scores(np.asarray(heads.test_scores[place]), test_targets)
        validation = heads.validation_score[place]
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
        if self.out is None or jax.process_index() != 0:
            return
        directory = head_directory(self.out, row)
        # A head that is there without a record was left behind by an interrupted run.
        if directory.exists():
            directory.rmtree()
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
        save_checkpoint(directory, self.epochs, own, metadata=config)


def head_directory(out: epath.PathLike, record: Mapping[str, Any]) -> epath.Path:
    """Where a sweep keeps the checkpoint of a head.

    Args:
        out: The sweep's folder.
        record: The head's record.

    Returns:
        The directory that :func:`load_head` takes.
    """
    # The record's id keeps heads of other configurations apart.
    name = f"lr-{record['learning_rate']:g}-seed-{record['seed']}-{record['id'][:8]}"
    return epath.Path(out) / "heads" / record["task"] / record["pooler"] / name


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


def pool(
    poolers: Mapping[str, nn.Module], prefixes: Mapping[str, int], source: TokenSource
) -> dict[str, np.ndarray]:
    """Vectors of poolers without parameters, of all examples in one pass; shape (N, *parts, d)."""
    if not poolers:
        return {}

    def fetch(start, stop):
        tokens = source.fetch(np.arange(start, stop))
        batch = {"states": tokens.states}
        return batch if tokens.mask is None else {**batch, "mask": tokens.mask}

    mapper = Mapper(_pool_all(poolers, prefixes), _POOL_BATCH)
    return _join(list(mapper.batches((), fetch, source.shape[0])))


def pool_features(
    poolers: Mapping[str, nn.Module],
    prefixes: Mapping[str, int],
    features: FeaturePass,
    progress: Progress,
) -> dict[str, np.ndarray]:
    """The same from the backbone as it runs, so that token states are never kept."""
    mapper = Mapper(_pool_all(poolers, prefixes), _POOL_BATCH)
    out = {}
    for positions, tokens in features.batches(progress):
        check_finite_states(tokens.states, tokens.mask)
        batch = {"states": tokens.states}
        pooled = mapper((), batch if tokens.mask is None else {**batch, "mask": tokens.mask})
        for label, vectors in pooled.items():
            if label not in out:
                out[label] = np.zeros((features.num_examples, *vectors.shape[1:]), vectors.dtype)
            out[label][positions] = vectors
    return out


def _pool_all(poolers, prefixes):
    def pool_all(_, batch):
        pooled = {}
        for label, pooler in poolers.items():
            num_prefix = prefixes[label]
            states, mask = leave_out(batch["states"], batch.get("mask"), num_prefix)
            pooled[label] = pooler.apply({}, states, mask)
        return pooled

    return pool_all


def _join(pieces):
    return jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)


def largest_norm(source: TokenSource) -> float:
    """Largest norm of a real token; half of the distance of two is never above it."""
    largest = 0.0
    for start in range(0, source.shape[0], _POOL_BATCH):
        tokens = source.fetch(np.arange(start, min(start + _POOL_BATCH, source.shape[0])))
        norms = np.linalg.norm(tokens.states.astype(np.float32), axis=-1)
        largest = max(largest, float(np.max(norms, where=_real(tokens.mask), initial=0.0)))
    return largest


def _real(mask):
    return True if mask is None else mask


def _rows(targets, indices):
    return jax.tree.map(lambda array: array[indices], targets)


def _is_fixed(pooler, shape):
    if isinstance(pooler, TokenHead):
        return False
    example = jax.ShapeDtypeStruct((1, *shape[1:]), jnp.float32)
    variables = jax.eval_shape(pooler.init, jax.random.key(0), example)
    return not jax.tree.leaves(variables)


def prefix_of(pooler: nn.Module, num_prefix: int, *, include_prefix: bool) -> int:
    """Real tokens in front that a pooler does not see.

    A token head stands for patches alone, and the first token is the prefix, whatever enters the other
    poolers.
    """
    if isinstance(pooler, FirstPool):
        return 0
    return num_prefix if isinstance(pooler, TokenHead) or not include_prefix else 0


def _config_or_none(pooler):
    if isinstance(pooler, TokenHead):
        options = {"num_classes": pooler.num_classes, "output_grid": pooler.output_grid}
        return {"name": TokenHead.__name__, "options": options}
    try:
        return to_config(pooler)
    except ValueError:
        return None


def _describe(pooler: nn.Module):
    return _config_or_none(pooler) or {"name": type(pooler).__name__, "options": repr(pooler)}


def _task_options(task: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(task):
        return {}
    return {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
