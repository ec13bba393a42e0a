"""Checkpoints that are damaged, replaced or done with: nothing goes before another one is complete."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath
from jaxtyping import PyTree

from poolax._checkpoint._orbax import (
    check_only_checkpoints,
    checkpoint_steps,
    is_checkpoint_folder,
    latest_step,
)
from poolax._checkpoint._reading import checkpoint_metadata, open_checkpoint
from poolax._checkpoint._saving import plain_metadata, write_checkpoint
from poolax._files import DamagedFileError
from poolax._paths import absolute_path, set_aside
from poolax._processes import is_writer, on_writer, once

_DAMAGED = "damaged"
_log = logging.getLogger(__name__)


def restore_newest(
    directory: epath.PathLike,
    like: PyTree,
    *,
    check: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> tuple[int, PyTree | None]:
    """Restore the newest checkpoint that is intact. Every process has to call.

    One that is damaged is renamed to ``N.damaged`` with a warning, and the one before is taken. Nothing
    is renamed for errors that are not about its content, which are raised.

    Args:
        directory: Where the checkpoints of one run live.
        like: Tree of arrays with the structure, shapes and dtypes that are expected.
        check: Called with the metadata first; raises a ``ValueError`` for those of another run.

    Returns:
        Its step and the tree, of NumPy arrays; 0 and ``None`` if there is none.

    Raises:
        ValueError: for a checkpoint that can be read but does not match ``like``, or is refused, and
            for a directory with checkpoints of another program.
        OSError: if the files cannot be read.
    """
    found: list[Any] = [None]

    def search():
        check_only_checkpoints(directory)
        for step in reversed(checkpoint_steps(directory)):
            try:
                found[0] = _read(directory, step, like, check)
            except DamagedFileError as error:
                _set_step_aside(directory, step, error)
            else:
                return step
        return -1

    step = once(search, f"{directory}: the newest checkpoint")
    if step < 0:
        return 0, None
    return step, found[0] if is_writer() else _read(directory, step, like, check)


def replace_checkpoint(
    directory: epath.PathLike,
    tree: PyTree,
    *,
    metadata: Mapping[str, Any],
    is_own: Callable[[Mapping[str, Any]], bool],
    step: int = 0,
) -> None:
    """Save in place of the checkpoint that is there. Every process has to call.

    The new one is complete before the old one is removed; it has the step after the old one's. One that
    is damaged is renamed to ``N.damaged``.

    Args:
        directory: A new or empty one, or one with a checkpoint of the same kind.
        tree: Arrays.
        metadata: Plain JSON.
        is_own: Whether a checkpoint with some metadata is of the same kind.
        step: The first one's step.

    Raises:
        ValueError: for a directory with anything else in it.
    """
    metadata = plain_metadata(metadata)
    host = on_writer(tree)

    def write():
        _check_replaceable(directory, is_own)
        latest = latest_step(directory)
        number = step if latest is None else max(step, latest + 1)
        write_checkpoint(directory, number, host, metadata, keep=1)

    once(write, f"{directory}: its checkpoint")


def remove_checkpoints(directory: epath.PathLike) -> None:
    """Remove the checkpoints of a finished run, and their directory if nothing else is in it."""
    path = absolute_path(directory)
    if not path.is_dir():
        return
    for child in list(path.iterdir()):
        if is_checkpoint_folder(child):
            child.rmtree()
    if not any(path.iterdir()):
        path.rmdir()


def _read(directory, step, like, check):
    with open_checkpoint(directory, step=step) as saved:
        check(saved.metadata)
        return saved.read(like)


def _check_replaceable(directory, is_own):
    path = absolute_path(directory)
    if not path.exists():
        return
    others = [
        child.name
        for child in path.iterdir()
        if not is_checkpoint_folder(child) and f".{_DAMAGED}" not in child.name
    ]
    for step in [] if others else checkpoint_steps(path):
        try:
            if not is_own(checkpoint_metadata(path, step=step)):
                others.append(f"another checkpoint, {step}")
        except DamagedFileError as error:
            _set_step_aside(directory, step, error)
    if others:
        raise ValueError(
            "directory: expected a new one, or one with a checkpoint of the same kind and nothing "
            f"else, got {directory} with {', '.join(sorted(others)[:3])}"
        )


def _set_step_aside(directory, step, error):
    kept = set_aside(absolute_path(directory) / str(step), _DAMAGED)
    _log.warning("%s; it is kept as %s", error, kept.name)
