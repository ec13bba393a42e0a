"""What heads read in an epoch: token states on the devices, and which of them a step takes."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, PyTree

from poolax.training._devices import put
from poolax.training._engine.best import Until
from poolax.training._runs import Batches, epoch_batches, stack
from poolax.training._states.lengths import Lengths
from poolax.training._states.sources import TokenSource

# Steps after which a run is asked whether it is to stop: seconds of all heads of learned poolers.
_MOST_STEPS = 128


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How heads are trained.

    Attributes:
        epochs: Passes over the training split.
        batch_size: Examples a step.
        chunk_steps: Steps whose states are put on the devices at a time; ``None`` puts the whole
            training split there, once.
        shared_order: Whether all runs see the same batches, so that states are read once for all.
        shard: ``"batch"`` or ``"heads"``; see :class:`Trainer`.
        mapping: How programs are mapped over devices; see :class:`Trainer`.
        all_runs: Learning rates and seeds of the whole sweep, by which lengths of texts are planned, so
            that a part of it, trained alone, comes out the same; ``None`` for those of each group.
        keeps_places: Whether padding stays where it is for all heads, since outputs of some of the
            sweep's stand for tokens, trained now or not.
        until: When heads stop before the last epoch, by validation; ``None`` trains all of them to it,
            at a constant learning rate.
    """

    epochs: int
    batch_size: int
    chunk_steps: int | None = None
    shared_order: bool = False
    shard: str = "batch"
    mapping: str = "auto"
    all_runs: tuple[tuple[float, int], ...] | None = None
    keeps_places: bool = False
    until: Until | None = None

    def planned(self, runs: tuple[tuple[float, int], ...]) -> tuple[tuple[float, int], ...]:
        """The runs by which lengths are planned, for a group of these."""
        return runs if self.all_runs is None else self.all_runs

    def steps_at_once(self, num_train: int) -> int | None:
        """Steps between two questions whether to stop; ``None`` for those of a whole epoch.

        Where states are on the devices, parts of an epoch are about equal: the last one is filled up by
        steps that do nothing.
        """
        num_steps = -(-num_train // self.batch_size)
        if self.chunk_steps is not None or num_steps <= _MOST_STEPS:
            return self.chunk_steps
        return -(-num_steps // -(-num_steps // _MOST_STEPS))


def count_orders(runs: Sequence[tuple[float, int]], *, shared: bool) -> int:
    """Number of orders in which runs see the examples: batches that a step reads."""
    return 1 if shared else len({seed for _, seed in runs})


class Feed:
    """What heads read in an epoch, whole or in chunks.

    Args:
        source: Token states.
        targets: Targets of its examples.
        train: Indices of the training split.
        protocol: How heads are trained.
        lengths: Of all examples, where padding may be left out.
    """

    def __init__(
        self,
        source: TokenSource,
        targets: PyTree,
        train: Int[np.ndarray, " train"],
        protocol: Protocol,
        lengths: Lengths | None = None,
    ):
        self._lengths = lengths
        self._source, self._targets, self._train, self._protocol = source, targets, train, protocol
        self.num_steps = -(-len(train) // protocol.batch_size)
        self._steps = protocol.steps_at_once(len(train)) or self.num_steps
        self.num_chunks = -(-self.num_steps // self._steps)
        self._whole = None
        self._epoch, self._orders = -1, {}

    def chunk(self, members: Sequence[Any], epoch: int, number: int) -> Iterator[tuple]:
        """Each member, which has a ``group`` and perhaps ``slots``, with its data and batches."""
        data, kept = None, np.zeros(0, np.int32)
        for member in members:
            batches = self._batches(member.group.runs, epoch, number)
            if self._protocol.chunk_steps is None:
                if self._whole is None:
                    self._whole = self._put(np.arange(len(self._train)))
                yield member, self._whole, self._arrange(batches, member.slots)
                continue
            if data is None or not self._protocol.shared_order:
                # As many rows in every chunk, so that all are one program.
                wanted = np.unique(batches.indices)
                orders = count_orders(member.group.runs, shared=self._protocol.shared_order)
                most = orders * self._steps * self._protocol.batch_size
                rows = np.pad(wanted, (0, min(most, len(self._train)) - len(wanted)), mode="edge")
                data, kept = self._put(rows), wanted
            indices = np.searchsorted(kept, batches.indices).astype(np.int32)
            batches = dataclasses.replace(batches, indices=indices)
            yield member, data, self._arrange(batches, member.slots)

    def _batches(self, runs, epoch, chunk) -> Batches:
        """A chunk of each run's batches; orders are drawn once an epoch, however many chunks it has."""
        if epoch != self._epoch:
            self._epoch, self._orders = epoch, {}
        seeds = [0 if self._protocol.shared_order else seed for _, seed in runs]
        for seed in set(seeds) - set(self._orders):
            self._orders[seed] = epoch_batches(seed, epoch, len(self._train), self._protocol.batch_size)
        return stack([self._cut(self._orders[seed], chunk) for seed in seeds])

    def _cut(self, batches, chunk):
        """Steps of a chunk; the last chunk of an epoch is filled up by steps without weight."""

        def cut(leaf):
            part = leaf[chunk * self._steps : (chunk + 1) * self._steps]
            return np.pad(part, [(0, self._steps - len(part))] + [(0, 0)] * (part.ndim - 1))

        return jax.tree.map(cut, batches)

    def _arrange(self, batches, slots):
        """Each example in a place that is long enough for it; the order of steps stays."""
        if slots is None or self._lengths is None:
            return batches
        own = self._lengths.longest[self._train[batches.examples]]
        places = slots.arrange(np.where(batches.weights > 0, own, 0))

        def place(leaf):
            leaf = np.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, 1)])  # no example: weight 0
            return np.take_along_axis(leaf, places, axis=-1)

        names = ("indices", "examples", "weights")
        placed = {name: place(getattr(batches, name)) for name in names}
        return dataclasses.replace(batches, **placed)

    def _put(self, rows):
        batch = batch_of(self._source, self._targets, self._train[rows], self._lengths)
        if self._source.has_groups:
            # (num, group, ...) to (group, num, ...): a trainer maps over groups first.
            batch["states"] = np.swapaxes(batch["states"], 0, 1)
        return put(batch)


def batch_of(
    source: TokenSource,
    targets: PyTree,
    examples: Int[np.ndarray, " num"],
    lengths: Lengths | None = None,
) -> dict[str, PyTree]:
    """Token states, mask and targets of some examples, which are the first axis of all of them."""
    tokens = source.fetch(examples)
    if lengths is not None:
        tokens = lengths.to_front(tokens, examples)
    batch = {
        "states": tokens.states,
        "targets": jax.tree.map(lambda array: np.asarray(array[examples]), targets),
    }
    return batch if tokens.mask is None else {**batch, "mask": tokens.mask}


def cut_tokens(batch: Mapping[str, Any], length: int) -> dict[str, Any]:
    """A batch of so many tokens at most, which have to stand in front."""
    cut = {"states": batch["states"][..., :length, :]}
    return {**batch, **cut, "mask": batch["mask"][..., :length]}
