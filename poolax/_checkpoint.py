"""Checkpoints: arrays through Orbax, their configuration as JSON beside them.

The only module that knows Orbax. Arrays are saved from the host, so that a checkpoint opens on any
number and kind of devices, with poolax or with Orbax alone.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import PyTree

from poolax._checks import check_count
from poolax._paths import absolute_path

_STATE, _METADATA = "state", "metadata"


def save_checkpoint(
    directory: epath.PathLike,
    step: int,
    tree: PyTree,
    *,
    metadata: Mapping[str, Any] | None = None,
    keep: int | None = None,
) -> None:
    """Save a tree of arrays and its configuration.

    Args:
        directory: Where the checkpoints of one run live, local or ``gs://``.
        step: Step of this checkpoint, above those that are there.
        tree: Arrays; a replicated or sharded array is gathered first.
        metadata: Plain JSON, such as the configuration.
        keep: Number of newest checkpoints to keep; ``None`` keeps all.

    Raises:
        ValueError: if there is a checkpoint at or after ``step``.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     save_checkpoint(directory, 1, {"w": jnp.ones(2)}, metadata={"width": 2})
        ...     print(restore_checkpoint(directory)["w"], checkpoint_metadata(directory))
        [1. 1.] {'width': 2}
    """
    check_count("step", step, at_least=0)
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
    with _manager(absolute_path(directory), options) as manager:
        latest = manager.latest_step()
        if latest is not None and latest >= step:
            raise ValueError(f"step: expected above {latest}, the latest in {directory}, got {step}")
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(jax.device_get(tree)),
            metadata=ocp.args.JsonSave(dict(metadata or {})),
        )
        if not manager.save(step, args=arguments):
            raise ValueError(f"step: {directory} did not take a checkpoint at step {step}")


def restore_checkpoint(
    directory: epath.PathLike,
    *,
    like: PyTree | None = None,
    step: int | None = None,
    sharding: jax.sharding.Sharding | None = None,
    cast: bool = False,
) -> PyTree:
    """Restore a tree of arrays, on any number of devices.

    Args:
        directory: As for :func:`save_checkpoint`.
        like: Tree of arrays or ``jax.ShapeDtypeStruct`` with the structure, shapes and dtypes that
            are expected; ``None`` restores what is there as nested dictionaries and lists.
        step: Which checkpoint; ``None`` for the newest.
        cast: Whether arrays are cast to the dtypes of ``like`` as they are read; else those have to
            agree.
        sharding: Where the arrays go; ``None`` puts them where ``like`` has them, else on the default
            device, or gives NumPy arrays if there is no ``like``.

    Returns:
        The tree.

    Raises:
        ValueError: if there is no such checkpoint, or it does not match ``like``.

    Example:
        >>> import tempfile, jax, jax.numpy as jnp
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     save_checkpoint(directory, 1, (jnp.ones(2),))
        ...     restore_checkpoint(directory, like=(jax.ShapeDtypeStruct((2,), jnp.float32),))
        (Array([1., 1.], dtype=float32),)
    """
    path, step = _find(directory, step)
    with _manager(path) as manager:
        if like is None:
            arguments = ocp.args.StandardRestore()
        else:
            _check_match(manager.item_metadata(step)[_STATE], like, directory, check_dtype=not cast)
            default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

            def abstract(leaf):
                placed = sharding or getattr(leaf, "sharding", None) or default
                return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf), sharding=placed)

            arguments = ocp.args.StandardRestore(jax.tree.map(abstract, like))
        tree = manager.restore(step, args=ocp.args.Composite(state=arguments))[_STATE]
    if like is None and sharding is not None:
        tree = jax.device_put(tree, sharding)
    return tree


def checkpoint_metadata(directory: epath.PathLike, *, step: int | None = None) -> dict[str, Any]:
    """The configuration that was saved beside the arrays.

    Args:
        directory: As for :func:`save_checkpoint`.
        step: Which checkpoint; ``None`` for the newest.

    Returns:
        The metadata.

    Raises:
        ValueError: if there is no such checkpoint.
    """
    path, step = _find(directory, step)
    with _manager(path) as manager:
        return manager.restore(step, args=ocp.args.Composite(metadata=ocp.args.JsonRestore()))[
            _METADATA
        ]


def checkpoint_structure(directory: epath.PathLike, *, step: int | None = None) -> PyTree:
    """Shapes and dtypes of what was saved.

    Args:
        directory: As for :func:`save_checkpoint`.
        step: Which checkpoint; ``None`` for the newest.

    Returns:
        A tree of ``jax.ShapeDtypeStruct``.

    Raises:
        ValueError: if there is no such checkpoint.
    """
    path, step = _find(directory, step)
    with _manager(path) as manager:
        return jax.tree.map(_shape_and_dtype, manager.item_metadata(step)[_STATE].tree)


def latest_step(directory: epath.PathLike) -> int | None:
    """Step of the newest finished checkpoint, or ``None`` if there is none."""
    path = absolute_path(directory)
    if not path.exists():
        return None
    with _manager(path) as manager:
        return manager.latest_step()


def _find(directory, step):
    path = absolute_path(directory)
    latest = latest_step(path)
    if latest is None:
        raise ValueError(f"directory: expected one with a checkpoint, got {directory}")
    if step is None:
        return path, latest
    with _manager(path) as manager:
        steps = manager.all_steps()
    if step not in steps:
        raise ValueError(f"step: expected one of {sorted(steps)} in {directory}, got {step}")
    return path, step


def _manager(path, options=None):
    # Without handlers a manager that has saved nothing cannot say what a checkpoint holds.
    handlers = {_STATE: ocp.StandardCheckpointHandler(), _METADATA: ocp.JsonCheckpointHandler()}
    return ocp.CheckpointManager(path, options=options, item_handlers=handlers)


def _check_match(saved, like, directory, *, check_dtype):
    """Orbax casts to the dtype that is asked for without a word; refuse instead."""
    expected, found = (
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): (
                tuple(leaf.shape),
                np.dtype(leaf.dtype) if check_dtype else None,
            )
            for path, leaf in jax.tree.leaves_with_path(tree)
        }
        for tree in (jax.tree.map(_shape_and_dtype, like), saved.tree)
    )
    differing = [name for name in expected | found if expected.get(name) != found.get(name)]
    if differing:
        name = differing[0]
        raise ValueError(
            f"like: expected the tree saved in {directory}, which differs in {len(differing)} places, "
            f"first at {name!r}: saved {_format(found.get(name))}, got {_format(expected.get(name))}"
        )


def _shape_and_dtype(leaf):
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))


def _format(shape_and_dtype):
    if shape_and_dtype is None:
        return "nothing"
    shape, dtype = shape_and_dtype
    return f"{dtype or 'shape '}{list(shape)}"
