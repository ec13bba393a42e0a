"""The part of pretraining that objectives share: AdamW on a cosine schedule, and checkpoints."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jaxtyping import Array, PyTree

from poolax import codec
from poolax._checkpoint import restore_newest, save_checkpoint
from poolax._checks import check_count, check_instance, check_number, check_path
from poolax._processes import agreed
from poolax._progress import Progress, no_progress
from poolax._signals import PreemptedError, stop_asked
from poolax.records import fingerprint
from poolax.training._devices import Trainer, put, take
from poolax.training._engine.keeping import stop_on_sigterm
from poolax.training._runs import epoch_batches, stack
from poolax.training.arguments import check_seed
from poolax.training.holding import holding
from poolax.training.pretraining._recipes import Recipe

LossFn = Callable[[PyTree, PyTree, Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and how fast a model is pretrained, and where its checkpoints stand.

    AdamW with a weight decay of 0.01; the learning rate rises over a twentieth of all steps and then
    falls on a cosine to zero.

    Attributes:
        epochs: Passes over the examples.
        batch_size: Examples a step.
        learning_rate: Peak learning rate.
        seed: Sets initialisation, batch order and what is hidden.
        out: Folder for checkpoints; a run that finds one there goes on from it, and gives what an
            uninterrupted run would have given. SIGTERM or Ctrl-C then ends the epoch, saves and stops.
            ``None`` writes nothing.
        checkpoint_every: Epochs between checkpoints.
        progress: Called with a description, the number of epochs done and the total.
    """

    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-3
    seed: int = 0
    out: epath.PathLike | None = None
    checkpoint_every: int = 20
    progress: Progress = no_progress

    def __post_init__(self):
        """Refuse numbers out of range."""
        check_count("epochs", self.epochs)
        check_count("batch_size", self.batch_size)
        check_count("checkpoint_every", self.checkpoint_every)
        check_number("learning_rate", self.learning_rate, above=0.0)
        check_seed("seed", self.seed)
        if self.out is not None:
            check_path("out", self.out)
        check_instance("progress", self.progress, Callable, "a function of description, number, total")


def run_schedule(
    schedule: Schedule,
    params: PyTree,
    loss_fn: LossFn,
    arrays: Mapping[str, np.ndarray],
    recipe: Recipe,
) -> PyTree:
    """Train parameters on examples, or go on from a checkpoint of the same recipe.

    Args:
        schedule: How long and how fast.
        params: Initial parameters.
        loss_fn: ``(params, arrays, indices, keys) -> (batch,)``, as of :class:`Trainer`.
        arrays: What the loss reads, one row an example.
        recipe: What else makes this run another one; kept in the checkpoints.

    Returns:
        The trained parameters.

    Raises:
        ValueError: for a checkpoint of another recipe.
        FloatingPointError: if the loss does not stay finite.
        BlockingIOError: if another program writes to the schedule's folder.
        PreemptedError: for SIGTERM or Ctrl-C, once the state is saved.
    """
    num_examples = len(next(iter(arrays.values())))
    steps = schedule.epochs * math.ceil(num_examples / schedule.batch_size)
    warmup = min(max(1, steps // 20), steps - 1)
    rates = optax.warmup_cosine_decay_schedule(0.0, schedule.learning_rate, warmup, steps)
    optimizer = optax.adamw(rates, weight_decay=0.01)
    trainer = Trainer(loss_fn, optimizer)
    numbers = {
        "num_examples": num_examples,
        "inputs": fingerprint(dict(arrays)),
        "epochs": schedule.epochs,
        "batch_size": schedule.batch_size,
        "learning_rate": schedule.learning_rate,
        "seed": schedule.seed,
    }
    state = trainer.init(stack([params]))
    with holding(schedule.out), _asking(schedule.out) as should_stop:
        start, kept = _restore(schedule.out, _only_run(state), recipe, numbers)
        if start:
            state = trainer.put(stack([stack([kept])]))
        data = put(dict(arrays))
        for epoch in range(start, schedule.epochs):
            batches = stack([epoch_batches(schedule.seed, epoch, num_examples, schedule.batch_size)])
            state, _ = trainer.steps(state, data, batches)
            if (take(state.diverged_step) >= 0).any():
                raise FloatingPointError(
                    f"pretraining diverged in epoch {epoch} at learning rate {schedule.learning_rate:g}"
                )
            done = epoch + 1
            schedule.progress("pretraining", done, schedule.epochs)
            (stops,) = agreed(should_stop())
            is_due = done % schedule.checkpoint_every == 0 or done == schedule.epochs
            if schedule.out is not None and (stops or is_due):
                told = {"recipe": codec.to_plain(recipe, of="recipe"), **recipe.facts, **numbers}
                save_checkpoint(schedule.out, done, _only_run(state), metadata=told, keep=1)
            if stops:
                where = "nothing was saved" if schedule.out is None else f"saved in {schedule.out}"
                raise PreemptedError(f"stopped after epoch {done}, {where}")
    return jax.tree.map(jnp.asarray, _only_run(state).params)


def _asking(out):
    """Where nothing can be saved, signals are left to whoever takes them."""
    return contextlib.nullcontext(stop_asked) if out is None else stop_on_sigterm()


def _restore(out, state, recipe, numbers):
    if out is None:
        return 0, state

    def check(saved):
        differing = recipe.differing(saved)
        differing += [name for name, value in numbers.items() if saved.get(name) != value]
        if differing:
            raise ValueError(
                f"out: expected a checkpoint with this configuration in {out}, got one that differs "
                f"in {', '.join(differing)}"
            )

    return restore_newest(out, state, check=check)


def _only_run(state):
    return jax.tree.map(lambda leaf: leaf[0, 0], take(state))


def choose_hidden(keys: Array, num_patches: int, num_hidden: int) -> Array:
    """True at ``num_hidden`` random patches of each example, shape ``(batch, num_patches)``."""
    scores = jax.vmap(lambda key: jax.random.uniform(key, (num_patches,)))(keys)
    return jnp.argsort(jnp.argsort(scores, axis=-1), axis=-1) < num_hidden
