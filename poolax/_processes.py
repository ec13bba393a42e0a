"""Runs of several processes: arrays brought together, and what only one of them does."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from poolax._ending import ending_with


def is_writer() -> bool:
    """Whether this process writes files."""
    return jax.process_index() == 0


def on_writer(tree: PyTree) -> PyTree | None:
    """A tree of arrays on the host of the process that writes; every process has to call.

    Args:
        tree: Arrays. Those that lie on devices of several processes are gathered, one after the other;
            of all others the writer's are taken.

    Returns:
        The tree of NumPy arrays on the writer, ``None`` on the other processes.
    """
    leaves, structure = jax.tree.flatten(tree)
    leaves = [_whole(leaf) for leaf in leaves]
    return jax.tree.unflatten(structure, leaves) if is_writer() else None


def once(write: Callable[[], int | None], what: str) -> int:
    """Write on one process; the others return when it is done. Every process has to call.

    Args:
        write: Writes, and may give a number.
        what: What it writes, for the error.

    Returns:
        The number, on all processes; 0 for none.

    Raises:
        OSError: on the other processes, if the writer failed, which raises its own error.

    Example:
        >>> once(lambda: 3, "a checkpoint")
        3
    """
    outcome = np.array([0, 0], np.int32)

    def tell():
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            outcome[:] = multihost_utils.broadcast_one_to_all(outcome)

    # The others wait, whatever becomes of the writer.
    with ending_with(tell):
        if is_writer():
            outcome[:] = 1, write() or 0
    done, number = map(int, outcome)
    if not done:
        raise OSError(f"{what}: expected to be written by process 0, which failed; see its own error")
    return number


def told(make: Callable[[], Any], what: str) -> Any:
    """Plain JSON that one process makes and tells the others. Every process has to call.

    Args:
        make: Makes it.
        what: What it makes, for the error.

    Returns:
        What the writer made, on all processes.

    Raises:
        OSError: on the other processes, if the writer failed, which raises its own error.

    Example:
        >>> told(lambda: {"id": "a"}, "a record")
        {'id': 'a'}
    """
    if jax.process_count() == 1:
        return make()
    from jax.experimental import multihost_utils

    made = bytearray()

    def encode():
        made.extend(json.dumps(make()).encode())
        return len(made)

    # All have to know its size before they get it.
    content = np.zeros(once(encode, what), np.uint8)
    if is_writer():
        content[:] = made
    return json.loads(multihost_utils.broadcast_one_to_all(content).tobytes())


def agreed(*wanted: bool) -> tuple[bool, ...]:
    """What any of the processes wants, which have to do the same: gathering a state takes them all."""
    if jax.process_count() == 1:
        return wanted
    from jax.experimental import multihost_utils

    return tuple(multihost_utils.process_allgather(np.array(wanted)).any(axis=0).tolist())


def place(leaf: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """An array that every process holds, on devices of one process or of several."""
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])


def _whole(leaf):
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        if not leaf.is_fully_replicated:
            from jax.experimental import multihost_utils

            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        else:
            leaf = leaf.addressable_data(0)
    return jax.device_get(leaf) if is_writer() else None
