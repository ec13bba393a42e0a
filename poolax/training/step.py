"""Data parallelism over local devices: the only module that knows ``pmap``.

Everything here takes pure functions and host arrays, and gives host arrays or replicated state back.
A batch that the devices do not divide is padded; padding carries weight zero.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, PyTree

from poolax._checks import check_count
from poolax._progress import Progress as Progress
from poolax._progress import no_progress as no_progress
from poolax.data._order import epoch_order, epoch_step_keys, in_batches

_AXIS = "devices"


@struct.dataclass
class Batches:
    """A run's batches, in order: which examples, and how much each counts (padding 0).

    Attributes:
        indices: Shape ``(steps, batch)``.
        weights: Shape ``(steps, batch)``.
        keys: One random key (its data) for each step, shape ``(steps, 2)``.
    """

    indices: Array | np.ndarray
    weights: Array | np.ndarray
    keys: Array | np.ndarray


def epoch_batches(seed: int, epoch: int, num_examples: int, batch_size: int) -> Batches:
    """The shuffled batches of one epoch; the last one is padded to full size.

    The order depends on seed and epoch alone, so that a resumed run goes on with the batches that an
    uninterrupted one would have seen.
    """
    indices, weights = in_batches(epoch_order(seed, epoch, num_examples), batch_size)
    return Batches(indices=indices, weights=weights, keys=epoch_step_keys(seed, epoch, len(indices)))


def stack(trees: list[PyTree]) -> PyTree:
    """Stack equal trees of arrays along a new first axis."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


class Trainer:
    """Trains many runs of one structure at once: runs vmapped, batches split over devices.

    Attributes:
        loss_fn: ``(params, data, indices, keys) -> (batch,)``, the loss of each example with a random
            key for each; ``data`` is what the runs of a group share.
        optimizer: Optax transformation; one state for each run.
    """

    def __init__(
        self,
        loss_fn: Callable[[PyTree, PyTree, Array, Array], Float[Array, " batch"]],
        optimizer: optax.GradientTransformation,
    ):
        self.loss_fn = loss_fn
        self.optimizer = optimizer
        # (group, run, ...) state; data differs by group, batches by run and group.
        runs = jax.vmap(self._epoch, in_axes=(0, None, 0))
        groups = jax.vmap(runs, in_axes=(0, 0, None))
        self._pmapped = jax.pmap(groups, axis_name=_AXIS, donate_argnums=0)

    def _epoch(self, state, data, batches):
        def step(state, batch):
            params, opt_state = state

            def total_loss(params):
                # A key for each example, so that the number of devices changes nothing.
                key = jax.random.wrap_key_data(batch.keys)
                keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, batch.indices)
                losses = self.loss_fn(params, data, batch.indices, keys)
                return jnp.sum(losses * batch.weights)

            loss, gradient = jax.value_and_grad(total_loss)(params)
            sums = jax.lax.psum((loss, gradient, jnp.sum(batch.weights)), _AXIS)
            loss, gradient = jax.tree.map(lambda leaf: leaf / sums[2], sums[:2])
            updates, opt_state = self.optimizer.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), (loss, sums[2])

        state, (losses, counts) = jax.lax.scan(step, state, batches)
        return state, jnp.sum(losses * counts) / jnp.sum(counts)

    def epoch(self, state: PyTree, data: PyTree, batches: Batches) -> tuple[PyTree, np.ndarray]:
        """One epoch of all runs.

        Args:
            state: ``(params, opt_state)`` with leading axes (group, run), replicated on the devices
                by :func:`put`; donated.
            data: What the loss reads, with a leading group axis, replicated by :func:`put`.
            batches: With a leading run axis.

        Returns:
            The new state, and each run's mean loss, shape (group, run).
        """
        devices = jax.local_device_count()
        state, losses = self._pmapped(state, data, _split_batches(batches, devices))
        return state, np.asarray(jax.device_get(losses)[0])


def _split_batches(batches, devices):
    """(run, steps, batch) to (device, run, steps, batch / devices), padded with weight zero."""

    def split(array, fill):
        padding = -array.shape[-1] % devices
        array = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, padding)], constant_values=fill)
        return np.stack(np.split(array, devices, axis=-1))

    keys = np.broadcast_to(batches.keys, (devices, *batches.keys.shape))
    return Batches(indices=split(batches.indices, 0), weights=split(batches.weights, 0), keys=keys)


def put(tree: PyTree) -> PyTree:
    """Replicate a tree of arrays on the local devices, placed as ``pmap`` places its results.

    Any other placement would compile every step twice: for the first call and for all others.
    """
    devices = jax.local_devices()
    mesh = jax.sharding.Mesh(np.asarray(devices), (_AXIS,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(_AXIS))

    def replicate(leaf):
        leaf = np.asarray(leaf)
        return jax.device_put(np.broadcast_to(leaf, (len(devices), *leaf.shape)), sharding)

    return jax.tree.map(replicate, tree)


def take(tree: PyTree) -> PyTree:
    """One copy of a replicated tree, on the host."""
    return jax.tree.map(lambda leaf: np.asarray(leaf[0]), jax.device_get(tree))


class Mapper:
    """Maps a function over examples in batches, split over the local devices.

    Attributes:
        fn: ``(shared, batch) -> tree`` with the batch's leading axis on every leaf.
        batch_size: Examples at a time over all devices; rounded up to a multiple of them.
    """

    def __init__(self, fn: Callable[[PyTree, PyTree], PyTree], batch_size: int):
        check_count("batch_size", batch_size)
        devices = jax.local_device_count()
        self.per_device = -(-batch_size // devices)
        self.batch_size = self.per_device * devices
        self._pmapped = jax.pmap(fn, axis_name=_AXIS)

    def __call__(
        self,
        shared: PyTree,
        arrays: PyTree,
        progress: Progress = no_progress,
        description: str = "map",
    ) -> Any:
        """Map over the leading axis of all ``arrays``; the last batch is padded and cut again."""
        num_examples = jax.tree.leaves(arrays)[0].shape[0]
        shared = put(shared)
        pieces = []
        for start in range(0, num_examples, self.batch_size):
            stop = min(start + self.batch_size, num_examples)
            batch = jax.tree.map(functools.partial(self._split, start=start, stop=stop), arrays)
            out = jax.device_get(self._pmapped(shared, batch))
            pieces.append(jax.tree.map(functools.partial(_join, count=stop - start), out))
            progress(description, stop, num_examples)
        return jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)

    def _split(self, array, *, start, stop):
        piece = np.asarray(array[start:stop])
        padding = [(0, self.batch_size - len(piece))] + [(0, 0)] * (piece.ndim - 1)
        # Repeating a real example keeps padding free of values that no example has.
        piece = np.pad(piece, padding, mode="edge")
        return piece.reshape(-1, self.per_device, *piece.shape[1:])


def _join(array, *, count):
    return array.reshape(-1, *array.shape[2:])[:count]
