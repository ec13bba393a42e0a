"""Checkpoints: arrays through Orbax, their configuration as JSON beside them.

The only module that knows Orbax. Arrays are saved from the host, so that a checkpoint opens on any
number and kind of devices, with poolax or with Orbax alone.
"""

import dataclasses
import logging
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
_log = logging.getLogger(__name__)


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


class CheckpointWriter:
    """Writes the checkpoints of one run in the background; only process 0 writes.

    Args:
        directory: Where they stand, local or ``gs://``.
        keep: Number of newest checkpoints to keep; ``None`` keeps all.
        best: Name of the entry of ``metrics`` by whose largest value one more is kept, the best;
            ``None`` for the newest alone.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     writer = CheckpointWriter(directory, keep=1, best="score")
        ...     for step, score in enumerate([0.1, 0.9, 0.5]):
        ...         writer.save(step, {"w": jnp.ones(2) * step}, metrics={"score": score})
        ...     writer.close()
        ...     checkpoint_steps(directory)
        [1, 2]
    """

    def __init__(self, directory: epath.PathLike, *, keep: int | None = None, best: str | None = None):
        policies: list[Any] = [ocp.checkpoint_managers.LatestN(keep)]
        if best is not None:
            policies.append(
                ocp.checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics[best], reverse=False, n=1
                )
            )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
            enable_async_checkpointing=True,
        )
        self._manager = None
        if jax.process_index() == 0:
            self._manager = _manager(absolute_path(directory), options)

    def save(
        self,
        step: int,
        tree: PyTree,
        *,
        metadata: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Begin to save; arrays may change afterwards.

        Args:
            step: Above those that are there.
            tree: Arrays.
            metadata: Plain JSON.
            metrics: What ``best`` is chosen by.

        Raises:
            ValueError: if there is a checkpoint at or after ``step``.
        """
        if self._manager is None:
            return
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(jax.device_get(tree)),
            metadata=ocp.args.JsonSave(dict(metadata or {})),
        )
        if not self._manager.save(step, args=arguments, metrics=metrics):
            latest = self._manager.latest_step()
            raise ValueError(f"step: expected above {latest}, the latest checkpoint, got {step}")

    def close(self) -> None:
        """Wait until all is written."""
        if self._manager is not None:
            self._manager.wait_until_finished()
            self._manager.close()
            self._manager = None


def has_checkpoint(directory: epath.PathLike) -> bool:
    """Whether a finished checkpoint stands in a directory; opens none, as many are asked for."""
    path = absolute_path(directory)
    steps = path.iterdir() if path.exists() else ()
    return any(step.name.isdecimal() and (step / _STATE).exists() for step in steps)


def checkpoint_steps(directory: epath.PathLike) -> list[int]:
    """Steps of the finished checkpoints in a directory, ascending; none if it is not there."""
    path = absolute_path(directory)
    if not path.exists():
        return []
    with _manager(path) as manager:
        return sorted(manager.all_steps())


def restore_newest(directory: epath.PathLike, like: PyTree) -> tuple[int, PyTree | None]:
    """Restore the newest checkpoint that can be read.

    One that cannot be read is removed with a warning, and the one before is taken.

    Args:
        directory: As for :func:`save_checkpoint`.
        like: Tree of NumPy arrays with the structure, shapes and dtypes that are expected.

    Returns:
        Its step and the tree, of NumPy arrays; 0 and ``None`` if there is none.

    Raises:
        ValueError: for a checkpoint that can be read but does not match ``like``.
    """
    path = absolute_path(directory)
    for step in reversed(checkpoint_steps(path)):
        try:
            with _manager(path) as manager:
                saved = manager.item_metadata(step)[_STATE]
                arguments = ocp.args.StandardRestore(like)
                found = manager.restore(step, args=ocp.args.Composite(state=arguments))[_STATE]
        except Exception as error:  # whatever a damaged file makes of its reader
            reason = " ".join(str(error).split())[:200]
            _log.warning("checkpoint %d in %s cannot be read and is removed: %s", step, path, reason)
            (path / str(step)).rmtree()
            continue
        _check_match(saved, like, directory, check_dtype=True)
        return step, found
    return 0, None


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
    options = options or ocp.CheckpointManagerOptions()
    if jax.process_count() > 1:
        # Each process reads, and process 0 writes, without waiting for the others.
        alone = jax.process_index()
        options = dataclasses.replace(
            options,
            create=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=alone,
                active_processes={alone},
                barrier_sync_key_prefix=f"process{alone}",
            ),
        )
        path.mkdir(parents=True, exist_ok=True)
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
    dtype = leaf.dtype if isinstance(leaf, np.ndarray) else jnp.result_type(leaf)
    return jax.ShapeDtypeStruct(jnp.shape(leaf), dtype)


def _format(shape_and_dtype):
    if shape_and_dtype is None:
        return "nothing"
    shape, dtype = shape_and_dtype
    return f"{dtype or 'shape '}{list(shape)}"
