"""Functions over devices by ``shard_map``: the second way, for where there is no ``pmap``."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poolax.training._placing import place


class ShardMapped:
    """A function of one device's part, mapped over the leading axis of all arguments.

    Results stand where those of ``pmap`` stand, so that a state goes on by either way.

    Attributes:
        fn: From trees of arrays to a tree of arrays.
        axis_name: By which ``fn`` sums over devices.
        devices: One for each row of the leading axis; ``None`` for all.
        donate_argnums: Arguments whose memory the results take.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        axis_name: str,
        devices: Sequence[Any] | None = None,
        donate_argnums: int | Sequence[int] = (),
    ):
        self._devices = list(jax.devices() if devices is None else devices)

        def of_one_device(*arguments):
            # A shard keeps the axis that is split, with length one.
            result = fn(*jax.tree.map(lambda leaf: jnp.squeeze(leaf, axis=0), arguments))
            return jax.tree.map(lambda leaf: leaf[None], result)

        spec = jax.sharding.PartitionSpec(axis_name)
        mapped = jax.shard_map(
            of_one_device,
            mesh=jax.sharding.Mesh(np.asarray(self._devices), (axis_name,)),
            in_specs=spec,
            out_specs=spec,
            check_vma=False,  # what is equal on all devices is still a row of each
        )
        self._mapped = jax.jit(mapped, donate_argnums=donate_argnums)

    def __call__(self, *arguments: Any) -> Any:
        """Results with a leading axis of devices."""
        return self._mapped(*self._placed(arguments))

    def lower(self, *arguments: Any) -> jax.stages.Lowered:
        """The lowered program for these arguments."""
        return self._mapped.lower(*self._placed(arguments))

    def _placed(self, arguments):
        """Arrays of the host, which have the rows of its own devices, as parts of global ones."""

        def placed(leaf):
            return leaf if isinstance(leaf, jax.Array) else place(leaf, self._devices)

        return jax.tree.map(placed, arguments)
