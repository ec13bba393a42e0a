"""Heads: a pooler and a linear layer on the token states of a frozen backbone."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Bool, Float, PyTree

from poolax import codec
from poolax._checkpoint import open_checkpoint
from poolax._checks import check_count, check_instance
from poolax._progress import Progress, no_progress
from poolax.pooling import MultiMaxPool, parts_of
from poolax.training._engine.feed import Protocol
from poolax.training._engine.train import HeadGroup, TrainedHeads, train_groups
from poolax.training._states.prefixes import leave_out
from poolax.training._states.sources import MemorySource, PooledSource
from poolax.training.arguments import check_runs, check_splits, check_targets_of_splits, check_task
from poolax.training.layers import Layers
from poolax.training.tasks import Task, joined_pair
from poolax.training.token_head import TokenHead

# Vectors that stand side by side in what is read of a pair.
_JOINED = 4


@codec.register("head", "linear")
class HeadModule(nn.Module):
    """A pooler, or any module with its signature, and a linear layer.

    Attributes:
        pooler: Maps ``(z, mask)`` to ``(*batch, d)``.
        num_outputs: Width of the linear layer.
        standardized: Whether token states are brought to the units that the head was trained in: less
            ``mean``, divided by ``deviation``, which stand in the collection ``"scaling"``.
        pairs: Whether an example is two sequences, ``z (*batch, 2, n, d)``, whose vectors the linear
            layer reads together, see :func:`poolax.training.tasks.joined_pair`.

    Parameters: ``pooler`` if it has any, and ``output`` with kernel and bias.
    """

    pooler: nn.Module
    num_outputs: int
    standardized: bool = False
    pairs: bool = codec.added(False)

    @nn.compact
    def __call__(
        self, z: Float[Array, "*batch n d"], mask: Bool[Array, "*#batch n"] | None = None
    ) -> Float[Array, "*batch k"]:
        """Token states to outputs."""
        check_instance("pooler", self.pooler, nn.Module, "a Linen module")
        check_count("num_outputs", self.num_outputs)
        if self.standardized:
            mean = self.variable("scaling", "mean", jnp.zeros, z.shape[-1])
            deviation = self.variable("scaling", "deviation", jnp.ones, z.shape[-1])
            z = (z - mean.value) / deviation.value
        vectors = self.pooler(z, mask)
        inputs = joined_pair(vectors) if self.pairs else vectors
        return nn.Dense(self.num_outputs, name="output")(inputs)


def head_module(pooler: nn.Module, num_outputs: int, *, pairs: bool = False) -> nn.Module:
    """The head of a pooler; a :class:`TokenHead` is one already."""
    return pooler if isinstance(pooler, TokenHead) else HeadModule(pooler, num_outputs, pairs=pairs)


@dataclasses.dataclass(frozen=True)
class Head:
    """A trained head.

    Attributes:
        pooler: Its pooler.
        variables: ``{"params": ...}`` of :class:`HeadModule`, and ``"scaling"`` where it was trained on
            token states in units of their spread.
        config: What its checkpoint says of it.
    """

    pooler: nn.Module
    variables: PyTree
    config: Mapping[str, Any]

    @property
    def layer(self) -> int | tuple[int, ...]:
        """The layer that it reads, ``-1`` for the output; several for states side by side."""
        return Layers.parse(self.config.get("layers", str(Layers()))).layer

    @property
    def num_skipped(self) -> int | None:
        """Real tokens in front that it does not see; ``None`` where its checkpoint is older than that.

        Prefix tokens (CLS) of a sweep without them, or a prompt that is not to be pooled.
        """
        return self.config.get("num_skipped")

    @property
    def joins_parts(self) -> bool:
        """Whether it takes two sequences an example, ``(*batch, 2, n, d)``, to one output."""
        return self.config.get("joins_parts", False)

    @property
    def width(self) -> int:
        """Width of the pooled vectors that its linear layer reads."""
        width = self.variables["params"]["output"]["kernel"].shape[0]
        return width // _JOINED if self.joins_parts else width

    def predict(
        self, states: Float[Array, "*batch n d"], mask: Bool[Array, "*#batch n"] | None = None
    ) -> Float[Array, "*batch k"]:
        """Outputs of the linear layer, such as the logits of a classification.

        Tokens in front that the sweep left out of the pooler (:attr:`num_skipped`) are left out here.

        Args:
            states: Token states of the backbone that the head was trained on, of :attr:`layer`, as
                ``backbone.apply(params, inputs, layer=head.layer).states``.
            mask: True at real tokens; ``None`` if all are real.

        Returns:
            Outputs, shape ``(*batch, num_outputs)``.

        Raises:
            ValueError: for states of another width, or as the pooler raises.
        """
        states, mask = leave_out(states, mask, self.num_skipped or 0)
        width, given = self.width, jnp.shape(states)[-1:]
        if given and (parts_of(self.pooler) or isinstance(self.pooler, MultiMaxPool)):
            # Vectors may be of another width than tokens: side by side, behind a layer, of few heads.
            pooler = self.pooler
            inner = {"params": self.variables["params"].get("pooler", {})}
            given = jax.eval_shape(pooler.apply, inner, states, mask).shape[-1:]
        if given != (width,):
            raise ValueError(f"states: expected width {width}, got shape {jnp.shape(states)}")
        module = head_module(self.pooler, self.config["num_outputs"], pairs=self.joins_parts)
        if isinstance(module, HeadModule) and "scaling" in self.variables:
            module = module.clone(standardized=True)
        outputs = module.apply(self.variables, states, mask)
        return jnp.asarray(outputs)

    def pool(
        self, states: Float[Array, "*batch n d"], mask: Bool[Array, "*#batch n"] | None = None
    ) -> Float[Array, "*batch k"]:
        """Pooled vectors, which the linear layer reads.

        Args:
            states: Token states, as for :meth:`predict`.
            mask: True at real tokens; ``None`` if all are real.

        Returns:
            Vectors, shape ``(*batch, width)``.

        Raises:
            ValueError: for a head that pools nothing, or as the pooler raises.
        """
        if isinstance(self.pooler, TokenHead):
            raise ValueError("pooler: expected one that gives a vector, got a head on single tokens")
        states, mask = leave_out(states, mask, self.num_skipped or 0)
        if "scaling" in self.variables:
            scaling = self.variables["scaling"]
            states = (jnp.asarray(states) - scaling["mean"]) / scaling["deviation"]
        inner = {"params": self.variables["params"].get("pooler", {})}
        return jnp.asarray(self.pooler.apply(inner, states, mask))


def load_head(directory: epath.PathLike, *, pooler: nn.Module | None = None) -> Head:
    """Load a head that a sweep saved, on any number of devices.

    Args:
        directory: Its checkpoint directory.
        pooler: The pooler, where it is one of your own; ``None`` takes it from the checkpoint.

    Returns:
        The head.

    Raises:
        ValueError: if there is no checkpoint, it is not one of a head, or it is damaged.
    """
    with open_checkpoint(directory) as saved:
        config = saved.metadata
        if "num_outputs" not in config:
            raise ValueError(f"directory: expected the checkpoint of a head, got {directory}")
        if pooler is None and config["pooler"] is None:
            raise ValueError(f"pooler: expected the pooler of {directory}, which has no name")
        variables = jax.tree.map(jnp.asarray, saved.read())
    if pooler is None:
        of = "head" if config["pooler"]["name"] == codec.name_of(TokenHead) else "pooler"
        saved_pooler = codec.from_plain(config["pooler"], of=of, name="pooler")
        return Head(pooler=saved_pooler, variables=variables, config=config)
    return Head(pooler=pooler, variables=variables, config=config)


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
    batches, whatever runs beside it. Texts are padded as far as the batches of all ``runs`` ask for, so
    that other runs beside it may change the last bits.

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

    Raises:
        ValueError: for arguments that do not fit each other, or are out of range.
    """
    check_instance("module", module, nn.Module, "a Linen module")
    check_task(task)
    if np.ndim(states) < 4:
        raise ValueError(f"states: expected shape (group, N, n, d), got {np.shape(states)}")
    task.check_targets(jax.tree.map(np.asarray, targets))
    check_splits(splits, np.shape(states)[1])
    check_targets_of_splits(task, targets, splits)
    check_runs(runs)
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    if len(states) == 1:
        source = MemorySource(states[0], mask)
    elif states.shape[-2] == 1 and mask is None:
        source = PooledSource(np.swapaxes(states[..., 0, :], 0, 1))
    else:
        raise ValueError(
            f"states: expected one group, or groups of one token without a mask, got {states.shape}"
        )
    group = HeadGroup(module, tuple(runs), num_groups=len(states))
    protocol = Protocol(epochs, batch_size)
    [heads] = train_groups(
        source, [group], targets, task, protocol,
        splits=splits, progress=progress, description=description,
    )  # fmt: skip
    return heads
