"""Runs and batches over devices: the only module that knows ``pmap``.

Everything here takes pure functions and host arrays, and gives host arrays or placed state back.
A batch that the devices do not divide is padded; padding carries weight zero.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from poolax._checks import check_choice, check_count
from poolax._compilation import compile_quickly
from poolax._progress import Progress, no_progress
from poolax.training._placing import AXIS, gather, local_parts, own_devices, place
from poolax.training._runs import Batches, Sums, TrainState, stack
from poolax.training._shard_map import ShardMapped

MAPPINGS = ("auto", "shard_map")


class Mapped(Protocol):
    """A compiled function of one row a device."""

    def __call__(self, *arguments: Any) -> Any:
        """What it gives, one row a device."""
        ...

    def lower(self, *arguments: Any) -> jax.stages.Lowered:
        """Its program."""
        ...


def over_devices(mapping: str, fn: Callable[..., Any], **options: Any) -> Mapped:
    """A function mapped over the leading axis, one row a device.

    Args:
        mapping: ``"auto"`` for ``pmap`` where there is one, or ``"shard_map"``.
        fn: Of one device's part.
        options: Of ``pmap`` and of :class:`ShardMapped`.

    Returns:
        The mapped function.
    """
    check_choice("mapping", mapping, MAPPINGS)
    if mapping == "shard_map" or not hasattr(jax, "pmap"):
        return ShardMapped(fn, **options)
    return jax.pmap(fn, **options)


class Trainer:
    """Trains many runs of one structure at once, vmapped, over all devices.

    Attributes:
        loss_fn: ``(params, data, indices, keys) -> (batch,)``, the loss of each example with a random
            key for each.
        optimizer: Optax transformation; one state for each run.
        own: Names of the arrays in ``data`` that each group has of its own, with a leading group axis;
            the others are shared.
        shard: What is split over the devices: the ``"batch"`` of every step, which takes a sum over
            devices, or the ``"heads"``, whole runs, which takes none.
        mapping: ``"auto"`` for ``pmap`` where there is one, or ``"shard_map"``.
    """

    def __init__(
        self,
        loss_fn: Callable[[PyTree, PyTree, Array, Array], Float[Array, " batch"]],
        optimizer: optax.GradientTransformation,
        *,
        own: Collection[str] = (),
        shard: str = "batch",
        mapping: str = "auto",
    ):
        check_choice("shard", shard, ("batch", "heads"))
        self.loss_fn = loss_fn
        self.optimizer = optimizer
        self.own = own
        self.shard = shard
        self._mapped = over_devices(mapping, self._all_runs, axis_name=AXIS, donate_argnums=0)
        # One program, where each of its operations would be compiled by itself.
        self._first = jax.jit(jax.vmap(optimizer.init), compiler_options=compile_quickly())

    def _all_runs(self, state, data, batches):
        of_group = {name: 0 if name in self.own else None for name in data}
        runs = jax.vmap(self._one_run, in_axes=(0, None, 0))
        return jax.vmap(runs, in_axes=(0, of_group, None))(state, data, batches)

    def _one_run(self, state, data, batches):
        # One run on one device: batch.indices and batch.weights have shape (batch / devices,).
        def step(state, batch):
            def total_loss(params):
                # A key for each example, so that the number of devices changes nothing.
                key = jax.random.wrap_key_data(batch.keys)
                keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, batch.examples)
                losses = self.loss_fn(params, data, batch.indices, keys)
                return jnp.sum(losses * batch.weights)

            loss, gradient = jax.value_and_grad(total_loss)(state.params)
            # Sums over devices are divided once, so that padding on one of them weighs nothing.
            loss, gradient, count = self._sum((loss, gradient, jnp.sum(batch.weights)))
            is_real = count > 0  # a step without examples fills up a stretch of steps
            gradient = jax.tree.map(lambda leaf: leaf / jnp.maximum(count, 1), gradient)
            with jax.named_scope("gradient_norm"):
                norm = optax.tree.norm(gradient)
            is_finite = jnp.isfinite(loss) & jnp.isfinite(norm)
            goes_on = is_real & is_finite & (state.diverged_step < 0)
            with jax.named_scope("optimizer"):
                updates, opt_state = self.optimizer.update(gradient, state.opt_state, state.params)
                moved = (optax.apply_updates(state.params, updates), opt_state)
                # A run that has diverged stands still beside others that go on.
                kept = jax.tree.map(
                    functools.partial(jnp.where, goes_on), moved, (state.params, state.opt_state)
                )
            fails = is_real & ~is_finite & (state.diverged_step < 0)
            new = TrainState(
                params=kept[0],
                opt_state=kept[1],
                step=state.step + is_real,
                diverged_step=jnp.where(fails, state.step, state.diverged_step),
            )
            return new, Sums(loss, count, jnp.where(is_real, norm, 0), is_real.astype(norm.dtype))

        state, sums = jax.lax.scan(step, state, batches)
        return state, jax.tree.map(jnp.sum, sums)

    def _sum(self, tree):
        # The sum over one device would be a copy of every gradient.
        return jax.lax.psum(tree, AXIS) if self.shard == "batch" and jax.device_count() > 1 else tree

    def init(self, params: PyTree, num_groups: int = 1, **hyperparams: Any) -> TrainState:
        """The state before the first step, on the devices.

        Args:
            params: With a leading run axis.
            num_groups: Number of groups that start from them.
            hyperparams: Of ``optax.inject_hyperparams``, with a leading run axis.
        """
        opt_state: Any = self._first(params)
        if hyperparams:
            opt_state.hyperparams.update(hyperparams)
        num_runs = len(jax.tree.leaves(params)[0])
        zeros: Any = np.zeros(num_runs, np.int32)
        state = stack([TrainState(params, opt_state, zeros, zeros - 1)] * num_groups)
        # A leaf without both axes would be mapped over the wrong one, and train something else.
        chex.assert_tree_shape_prefix(state, (num_groups, num_runs))
        return self.put(state)

    def put(self, state: TrainState) -> TrainState:
        """Place a state, with leading axes (group, run), on the devices."""
        placed = _put_runs(state) if self.shard == "heads" else put(state)
        # Any other placement would compile the steps again.
        chex.assert_tree_shape_prefix(placed, (jax.device_count(),))
        # The devices of all processes share a state; each process holds the part on its own.
        if jax.device_count() > 1:
            chex.assert_tree_is_sharded(placed, devices=jax.local_devices())
        else:
            chex.assert_tree_is_on_device(placed, device=jax.devices()[0])
        return placed

    def take(self, tree: PyTree, num_runs: int) -> PyTree:
        """A state, or a part of it, on the host again."""
        return _take_runs(tree, num_runs) if self.shard == "heads" else take(tree)

    def steps(
        self, state: TrainState, data: Mapping[str, PyTree], batches: Batches
    ) -> tuple[TrainState, Sums]:
        """Steps of all runs in one compiled loop: an epoch, or a stretch of one.

        Args:
            state: As :meth:`init` gives it; donated.
            data: What the loss reads, replicated by :func:`put`.
            batches: With a leading run axis.

        Returns:
            The new state, and the sums of these steps.
        """
        num_runs = len(batches.weights)
        state, sums = self._mapped(state, data, self._split(batches))
        return state, self.take(sums, num_runs)

    def program(self, state: TrainState, data: Mapping[str, PyTree], batches: Batches) -> str:
        """The compiled program of these :meth:`steps` as text, for a profile."""
        return self._mapped.lower(state, data, self._split(batches)).compile().as_text() or ""

    def _split(self, batches):
        return _split_runs(batches) if self.shard == "heads" else _split_batches(batches)


def _split_batches(batches):
    """(run, steps, batch) to (local device, run, steps, batch / devices), padded with weight zero."""
    devices = jax.device_count()

    def split(array):
        padding = -array.shape[-1] % devices
        array = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, padding)])
        return np.stack(np.split(array, devices, axis=-1))[own_devices()]

    keys = np.broadcast_to(batches.keys, (jax.local_device_count(), *batches.keys.shape))
    return Batches(split(batches.indices), split(batches.examples), split(batches.weights), keys)


def _split_runs(tree, axis=0):
    """Split a run axis over the local devices; the last runs are repeated to fill up."""

    def split(array):
        array = np.moveaxis(np.asarray(array), axis, 0)
        padding = -len(array) % jax.device_count()
        array = np.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1), mode="edge")
        parts = np.stack(np.split(array, jax.device_count()))[own_devices()]
        return np.moveaxis(parts, 1, axis + 1)

    return jax.tree.map(split, tree)


def _put_runs(tree):
    return jax.tree.map(lambda leaf: place(leaf, jax.devices()), _split_runs(tree, axis=1))


def _take_runs(tree, num_runs):
    def join(leaf):
        # (device, group, run / device, ...) to (group, run, ...)
        joined = np.concatenate(list(leaf), axis=1)
        return joined[:, :num_runs]

    local = jax.tree.map(local_parts, tree)
    return jax.tree.map(join, gather(local))


def put(tree: PyTree) -> PyTree:
    """Replicate a tree of arrays on the devices, placed as ``pmap`` places its results.

    Any other placement would compile every step twice: for the first call and for all others.
    """
    return _replicate(tree, jax.devices())


def _replicate(tree, devices):
    def replicate(leaf):
        leaf = np.asarray(leaf)
        return place(np.broadcast_to(leaf, (jax.local_device_count(), *leaf.shape)), devices)

    return jax.tree.map(replicate, tree)


def take(tree: PyTree) -> PyTree:
    """One copy of a replicated tree, on the host."""
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0))[0], tree)


@dataclasses.dataclass(frozen=True)
class Placed:
    """What batches share, where a :class:`Mapper` reads it.

    Attributes:
        tree: With a leading axis of the local devices, or split over a mesh.
    """

    tree: PyTree


class Mapper:
    """Maps a function over examples in batches, split over all devices.

    Attributes:
        fn: ``(shared, batch) -> tree`` with the batch's leading axis on every leaf.
        batch_size: Examples at a time over the local devices; rounded up to a multiple of them.
        mesh: Mesh over which ``shared`` is split already, where it is too large for one device; every
            batch is then on all of its devices.
        mapping: As for :class:`Trainer`.
    """

    def __init__(
        self,
        fn: Callable[[PyTree, PyTree], PyTree],
        batch_size: int,
        mesh: jax.sharding.Mesh | None = None,
        mapping: str = "auto",
    ):
        check_count("batch_size", batch_size)
        self._mesh = mesh
        devices = jax.local_device_count() if mesh is None else 1
        self.per_device = -(-batch_size // devices)
        self.batch_size = self.per_device * devices
        if mesh is None:
            self._mapped = over_devices(mapping, fn, axis_name=AXIS, devices=jax.local_devices())
        else:
            compiled = jax.jit(fn)
            self._mapped = lambda shared, batch: jax.tree.map(
                lambda leaf: leaf[None], compiled(shared, jax.tree.map(lambda leaf: leaf[0], batch))
            )

    def place(self, shared: PyTree) -> "Placed":
        """What all batches share, on the devices: placed once for several calls."""
        if self._mesh is not None:
            return Placed(shared)
        # Each process maps batches of its own.
        return Placed(_replicate(shared, jax.local_devices()))

    def __call__(
        self,
        shared: Any,
        arrays: PyTree,
        progress: Progress = no_progress,
        description: str = "map",
    ) -> Any:
        """Map over the leading axis of all ``arrays``."""
        num_examples = jax.tree.leaves(arrays)[0].shape[0]

        def fetch(start, stop):
            return jax.tree.map(lambda array: np.asarray(array[start:stop]), arrays)

        pieces = list(self.batches(shared, fetch, num_examples, progress, description))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)

    def batches(
        self,
        shared: Any,
        fetch: Callable[[int, int], PyTree],
        num_examples: int,
        progress: Progress = no_progress,
        description: str = "map",
    ) -> Iterator[PyTree]:
        """Results in order, as they come; each batch is begun before the one before it is read.

        The last batch is padded and cut again. Several processes take turns, and each has all results.

        Args:
            shared: What all batches share, or what :meth:`place` gave for it.
            fetch: From the first example of a batch and the one after its last to its arrays.
            num_examples: Number of examples.
            progress: Called with a description, the number done and the total.
            description: For ``progress``.

        Yields:
            Results of the next examples, on the host.
        """
        placed = shared if isinstance(shared, Placed) else self.place(shared)
        stride = self.batch_size * jax.process_count()
        begun = None
        for first in range(0, num_examples, stride):
            start = min(first + jax.process_index() * self.batch_size, num_examples - 1)
            batch = fetch(start, min(start + self.batch_size, num_examples))
            result = self._mapped(placed.tree, jax.tree.map(self._split, batch))
            if begun is not None:
                yield self._finish(*begun, num_examples, progress, description)
            begun = (result, first)
        if begun is not None:
            yield self._finish(*begun, num_examples, progress, description)

    def _finish(self, result, first, num_examples, progress, description):
        rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.device_get(result))
        rows = gather(rows)
        stop = min(first + self.batch_size * jax.process_count(), num_examples)
        progress(description, stop, num_examples)
        return jax.tree.map(lambda leaf: leaf[: stop - first], rows)

    def _split(self, piece):
        missing = self.batch_size - len(piece)
        if missing:
            # Repeating a real example keeps padding free of values that no example has.
            piece = np.pad(piece, [(0, missing)] + [(0, 0)] * (piece.ndim - 1), mode="edge")
        # (batch, ...) to (device, batch / device, ...)
        return piece.reshape(-1, self.per_device, *piece.shape[1:])


def mesh_of(tree: PyTree) -> jax.sharding.Mesh | None:
    """The mesh over which an array of a tree is split; ``None`` if each is whole on one device."""
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, jax.sharding.NamedSharding) and not sharding.is_fully_replicated:
            mesh = sharding.mesh
            return mesh if isinstance(mesh, jax.sharding.Mesh) else None
    return None
