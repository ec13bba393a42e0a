"""Training heads of one or several structures on one source of token states."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from poolax._compilation import compile_quickly
from poolax._memory import give_back_memory
from poolax.training.keeping import Keeper
from poolax.training.sources import PooledSource, TokenSource
from poolax.training.step import (
    Batches,
    Mapper,
    Progress,
    Sums,
    Trainer,
    epoch_batches,
    no_progress,
    put,
    stack,
)
from poolax.training.tasks import Task

_EVALUATION_BATCH = 256


@dataclasses.dataclass(frozen=True)
class HeadGroup:
    """Heads of one structure, which are trained in one compiled step.

    Attributes:
        module: The structure.
        runs: Learning rate and seed of each run.
        num_groups: Heads of each run, each on states of its own.
        num_prefix: Real tokens in front that the heads do not see.
        lipschitz: From parameters with leading axes (group, run) to the Lipschitz constants of these
            heads, shape (group, run); ``None`` where it is not known.
    """

    module: nn.Module
    runs: tuple[tuple[float, int], ...]
    num_groups: int = 1
    num_prefix: int = 0
    lipschitz: Callable[[PyTree], np.ndarray] | None = None

    def apply(self, params: PyTree, batch: Mapping[str, Any]) -> Array:
        """Outputs of one head."""
        states, mask = leave_out(batch["states"], batch.get("mask"), self.num_prefix)
        return jnp.asarray(self.module.apply({"params": params}, states, mask))

    def loss_fn(self, task: Task) -> Callable:
        """The loss of each example of a batch, for a :class:`Trainer`."""

        def loss(params, data, indices, keys):
            del keys
            batch = jax.tree.map(lambda leaf: leaf[indices], dict(data))
            return task.loss(self.apply(params, batch), batch["targets"])

        return loss

    def init(self, source: TokenSource) -> PyTree:
        """Parameters of one head of each run, with a leading run axis."""
        initialise = jax.jit(
            jax.vmap(functools.partial(self._init, source)), compiler_options=compile_quickly()
        )
        return initialise(jnp.asarray([seed for _, seed in self.runs]))

    def shapes(self, source: TokenSource) -> PyTree:
        """Shapes and dtypes of the parameters of one head."""
        return jax.eval_shape(functools.partial(self._init, source), 0)

    def _init(self, source, seed):
        tokens = jnp.zeros((1, *source.shape[1:]), jnp.promote_types(source.dtype, jnp.float32))
        tokens, _ = leave_out(tokens, None, self.num_prefix)
        params = self.module.init(jax.random.key(seed), tokens)["params"]
        return jax.tree.map(lambda leaf: leaf.astype(tokens.dtype), params)


def leave_out(states: Array, mask: Array | None, num_prefix: int) -> tuple[Array, Array | None]:
    """Token states without the first real tokens, which padding on the left puts anywhere."""
    if num_prefix == 0:
        return states, mask
    if mask is None:
        return states[..., num_prefix:, :], None
    return states, mask & (jnp.cumsum(mask, axis=-1) > num_prefix)


def count_orders(runs: Sequence[tuple[float, int]], *, shared: bool) -> int:
    """Number of orders in which runs see the examples: batches that a step reads."""
    return 1 if shared else len({seed for _, seed in runs})


@dataclasses.dataclass(frozen=True)
class TrainedHeads:
    """All heads of one structure after training; leading axes (group, run).

    Attributes:
        variables: Variables on the host.
        train_loss: Mean loss of each epoch, shape (group, run, epochs).
        gradient_norm: Mean norm of the gradient of each epoch's steps, shape (group, run, epochs).
        validation_loss: After each epoch, shape (group, run, epochs).
        validation_score: The task's first metric after each epoch, shape (group, run, epochs).
        lipschitz: Lipschitz constant of the heads after each epoch, shape (group, run, epochs); NaN
            where it is not known.
        validation_metrics: Each metric after the last epoch, shape (group, run).
        test_metrics: Each metric after the last epoch, shape (group, run).
        test_scores: Score of each test example, shape (group, run, N, ...).
        diverged: Whether a loss was not finite, shape (group, run).
        diverged_step: Step whose loss or gradient was not finite, after which the head stood still; -1
            where there is none.
        num_steps: Steps of an epoch.
    """

    variables: PyTree
    train_loss: np.ndarray
    gradient_norm: np.ndarray
    validation_loss: np.ndarray
    validation_score: np.ndarray
    lipschitz: np.ndarray
    validation_metrics: Mapping[str, np.ndarray]
    test_metrics: Mapping[str, np.ndarray]
    test_scores: np.ndarray
    diverged: np.ndarray
    diverged_step: np.ndarray
    num_steps: int


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
    """

    epochs: int
    batch_size: int
    chunk_steps: int | None = None
    shared_order: bool = False
    shard: str = "batch"


def train_groups(
    source: TokenSource,
    groups: Sequence[HeadGroup],
    targets: PyTree,
    task: Task,
    protocol: Protocol,
    *,
    splits: Mapping[str, np.ndarray],
    keeper: Keeper | None = None,
    progress: Progress = no_progress,
    description: str = "heads",
) -> list[TrainedHeads]:
    """Train heads with Adam at a constant learning rate: runs vmapped, epochs scanned.

    The seed of a run sets its initialisation and, unless the order is shared, the order of its batches,
    whatever runs beside it.

    Args:
        source: Token states.
        groups: Structures; several take turns on the same states.
        targets: Targets, shape ``(N, ...)``, or a mapping to such arrays.
        task: Loss and score.
        protocol: How.
        splits: Indices of ``"train"``, ``"validation"`` and ``"test"``.
        keeper: Keeps the state while it goes on.
        progress: Called with the description, the number of epochs done and the total.
        description: For ``progress``.

    Returns:
        The heads of each group.

    Raises:
        PreemptedError: if the keeper was asked to stop.
    """
    keeper = keeper or Keeper(None)
    give_back_memory()
    splits = {name: np.asarray(indices) for name, indices in splits.items()}
    members = [_Member(group, source, task, protocol) for group in groups]
    feed = _Feed(source, targets, splits["train"], protocol)
    evaluate = _Evaluation(source, groups, targets, task)

    def keep():
        return [member.keep() for member in members]

    step, kept = keeper.restore(keep())
    if kept is not None:
        for member, tree in zip(members, kept, strict=True):
            member.resume(tree)
    chunks = feed.num_chunks
    metrics = None
    for epoch in range(step // chunks, protocol.epochs):
        for chunk in range(step % chunks if epoch == step // chunks else 0, chunks):
            for member, data, batches in feed.chunk(members, epoch, chunk):
                member.train(data, batches)
            if chunk + 1 < chunks:
                keeper.after(epoch * chunks + chunk + 1, keep)
        params = [member.params for member in members]
        losses, scores = evaluate(params, splits["validation"])
        metrics = [_metrics(task, score, targets, splits["validation"]) for score in scores]
        for member, own, loss, metric in zip(members, params, losses, metrics, strict=True):
            member.end_epoch(epoch, own, loss, metric[task.metric])
        progress(description, epoch + 1, protocol.epochs)
        keeper.after((epoch + 1) * chunks, keep)
    params = [member.params for member in members]
    if metrics is None:  # resumed after the last epoch
        _, scores = evaluate(params, splits["validation"])
        metrics = [_metrics(task, score, targets, splits["validation"]) for score in scores]
    test_losses, scores = evaluate(params, splits["test"])
    found = []
    parts = zip(members, params, metrics, test_losses, scores, strict=True)
    for member, own, metric, loss, score in parts:
        test_metrics = _metrics(task, score, targets, splits["test"])
        found.append(member.result(own, metric, test_metrics, score, loss, feed.num_steps))
    keeper.close()
    return found


class _Member:
    """A group while it is trained: its state, and what its epochs have given."""

    def __init__(self, group, source, task, protocol):
        optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)
        own = ("states",) if isinstance(source, PooledSource) else ()
        self.group = group
        self._trainer = Trainer(group.loss_fn(task), optimizer, own=own, shard=protocol.shard)
        rates = jnp.asarray([rate for rate, _ in group.runs], float)
        self._state = self._trainer.init(
            group.init(source), num_groups=group.num_groups, learning_rate=rates
        )
        shape = (group.num_groups, len(group.runs))
        zeros = np.zeros(shape, np.float32)
        self._sums = Sums(zeros, zeros, zeros, zeros)
        names = ("train_loss", "gradient_norm", "validation_loss", "validation_score", "lipschitz")
        self._history = {name: np.full((*shape, protocol.epochs), np.nan) for name in names}

    @property
    def params(self):
        return self._trainer.take(self._state.params, len(self.group.runs))

    def keep(self):
        state = self._trainer.take(self._state, len(self.group.runs))
        return {"state": state, "sums": self._sums, "history": self._history}

    def resume(self, tree):
        self._state = self._trainer.put(tree["state"])
        self._sums, self._history = tree["sums"], dict(tree["history"])

    def train(self, data, batches):
        self._state, sums = self._trainer.steps(self._state, data, batches)
        self._sums = self._sums + sums

    def end_epoch(self, epoch, params, validation_loss, validation_score):
        now = {
            "train_loss": self._sums.mean_loss,
            "gradient_norm": self._sums.mean_gradient_norm,
            "validation_loss": validation_loss,
            "validation_score": validation_score,
        }
        if self.group.lipschitz is not None:
            now["lipschitz"] = self.group.lipschitz(params)
        # A new array each time: the old one may be on its way to disk.
        for name, values in now.items():
            history = self._history[name].copy()
            history[..., epoch] = values
            self._history[name] = history
        self._sums = jax.tree.map(np.zeros_like, self._sums)

    def result(self, params, validation_metrics, test_metrics, test_scores, test_loss, num_steps):
        diverged_step = self._trainer.take(self._state.diverged_step, len(self.group.runs))
        losses = (self._history["train_loss"], self._history["validation_loss"], test_loss[..., None])
        is_finite = np.all([np.isfinite(values).all(-1) for values in losses], axis=0)
        return TrainedHeads(
            variables={"params": params},
            **self._history,
            validation_metrics=validation_metrics,
            test_metrics=test_metrics,
            test_scores=test_scores,
            diverged=~is_finite | (diverged_step >= 0),
            diverged_step=diverged_step,
            num_steps=num_steps,
        )


class _Feed:
    """What heads read in an epoch: token states on the devices, and which of them a step takes."""

    def __init__(self, source, targets, train, protocol):
        self._source, self._targets, self._train, self._protocol = source, targets, train, protocol
        self.num_steps = -(-len(train) // protocol.batch_size)
        self._steps = protocol.chunk_steps or self.num_steps
        self.num_chunks = -(-self.num_steps // self._steps)
        self._whole = None

    def chunk(self, members, epoch, chunk):
        """Each member with its data and batches."""
        data, kept = None, np.zeros(0, np.int32)
        for member in members:
            batches = self._batches(member.group.runs, epoch)
            if self._protocol.chunk_steps is None:
                if self._whole is None:
                    self._whole = self._put(np.arange(len(self._train)))
                yield member, self._whole, batches
                continue
            part = jax.tree.map(lambda leaf: self._cut(leaf, chunk), batches)
            if data is None or not self._protocol.shared_order:
                # As many rows in every chunk, so that all are one program.
                wanted = np.unique(part.indices)
                orders = count_orders(member.group.runs, shared=self._protocol.shared_order)
                most = orders * self._steps * self._protocol.batch_size
                rows = np.pad(wanted, (0, min(most, len(self._train)) - len(wanted)), mode="edge")
                data, kept = self._put(rows), wanted
            indices = np.searchsorted(kept, part.indices).astype(np.int32)
            yield member, data, dataclasses.replace(part, indices=indices)

    def _batches(self, runs, epoch) -> Batches:
        size, count = self._protocol.batch_size, len(self._train)
        if self._protocol.shared_order:
            return stack([epoch_batches(0, epoch, count, size)] * len(runs))
        by_seed = {seed: epoch_batches(seed, epoch, count, size) for seed in {s for _, s in runs}}
        return stack([by_seed[seed] for _, seed in runs])

    def _cut(self, leaf, chunk):
        """Steps of a chunk; the last chunk of an epoch is filled up by steps without weight."""
        part = leaf[:, chunk * self._steps : (chunk + 1) * self._steps]
        padding = [(0, 0), (0, self._steps - part.shape[1])] + [(0, 0)] * (part.ndim - 2)
        return np.pad(part, padding)

    def _put(self, rows):
        examples = self._train[rows]
        return put(_batch(self._source, self._targets, examples, group_axis=0))


class _Evaluation:
    """Mean loss of all heads on some examples, and their scores (group, run, N, ...)."""

    def __init__(self, source, groups, targets, task):
        own = isinstance(source, PooledSource)
        self._source, self._targets = source, targets

        def of_group(group, params, batch):
            def of_head(params, batch):
                outputs = group.apply(params, batch)
                return task.loss(outputs, batch["targets"]), task.score(outputs, batch["targets"])

            axes = {name: 1 if own and name == "states" else None for name in batch}
            of_runs = jax.vmap(of_head, in_axes=(0, None))
            of_groups = jax.vmap(of_runs, in_axes=(0, axes))
            # (group, run, batch, ...) to (batch, group, run, ...)
            return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 2, 0), of_groups(params, batch))

        def of_all(params, batch):
            parts = zip(groups, params, strict=True)
            return tuple(of_group(group, own_params, batch) for group, own_params in parts)

        self._mapper = Mapper(of_all, _EVALUATION_BATCH)

    def __call__(self, params, examples):
        def fetch(start, stop):
            return _batch(self._source, self._targets, examples[start:stop], group_axis=1)

        pieces = list(self._mapper.batches(tuple(params), fetch, len(examples)))
        losses, scores = [], []
        for group in range(len(params)):
            loss, score = (np.concatenate([p[group][i] for p in pieces]) for i in (0, 1))
            losses.append(loss.mean(axis=0))
            scores.append(np.moveaxis(score, 0, 2))
        return losses, scores


def _batch(source, targets, examples, *, group_axis):
    tokens = source.fetch(examples)
    states = tokens.states
    if isinstance(source, PooledSource) and group_axis == 0:
        states = np.swapaxes(states, 0, 1)
    batch = {
        "states": states,
        "targets": jax.tree.map(lambda array: np.asarray(array[examples]), targets),
    }
    return batch if tokens.mask is None else {**batch, "mask": tokens.mask}


def _metrics(task, scores, targets, indices):
    """The task's metrics of scores (group, run, N, ...), each of shape (group, run)."""
    chosen = jax.tree.map(lambda array: array[indices], targets)
    rows = [[task.metrics(of_run, chosen) for of_run in of_group] for of_group in scores]
    return {name: np.array([[run[name] for run in row] for row in rows]) for name in rows[0][0]}
