"""Compiled programs of heads, kept from one call to the next: an equal sweep compiles nothing."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from poolax._compilation import compile_quickly
from poolax._programs import kept_program
from poolax.training._devices import Mapper, Trainer
from poolax.training._engine.best import Until
from poolax.training._engine.feed import cut_tokens
from poolax.training._engine.flat import Flat
from poolax.training._states.lengths import Slots
from poolax.training._states.sources import TokenSource
from poolax.training._states.views import WHOLE, View
from poolax.training.tasks import Task
from poolax.training.token_head import TokenHead

_EVALUATION_BATCH = 256


def keeps_places(module: nn.Module) -> bool:
    """Whether outputs of a head stand for tokens, so that padding cannot be moved or left out."""
    return isinstance(module, TokenHead)


@dataclasses.dataclass(frozen=True)
class Structure:
    """What the program of a head depends on, whatever its runs are.

    Attributes:
        module: Maps token states and their mask to outputs.
        view: What it sees of token states.
    """

    module: nn.Module
    view: View = WHOLE

    def apply(self, params: PyTree, batch: Mapping[str, Any]) -> Array:
        """Outputs of one head."""
        states, mask = self.view.apply(batch["states"], batch.get("mask"))
        return jnp.asarray(self.module.apply({"params": params}, states, mask))

    def loss_fn(self, task: Task, slots: Slots | None = None) -> Callable:
        """The loss of each example of a batch, for a :class:`Trainer`; of texts by their places."""

        def loss_of(params, data, indices, length=None):
            with jax.named_scope("read_batch"):
                batch = jax.tree.map(lambda leaf: leaf[indices], dict(data))
                batch = batch if length is None else cut_tokens(batch, length)
            return task.loss(self.apply(params, batch), batch["targets"])

        def loss(params, data, indices, keys):
            del keys
            if slots is None:
                return loss_of(params, data, indices)
            losses, start = [], 0
            for count, length in slots.parts:
                losses.append(loss_of(params, data, indices[start : start + count], length))
                start += count
            return jnp.concatenate(losses)

        return loss

    def shapes(self, tokens: "Tokens") -> PyTree:
        """Shapes and dtypes of the parameters of one head on tokens like these."""
        return jax.eval_shape(functools.partial(self.init, tokens), 0)

    def init(self, tokens: "Tokens", seed: Int[Array, ""] | int) -> PyTree:
        """Parameters of one head on tokens like these."""
        zeros = jnp.zeros(tokens.shape, tokens.dtype)
        # With a mask, tokens that are left out stand anywhere, and lengths stay.
        zeros = self.view.take(zeros) if tokens.has_mask else self.view.apply(zeros, None)[0]
        params = self.module.init(jax.random.key(seed), zeros)["params"]
        return jax.tree.map(lambda leaf: leaf.astype(zeros.dtype), params)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """What heads see of a source before they read it.

    Attributes:
        shape: Shape of the states of one example, ``(1, *parts, n, d)``.
        dtype: In which parameters are made.
        has_mask: Whether some tokens may not be real.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    has_mask: bool

    @classmethod
    def of(cls, source: TokenSource) -> "Tokens":
        """Those of a source."""
        dtype = jnp.zeros((), jnp.promote_types(source.dtype, jnp.float32)).dtype
        return cls((1, *source.shape[1:]), dtype, source.mask is not None)


@dataclasses.dataclass(frozen=True)
class HeadPrograms:
    """Programs of heads of one structure.

    Attributes:
        flat: Between their parameters and one flat array.
        init: From seeds, shape ``(run,)``, to flat parameters, shape ``(run, size)``.
        trainer: Their steps.
    """

    flat: Flat
    init: Callable[[Int[np.ndarray, " run"]], Float[Array, "run size"]]
    trainer: Trainer


@kept_program
def head_programs(
    structure: Structure,
    tokens: Tokens,
    task: Task,
    slots: Slots | None,
    own: tuple[str, ...],
    shard: str,
    mapping: str,
    schedule: tuple[Until, int] | None,
) -> HeadPrograms:
    """Programs of heads; called with no arrays first, as :func:`kept_program` asks.

    Args:
        structure: The heads.
        tokens: What they see.
        task: Loss and score.
        slots: Places of the examples of a step; ``None`` where all are padded alike.
        own: As for :class:`Trainer`.
        shard: As for :class:`Trainer`.
        mapping: As for :class:`Trainer`.
        schedule: When heads stop, and the steps until they all have to; ``None`` for a constant
            learning rate.
    """
    flat = Flat(structure.shapes(tokens))
    loss_of_tree = structure.loss_fn(task, slots)

    def init(seed):
        return flat.join(structure.init(tokens, seed))

    def loss_fn(params, *batch):
        return loss_of_tree(flat.split_to_learn(params), *batch)

    if schedule is None:
        optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)
    else:
        until, num_steps = schedule
        optimizer = until.optimizer(num_steps)
    return HeadPrograms(
        flat,
        jax.jit(jax.vmap(init), compiler_options=compile_quickly()),
        Trainer(loss_fn, optimizer, own=own, shard=shard, mapping=mapping),
    )


@kept_program
def evaluation_program(
    structures: tuple[Structure, ...], task: Task, own: bool, mapping: str
) -> Mapper:
    """Losses, scores and answers of all heads of some structures on a batch.

    Args:
        structures: The heads.
        task: Loss and score.
        own: Whether each group has states of its own, on the second axis.
        mapping: As for :class:`Mapper`.
    """

    def of_group(structure, params, batch):
        def of_head(params, batch):
            outputs, targets = structure.apply(params, batch), batch["targets"]
            score = task.score(outputs, targets)
            return task.loss(outputs, targets), score, dict(task.answer(outputs, targets))

        axes = {name: 1 if own and name == "states" else None for name in batch}
        of_runs = jax.vmap(of_head, in_axes=(0, None))
        of_groups = jax.vmap(of_runs, in_axes=(0, axes))
        # (group, run, batch, ...) to (batch, group, run, ...)
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 2, 0), of_groups(params, batch))

    def of_all(params, batch):
        parts = zip(structures, params, strict=True)
        return tuple(of_group(structure, own_params, batch) for structure, own_params in parts)

    return Mapper(of_all, _EVALUATION_BATCH, mapping=mapping)
