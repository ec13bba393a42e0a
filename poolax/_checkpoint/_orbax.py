"""The only module that knows Orbax: managers, items and steps.

A step's folder holds three items: the arrays (``state``), their configuration (``metadata``) and the
SHA-256 of both (``checksums``).
"""

import asyncio
import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import PyTree

from poolax._checkpoint._checksums import checksums
from poolax._paths import absolute_path

STATE, METADATA, CHECKSUMS = "state", "metadata", "checksums"
_ITEMS = "_CHECKPOINT_METADATA"  # where Orbax notes which items a step has
_UNFINISHED = ".orbax-checkpoint-tmp"

Manager = ocp.CheckpointManager


def open_manager(
    path: epath.Path, *, keep: int | None = None, in_background: bool = False
) -> ocp.CheckpointManager:
    """A manager of the checkpoints in a folder, for this process alone.

    Args:
        path: The folder, absolute.
        keep: Number of newest checkpoints to keep; ``None`` keeps all.
        in_background: Whether a save returns before it is complete.

    Returns:
        The manager, to be closed.

    Raises:
        OSError: where the system opens no more files.
    """
    # Without handlers a manager that has saved nothing cannot say what a checkpoint holds.
    handlers = {
        STATE: ocp.StandardCheckpointHandler(),
        METADATA: ocp.JsonCheckpointHandler(),
        CHECKSUMS: ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=in_background)
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
    try:
        return ocp.CheckpointManager(path, options=options, item_handlers=handlers)
    except KeyError as error:
        # Where Orbax cannot read when a step was written it asks for its folder's time, and etils
        # then for the owner's name, which it does not find where no more files can be opened.
        problem = "too many open files, or checkpoints without a time, of an unknown user"
        raise OSError(errno.EMFILE, problem, os.fspath(path)) from error


def save_items(
    manager: ocp.CheckpointManager, step: int, host: PyTree, metadata: Mapping[str, Any]
) -> bool:
    """Save arrays that are on the host, metadata and the checksums of both.

    Returns:
        Whether Orbax took them, which it does for a step above those that are there.
    """
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(host),
        metadata=ocp.args.JsonSave(metadata),
        checksums=ocp.args.JsonSave(checksums(host, metadata)),
    )
    return manager.save(step, args=items)


def read_structure(manager: ocp.CheckpointManager, step: int) -> PyTree:
    """What has the shapes and dtypes of the arrays of a checkpoint."""
    with _late_results():
        saved = manager.item_metadata(step)[STATE]
    return saved.tree


def read_state(manager: ocp.CheckpointManager, step: int) -> PyTree:
    """The arrays of a checkpoint, on the host."""
    items = ocp.args.Composite(state=ocp.args.StandardRestore())
    with _late_results():
        return manager.restore(step, args=items)[STATE]


def read_json(folder: epath.Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Metadata and checksums of the checkpoint in a step's folder.

    Returns:
        Both; ``None`` for the checksums of one that was written before there were any. One that has
        lost them is still noted to have had them, and raises ``FileNotFoundError``.
    """
    handler = ocp.JsonCheckpointHandler()
    metadata = dict(handler.restore(folder / METADATA))
    noted = CHECKSUMS in json.loads((folder / _ITEMS).read_text())["item_handlers"]
    if not noted and not (folder / CHECKSUMS).exists():
        return metadata, None
    return metadata, dict(handler.restore(folder / CHECKSUMS))


def checkpoint_steps(directory: epath.PathLike) -> list[int]:
    """Steps of the finished checkpoints in a directory, ascending; none if it is not there."""
    return sorted(step for step, is_own in _numbered(directory) if is_own)


def latest_step(directory: epath.PathLike) -> int | None:
    """Step of the newest finished checkpoint, or ``None`` if there is none."""
    return max(checkpoint_steps(directory), default=None)


def has_checkpoint(directory: epath.PathLike) -> bool:
    """Whether a finished checkpoint stands in a directory; opens none, as many are asked for."""
    return latest_step(directory) is not None


def check_only_checkpoints(directory: epath.PathLike) -> None:
    """Refuse a folder named by a number: Orbax takes it for a checkpoint, and removes old ones.

    Raises:
        ValueError: for one that is no checkpoint, or that another program has saved with Orbax.
    """
    others = sorted(step for step, is_own in _numbered(directory) if not is_own)
    if others:
        raise ValueError(
            "directory: expected one whose folders with a number for a name are checkpoints of poolax, "
            f"got {directory} with {others[0]}, which is none"
        )


def is_checkpoint_folder(folder: epath.Path) -> bool:
    """Whether a folder is what a save in its parent has written, or has begun to write."""
    return (folder.name.isdigit() and _is_checkpoint(folder)) or _UNFINISHED in folder.name


def _numbered(directory):
    path = absolute_path(directory)
    if not path.is_dir():
        return []
    if "://" in os.fspath(path):  # complete once Orbax's note says so
        steps = ocp.utils.checkpoint_steps(path)
    else:  # renamed when complete; Orbax takes milliseconds for each to find that out
        names = [child.name for child in path.iterdir() if child.name.isdecimal()]
        steps = [int(name) for name in names if str(int(name)) == name]
    return [(step, _is_checkpoint(path / str(step))) for step in steps]


def _is_checkpoint(folder):
    """Whether a step is one of ours: others may not be renamed or removed, though Orbax wrote them."""
    has_state = (folder / STATE).exists()
    if has_state and (folder / METADATA).exists():
        return True
    try:
        noted = json.loads((folder / _ITEMS).read_text())["item_handlers"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return has_state
    return isinstance(noted, dict) and {STATE, METADATA} <= noted.keys()


class _Loop(asyncio.SelectorEventLoop):
    def call_soon_threadsafe(self, callback, *args, context=None) -> Any:
        if not self.is_closed():
            return super().call_soon_threadsafe(callback, *args, context=context)
        return None

    def call_exception_handler(self, context) -> None:
        """Nothing: the first failure is raised."""


class _LoopPolicy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _Loop()


@contextlib.contextmanager
def _late_results() -> Iterator[None]:
    """Let event loops drop what is left when a read is given up.

    Orbax reads all arrays at once, and gives up at the first that fails; what TensorStore then hands to
    a closed loop, and every further failure, would be told on the terminal with a traceback.
    """
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(_LoopPolicy())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(before)
