"""Where arrays with a leading axis of devices stand, on one process or several."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

AXIS = "devices"


def place(local: np.ndarray, devices: list[Any]) -> Array:
    """Place an array with a leading axis of the local devices, which are all ``devices`` or a part."""
    mesh = jax.sharding.Mesh(np.asarray(devices), (AXIS,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
    if len(devices) == len(local):
        return jax.device_put(local, sharding)
    return jax.make_array_from_process_local_data(sharding, local)


def own_devices() -> slice:
    """The devices of this process among those of all."""
    first = jax.process_index() * jax.local_device_count()
    return slice(first, first + jax.local_device_count())


def local_parts(leaf: Array) -> np.ndarray:
    """The parts on the local devices, in the order of the devices."""
    shards = sorted(leaf.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def gather(tree: PyTree) -> PyTree:
    """Leading axes of all processes, joined in their order."""
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    gathered = multihost_utils.process_allgather(tree)
    return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), gathered)
