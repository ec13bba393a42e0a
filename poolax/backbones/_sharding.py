"""Weights over several devices of a mesh."""

from collections.abc import Callable

import jax
from jax.sharding import NamedSharding, PartitionSpec

from poolax._checks import check_choice

# Which axis of a kernel is split: heads and hidden features, so that a layer needs one sum over
# devices behind its output projection; vocabulary for the table of tokens.
_SPLIT = {
    "attention/query/kernel": 1,
    "attention/key/kernel": 1,
    "attention/value/kernel": 1,
    "attention/query/bias": 0,
    "attention/key/bias": 0,
    "attention/value/bias": 0,
    "attention/out/kernel": 0,
    "ffn/gate/kernel": 1,
    "ffn/hidden/kernel": 1,
    "ffn/gate/bias": 0,
    "ffn/hidden/bias": 0,
    "ffn/out/kernel": 0,
    "embeddings/token": 0,
}


def tensor_parallel(
    mesh: jax.sharding.Mesh, axis: str = "model"
) -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """How to split a backbone's weights over an axis of a mesh: heads, hidden features, vocabulary.

    What does not divide by the number of devices, and everything else, is on all of them.

    Args:
        mesh: The mesh.
        axis: Name of the axis.

    Returns:
        From path and shape of a parameter to its sharding, for ``load(..., sharding=…)``.

    Raises:
        ValueError: if the mesh has no such axis.

    Example:
        >>> import jax
        >>> mesh = jax.make_mesh((1,), ("model",))
        >>> tensor_parallel(mesh)("encoder/block_0/attention/out/kernel", (4, 2, 8)).spec
        P('model', None, None)
    """
    check_choice("axis", axis, mesh.axis_names)
    num_devices = mesh.shape[axis]

    def sharding(path: str, shape: tuple[int, ...]) -> NamedSharding:
        spec: list[str | None] = [None] * len(shape)
        for suffix, dim in _SPLIT.items():
            if path.endswith(suffix):
                # Stacked blocks have one more axis, in front.
                dim += "/blocks/" in path
                if shape[dim] % num_devices == 0:
                    spec[dim] = axis
        return NamedSharding(mesh, PartitionSpec(*spec))

    return sharding
