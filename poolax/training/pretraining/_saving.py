"""Checkpoints of a run, written in the background."""

import time
from collections.abc import Mapping
from typing import Any

from etils import epath
from jaxtyping import PyTree

from poolax._checkpoint import CheckpointWriter

_SECONDS = 60.0


class Saver:
    """Writes checkpoints while a run goes on; a context that waits until all is written.

    Args:
        directory: Where they stand; ``None`` for a run that writes none.
        every: Steps between two; ``None`` writes one a minute.
    """

    def __init__(self, directory: epath.PathLike | None, every: int | None):
        self._directory, self._every = directory, every
        self._writer = None
        self._saved_at, self._saved_step = time.monotonic(), -1

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *_):
        self.close()

    def is_saved(self, step: int) -> None:
        """Take note that a step's state is there."""
        self._saved_step = step

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is due after a step."""
        if self._every is not None:
            return step % self._every == 0
        return time.monotonic() - self._saved_at >= _SECONDS

    def save(self, step: int, tree: PyTree, metadata: Mapping[str, Any]) -> None:
        """Begin to write the state after a step, once. Every process has to call."""
        if self._directory is None or step == self._saved_step:
            return
        if self._writer is None:
            self._writer = CheckpointWriter(self._directory, keep=2)
        self._writer.save(step, tree, metadata=metadata)
        self._saved_at, self._saved_step = time.monotonic(), step

    def close(self) -> None:
        """Wait until what was begun is written."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
