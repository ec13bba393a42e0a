"""Which heads of a sweep are trained together, and on what."""

import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from poolax.pooling import AveragePool, Pooler, parts_of
from poolax.training._engine.best import Until
from poolax.training._engine.feed import Protocol, count_orders
from poolax.training._engine.heads import head_module
from poolax.training._engine.limits import Limits
from poolax.training._engine.lipschitz import head_factors
from poolax.training._engine.memory import HeadCost, head_cost, split_runs
from poolax.training._engine.programs import Tokens, keeps_places
from poolax.training._engine.train import HeadGroup
from poolax.training._states.pooled import is_fixed, pool
from poolax.training._states.sliced import sliced
from poolax.training._states.sources import PooledSource, TokenSource
from poolax.training._states.views import View
from poolax.training.tasks import Task

_log = logging.getLogger(__name__)
_CHUNK_EXAMPLES = 1024
_NORM_BATCH = 1024

Run = tuple[float, int]


@dataclasses.dataclass(frozen=True)
class Job:
    """Heads that are trained together on one source.

    Attributes:
        labels: Labels of the poolers of each group.
        groups: Structures, one of each.
        source: Token states.
        protocol: How they are trained.
    """

    labels: tuple[tuple[str, ...], ...]
    groups: tuple[HeadGroup, ...]
    source: TokenSource
    protocol: Protocol

    def keys(self) -> list[tuple[str, Run]]:
        """Label and run of every head."""
        return [
            (label, run)
            for labels, group in zip(self.labels, self.groups, strict=True)
            for label in labels
            for run in group.runs
        ]


@dataclasses.dataclass(frozen=True)
class JobMaker:
    """Makes the jobs of heads that are not finished, each within a budget.

    Attributes:
        task: What the heads predict.
        poolers: Modules by label.
        views: What the heads of a pooler see of the source.
        source: Token states.
        targets: Targets of the examples of the source.
        epochs: Passes over the training split.
        batch_size: Examples a step.
        limits: What may be used.
        runs: Learning rates and seeds of the whole sweep, finished or not.
        until: When heads stop before the last epoch; ``None`` trains all of them to it.
        scales: By label, how far what heads read moves, at most, where the states that they are made
            for move by 1, or the vectors of their poolers.
        starts: By label, what heads start from in place of drawn parameters, as for
            :class:`HeadGroup`.
    """

    task: Task
    poolers: Mapping[str, nn.Module]
    views: Mapping[str, View]
    source: TokenSource
    targets: PyTree
    epochs: int
    batch_size: int
    limits: Limits
    runs: tuple[Run, ...]
    until: Until | None = None
    scales: Mapping[str, float] = dataclasses.field(default_factory=dict)
    starts: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def streamed(self, pending: Mapping[str, tuple[Run, ...]]) -> Iterator[Job]:
        """All structures at once, so that the backbone runs once for them; fewer runs if they must."""
        # Poolers with the same runs left share a pass; after an interruption these may differ.
        for runs in dict.fromkeys(pending.values()):
            labels = [label for label in pending if pending[label] == runs]
            groups = [self._group(label, runs, self.views[label]) for label in labels]
            costs = [self._cost(self.source, group) for group in groups]
            for part in self._split(labels, runs, sum(costs[1:], costs[0]), 1):
                yield Job(
                    tuple((label,) for label in labels),
                    tuple(dataclasses.replace(group, runs=part) for group in groups),
                    self.source,
                    self._protocol(self.source, shared_order=True),
                )

    def kept(
        self,
        pending: Mapping[str, tuple[Run, ...]],
        pooled: Mapping[str, np.ndarray] | None = None,
    ) -> Iterator[Job]:
        """Structures one after the other; those of fixed poolers share one, on pooled vectors.

        Args:
            pending: Runs of each pooler.
            pooled: What linear layers read of the fixed poolers, where it is there already.
        """
        fixed = {
            label: self.poolers[label]
            for label in pending
            if is_fixed(self.poolers[label], self.views[label].shape(self.source.shape))
        }
        yield from self._on_vectors(fixed, pending, pooled)
        for label, runs in pending.items():
            if label not in fixed:
                # Of several layers no more than is read is put on the devices.
                source = sliced(self.source, self.views[label])
                group = self._group(label, runs, self.views[label].of_tokens)
                for part in self._split([label], runs, self._cost(source, group), 1):
                    protocol = self._protocol(source)
                    part_group = dataclasses.replace(group, runs=part)
                    yield Job(((label,),), (part_group,), source, protocol)

    def _on_vectors(self, fixed, pending, pooled) -> Iterator[Job]:
        """Structures of fixed poolers; pooled vectors leave memory with the last of them."""
        if pooled is None:
            found = pool(fixed, self.views, self.source, self.limits.mapping)
            pooled = {label: self.task.inputs_of(vectors) for label, vectors in found.items()}
        alike = {label: (pending[label], pooled[label].shape[-1]) for label in fixed}
        for runs, width in dict.fromkeys(alike.values()):
            labels = tuple(label for label in fixed if alike[label] == (runs, width))
            # (N, group, *parts, d), parts that are read together joined: an average over one token is
            # the vector itself.
            vectors = PooledSource(np.stack([pooled[label] for label in labels], axis=1))
            group = HeadGroup(
                head_module(AveragePool(), self.task.num_outputs),
                runs,
                num_groups=len(labels),
                lipschitz=self._factors(labels),
            )
            for part in self._split(labels, runs, self._cost(vectors, group), len(labels)):
                protocol = self._protocol(vectors)
                yield Job((labels,), (dataclasses.replace(group, runs=part),), vectors, protocol)

    def _group(self, label: str, runs: tuple[Run, ...], view: View) -> HeadGroup:
        return HeadGroup(
            head_module(self.poolers[label], self.task.num_outputs, pairs=self.task.joins_parts),
            runs,
            view=view,
            lipschitz=self._factors([label]),
            start=self.starts.get(label),
        )

    def _factors(self, labels: Sequence[str]):
        if self.task.joins_parts:  # a product of two vectors has no constant
            return None
        poolers = [self.poolers[label] for label in labels]
        views = [self.views[label] for label in labels]
        spread = None
        if any(map(_reads_spread, poolers)):
            if self.source.is_computed:  # whose tokens are not known before
                return None
            spread = max(self._largest_norms[view.columns] for view in views)
        low, high = self.source.token_counts
        factors = head_factors(
            poolers,
            # Tokens that a pooler sees, without those in front of it.
            token_counts=[
                (max(1, low - view.num_prefix), max(1, high - view.num_prefix)) for view in views
            ],
            dims=[view.shape(self.source.shape)[-1] for view in views],
            spread=spread,
        )
        if factors is None or not self.scales:
            return factors
        scales = np.array([[self.scales[label]] for label in labels])
        return lambda params: scales * factors(params)

    @functools.cached_property
    def _largest_norms(self) -> dict[tuple, float]:
        """Largest norm of a real token as it is seen; half of the distance of two is never above it."""
        views = {view.columns: view for view in self.views.values()}
        largest = dict.fromkeys(views, 0.0)
        num_examples = self.source.shape[0]
        for start in range(0, num_examples, _NORM_BATCH):
            tokens = self.source.fetch(np.arange(start, min(start + _NORM_BATCH, num_examples)))
            states = tokens.states.astype(np.float32)
            real = True if tokens.mask is None else tokens.mask
            for columns, view in views.items():
                norms = np.linalg.norm(view.take(states), axis=-1)
                largest[columns] = max(largest[columns], float(np.max(norms, where=real, initial=0.0)))
        return largest

    def _cost(self, source: TokenSource, group: HeadGroup) -> HeadCost:
        loss = group.structure.loss_fn(self.task)

        def of_batch(params, batch):
            return loss(params, batch, jnp.arange(self.batch_size), None)

        def shape_of(array):
            return jax.ShapeDtypeStruct((self.batch_size, *array.shape[1:]), jnp.result_type(array))

        shape = (self.batch_size, *source.shape[1:])
        batch = {
            "states": jax.ShapeDtypeStruct(shape, jnp.result_type(source.dtype)),
            "targets": jax.tree.map(shape_of, self.targets),
        }
        if source.has_masks:
            batch["mask"] = jax.ShapeDtypeStruct(shape[:-1], jnp.bool_)
        return head_cost(of_batch, group.structure.shapes(Tokens.of(source)), batch)

    def _split(self, labels, runs, cost, num_groups) -> list[tuple[Run, ...]]:
        budget = self.limits.budget
        parts = split_runs(runs, cost, num_groups, budget)
        _log.info(
            "%s: %d heads of %.3g MB (parameters %.3g, activations %.3g), %d at once in %d parts, "
            "budget %.3g MB",
            ", ".join(labels),
            len(runs) * len(labels),
            cost.total / 1e6,
            cost.parameters / 1e6,
            cost.activations / 1e6,
            len(parts[0]) * len(labels),
            len(parts),
            budget / 1e6,
        )
        return parts

    def _protocol(self, source, *, shared_order=False) -> Protocol:
        """Of the whole sweep, as sums over other chunks, devices or padding would round otherwise."""
        chunk_steps = None
        if not source.is_resident:
            orders = count_orders(self.runs, shared=shared_order)
            chunk_steps = max(1, _CHUNK_EXAMPLES // (orders * self.batch_size))
        return Protocol(
            self.epochs,
            self.batch_size,
            chunk_steps,
            shared_order,
            shard=self.limits.shard_of(len(self.runs)),
            mapping=self.limits.mapping,
            all_runs=self.runs,
            # Where states are read once for all heads, all are padded alike.
            keeps_places=shared_order and any(map(keeps_places, self.poolers.values())),
            until=self.until,
        )


def _reads_spread(pooler: nn.Module) -> bool:
    """Whether the bound of a pooler depends on how far tokens are apart."""
    own = isinstance(pooler, Pooler) and pooler.reads_spread
    return own or any(map(_reads_spread, parts_of(pooler)))
