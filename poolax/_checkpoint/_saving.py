"""Saving checkpoints: arrays are brought to the host of the first process, which writes them."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath
from jaxtyping import PyTree

from poolax._checkpoint._orbax import check_only_checkpoints, open_manager, save_items
from poolax._checks import check_count
from poolax._ending import ending_with
from poolax._files import writing_to
from poolax._paths import absolute_path
from poolax._processes import is_writer, on_writer, once


def save_checkpoint(
    directory: epath.PathLike,
    step: int,
    tree: PyTree,
    *,
    metadata: Mapping[str, Any] | None = None,
    keep: int | None = None,
) -> None:
    """Save a tree of arrays and its configuration, with the SHA-256 of each.

    In a run of several processes every process has to call it: the first one writes, the others return
    when the checkpoint is there.

    Args:
        directory: Where the checkpoints of one run live, local or ``gs://``.
        step: Step of this checkpoint, above those that are there.
        tree: Arrays; a replicated or sharded array is gathered first, also from several processes.
        metadata: Plain JSON, such as the configuration.
        keep: Number of newest checkpoints to keep; ``None`` keeps all.

    Raises:
        ValueError: if there is a checkpoint at or after ``step``, or a folder named by a number that is
            none.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> from poolax.training import checkpoint_metadata, restore_checkpoint
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     save_checkpoint(directory, 1, {"w": jnp.ones(2)}, metadata={"width": 2})
        ...     print(restore_checkpoint(directory)["w"], checkpoint_metadata(directory))
        [1. 1.] {'width': 2}
    """
    check_count("step", step, at_least=0)
    metadata = plain_metadata(metadata)
    host = on_writer(tree)
    once(
        lambda: write_checkpoint(directory, step, host, metadata, keep),
        f"{directory}: checkpoint {step}",
    )


def write_checkpoint(
    directory: epath.PathLike, step: int, host: PyTree, metadata: Mapping[str, Any], keep: int | None
) -> None:
    """Save a tree that is on the host, by this process alone; else as :func:`save_checkpoint`."""
    path = absolute_path(directory)
    check_only_checkpoints(directory)
    with writing_to(path), open_manager(path, keep=keep) as manager:
        latest = manager.latest_step()
        if latest is not None and latest >= step:
            raise ValueError(f"step: expected above {latest}, the latest in {directory}, got {step}")
        if not save_items(manager, step, host, metadata):
            raise ValueError(f"step: {directory} did not take a checkpoint at step {step}")


def plain_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Metadata as they will be read.

    Raises:
        ValueError: for what is not plain JSON.
    """
    try:
        return json.loads(json.dumps(dict(metadata or {})))
    except TypeError as error:
        raise ValueError(f"metadata: expected plain JSON, got: {error}") from None


class CheckpointWriter:
    """Writes the checkpoints of one run in the background; only process 0 writes.

    Args:
        directory: Where they stand, local or ``gs://``.
        keep: Number of newest checkpoints to keep; ``None`` keeps all.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> from poolax._checkpoint import checkpoint_steps
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     writer = CheckpointWriter(directory, keep=2)
        ...     for step in range(3):
        ...         writer.save(step, {"w": jnp.ones(2) * step})
        ...     writer.close()
        ...     checkpoint_steps(directory)
        [1, 2]
    """

    def __init__(self, directory: epath.PathLike, *, keep: int | None = None):
        self._path = absolute_path(directory)
        self._manager = None
        if is_writer():
            check_only_checkpoints(directory)
            self._manager = open_manager(self._path, keep=keep, in_background=True)

    def save(self, step: int, tree: PyTree, *, metadata: Mapping[str, Any] | None = None) -> None:
        """Begin to save; arrays may change afterwards. Every process has to call.

        Args:
            step: Above those that are there.
            tree: Arrays.
            metadata: Plain JSON, such as the configuration.

        Raises:
            ValueError: if there is a checkpoint at or after ``step``.
        """
        metadata = plain_metadata(metadata)
        host = on_writer(tree)
        if self._manager is None:
            return
        with writing_to(self._path):
            if not save_items(self._manager, step, host, metadata):
                latest = self._manager.latest_step()
                raise ValueError(f"step: expected above {latest}, the latest checkpoint, got {step}")

    def close(self) -> None:
        """Wait until all is written."""
        manager, self._manager = self._manager, None
        if manager is not None:
            with ending_with(manager.close), writing_to(self._path):
                manager.wait_until_finished()
