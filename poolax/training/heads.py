"""Heads: a pooler and a linear layer on the token states of a frozen backbone."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jaxtyping import Array, Bool, Float, PyTree

from poolax._checkpoint import checkpoint_metadata, restore_checkpoint
from poolax.pooling import from_config
from poolax.training.step import (
    Mapper,
    Progress,
    Trainer,
    epoch_batches,
    no_progress,
    put,
    stack,
    take,
)
from poolax.training.tasks import Task
from poolax.training.token_head import TokenHead


class HeadModule(nn.Module):
    """A pooler, or any module with its signature, and a linear layer.

    Attributes:
        pooler: Maps ``(z, mask)`` to ``(*batch, d)``.
        num_outputs: Width of the linear layer.

    Parameters: ``pooler`` if it has any, and ``output`` with kernel and bias.
    """

    pooler: nn.Module
    num_outputs: int

    @nn.compact
    def __call__(
        self, z: Float[Array, "*batch n d"], mask: Bool[Array, "*#batch n"] | None = None
    ) -> Float[Array, "*batch k"]:
        """Token states to outputs."""
        return nn.Dense(self.num_outputs, name="output")(self.pooler(z, mask))


def head_module(pooler: nn.Module, num_outputs: int) -> nn.Module:
    """The head of a pooler; a :class:`TokenHead` is one already."""
    return pooler if isinstance(pooler, TokenHead) else HeadModule(pooler, num_outputs)


@dataclasses.dataclass(frozen=True)
class Head:
    """A trained head.

    Attributes:
        pooler: Its pooler.
        variables: ``{"params": ...}`` of :class:`HeadModule`.
        config: What its checkpoint says of it.
    """

    pooler: nn.Module
    variables: PyTree
    config: Mapping[str, Any]

    def predict(
        self, states: Float[Array, "*batch n d"], mask: Bool[Array, "*#batch n"] | None = None
    ) -> Float[Array, "*batch k"]:
        """Outputs of the linear layer, such as the logits of a classification.

        Args:
            states: Token states of the backbone that the head was trained on.
            mask: True at real tokens; ``None`` if all are real.

        Returns:
            Outputs, shape ``(*batch, num_outputs)``.

        Raises:
            ValueError: for states of another width, or as the pooler raises.
        """
        width = self.variables["params"]["output"]["kernel"].shape[0]
        if jnp.shape(states)[-1:] != (width,):
            raise ValueError(f"states: expected width {width}, got shape {jnp.shape(states)}")
        module = head_module(self.pooler, self.config["num_outputs"])
        outputs = module.apply(self.variables, states, mask)
        return jnp.asarray(outputs)


def load_head(directory: epath.PathLike, *, pooler: nn.Module | None = None) -> Head:
    """Load a head that a sweep saved, on any number of devices.

    Args:
        directory: Its checkpoint directory.
        pooler: The pooler, where it is one of your own; ``None`` takes it from the checkpoint.

    Returns:
        The head.

    Raises:
        ValueError: if there is no checkpoint, or it is not one of a head.
    """
    config = checkpoint_metadata(directory)
    if "num_outputs" not in config:
        raise ValueError(f"directory: expected the checkpoint of a head, got {directory}")
    if pooler is None:
        if config["pooler"] is None:
            raise ValueError(f"pooler: expected the pooler of {directory}, which has no name")
        tokens = config["pooler"]["name"] == TokenHead.__name__
        pooler = TokenHead(**config["pooler"]["options"]) if tokens else from_config(config["pooler"])
    variables = jax.tree.map(jnp.asarray, restore_checkpoint(directory))
    return Head(pooler=pooler, variables=variables, config=config)


@dataclasses.dataclass(frozen=True)
class TrainedHeads:
    """All heads of one structure after training; leading axes (group, run).

    Attributes:
        variables: Variables on the host.
        train_loss: Mean loss of each epoch, shape (group, run, epochs).
        validation_loss: After each epoch, shape (group, run, epochs).
        validation_metrics: Each metric after the last epoch, shape (group, run).
        test_metrics: Each metric after the last epoch, shape (group, run).
        test_scores: Score of each test example, shape (group, run, N, ...).
        diverged: Whether a loss was not finite, shape (group, run).
    """

    variables: PyTree
    train_loss: np.ndarray
    validation_loss: np.ndarray
    validation_metrics: Mapping[str, np.ndarray]
    test_metrics: Mapping[str, np.ndarray]
    test_scores: np.ndarray
    diverged: np.ndarray


def train_heads(
    module: nn.Module,
    states: Float[np.ndarray, "group N *parts n d"],
    mask: Bool[np.ndarray, "N *parts n"] | None,
    targets: PyTree,
    task: Task,
    *,
    splits: Mapping[str, np.ndarray],
    runs: Sequence[tuple[float, int]],
    epochs: int,
    batch_size: int,
    progress: Progress = no_progress,
    description: str = "heads",
) -> TrainedHeads:
    """Train heads of one structure, all in one compiled step: runs vmapped, batches over devices.

    Adam at a constant learning rate. The seed of a run sets its initialisation and the order of its
    batches, whatever runs beside it.

    Args:
        module: Structure of the heads.
        states: Token states; a group axis for states that differ, such as pooled ones.
        mask: True at real tokens; ``None`` if all are real.
        targets: Targets, shape ``(N, ...)``, or a mapping to such arrays.
        task: Loss and score.
        splits: Indices of ``"train"``, ``"validation"`` and ``"test"``.
        runs: Learning rate and seed of each run.
        epochs: Passes over the training split.
        batch_size: Examples a step.
        progress: Called with the description, the number of epochs done and the total.
        description: For ``progress``.

    Returns:
        The heads with their losses and scores.
    """
    num_groups = states.shape[0]
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)
    trainer = Trainer(_loss_fn(module, task), optimizer)
    splits = {name: np.asarray(indices) for name, indices in splits.items()}
    train = splits["train"]
    data = put(_select(states, mask, targets, train))
    evaluate = _Evaluation(module, task, states, mask, targets)

    @jax.vmap
    def initial(learning_rate, seed):
        params = module.init(jax.random.key(seed), jnp.asarray(states[0, :1]))["params"]
        state: Any = optimizer.init(params)
        state.hyperparams["learning_rate"] = learning_rate
        return params, state

    rates, seeds = (jnp.asarray(column) for column in zip(*runs, strict=True))
    state = put(stack([initial(rates, seeds)] * num_groups))
    params = take(state[0])
    train_loss, validation_loss, validation_scores = [], [], np.zeros(0)
    for epoch in range(epochs):
        batches = stack([epoch_batches(seed, epoch, len(train), batch_size) for _, seed in runs])
        state, losses = trainer.epoch(state, data, batches)
        train_loss.append(losses)
        params = take(state[0])
        loss, validation_scores = evaluate(params, splits["validation"])
        validation_loss.append(loss)
        progress(description, epoch + 1, epochs)
    test_loss, test_scores = evaluate(params, splits["test"])
    train_loss, validation_loss = np.stack(train_loss, -1), np.stack(validation_loss, -1)
    finite = np.isfinite(train_loss).all(-1) & np.isfinite(validation_loss).all(-1)
    return TrainedHeads(
        variables={"params": params},
        train_loss=train_loss,
        validation_loss=validation_loss,
        validation_metrics=_metrics(task, validation_scores, targets, splits["validation"]),
        test_metrics=_metrics(task, test_scores, targets, splits["test"]),
        test_scores=test_scores,
        diverged=~(finite & np.isfinite(test_loss)),
    )


def _select(states, mask, targets, indices):
    """What a loss reads, with the group axis in front of every array."""
    groups = states.shape[0]

    def shared(array):
        return np.broadcast_to(array[indices], (groups, *array[indices].shape))

    selected = {"targets": jax.tree.map(shared, targets), "states": states[:, indices]}
    if mask is not None:
        selected["mask"] = shared(mask)
    return selected


def _metrics(task, scores, targets, indices):
    """The task's metrics of scores (group, run, N, ...), each of shape (group, run)."""
    chosen = jax.tree.map(lambda array: array[indices], targets)
    rows = [[task.metrics(of_run, chosen) for of_run in of_group] for of_group in scores]
    return {name: np.array([[run[name] for run in row] for row in rows]) for name in rows[0][0]}


def _loss_fn(module, task):
    def loss(params, data, indices, keys):
        del keys
        batch = jax.tree.map(lambda leaf: leaf[indices], data)
        outputs = module.apply({"params": params}, batch["states"], batch.get("mask"))
        return task.loss(outputs, batch["targets"])

    return loss


class _Evaluation:
    """Mean loss of all heads on some examples, and their scores (group, run, N, ...)."""

    def __init__(self, module, task, states, mask, targets, batch_size=256):
        def of_head(params, batch):
            outputs = module.apply({"params": params}, batch["states"], batch.get("mask"))
            return task.loss(outputs, batch["targets"]), task.score(outputs, batch["targets"])

        def of_all(params, batch):  # params (group, run, ...), batch (group, batch, ...)
            of_runs = jax.vmap(of_head, in_axes=(0, None))
            per_example = jax.vmap(of_runs)(
                params, jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), batch)
            )
            return jax.tree.map(lambda a: jnp.moveaxis(a, 2, 0), per_example)

        self._states, self._mask, self._targets = states, mask, targets
        self._mapper = Mapper(of_all, batch_size)

    def __call__(self, params, indices):
        selected = _select(self._states, self._mask, self._targets, indices)
        by_example = jax.tree.map(lambda a: np.swapaxes(a, 0, 1), selected)
        losses, scores = self._mapper(params, by_example)
        return losses.mean(axis=0), np.moveaxis(scores, 0, 2)
