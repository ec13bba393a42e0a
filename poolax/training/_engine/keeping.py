"""Keeping the state of a run while it goes on, so that an interruption loses little."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

import jax
from etils import epath
from jaxtyping import PyTree

from poolax._checkpoint import CheckpointWriter, remove_checkpoints, restore_newest
from poolax._processes import agreed
from poolax._signals import PreemptedError, stop_asked, taking_signals

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGTERM or Ctrl-C has arrived, for :class:`Limits`.

    Schedulers send SIGTERM some seconds before they take a machine away. A second signal raises
    ``KeyboardInterrupt`` at once. The handlers that were there before are put back afterwards; blocks
    within each other share what has arrived. Python takes signals in the main thread alone: in another
    one this says what has arrived for a block around.

    Yields:
        ``should_stop``.

    Raises:
        PreemptedError: at the end of the block, if one has arrived.

    Example:
        >>> with stop_on_sigterm() as should_stop:
        ...     should_stop()
        False
    """
    with taking_signals() as flag:
        yield flag.is_set
    if flag.is_set():
        raise PreemptedError("stopped by a signal")


class Keeper:
    """Saves the state of one run every so often, in the background, and when it is asked to stop.

    Args:
        directory: Where its checkpoints stand; ``None`` keeps nothing.
        every: Seconds between two of them.
        should_stop: Whether the run is to stop.
    """

    def __init__(
        self,
        directory: epath.PathLike | None,
        *,
        every: float = 60.0,
        should_stop: Callable[[], bool] = stop_asked,
    ):
        self._directory = None if directory is None else epath.Path(directory)
        self._every = every
        self._should_stop = should_stop
        self._saved_at = time.monotonic()
        self._writer = None

    def restore(self, like: PyTree) -> tuple[int, PyTree | None]:
        """The newest intact state and its step; 0 and ``None`` if there is none."""
        if self._directory is None:
            return 0, None
        step, tree = restore_newest(self._directory, like)
        if tree is not None:
            _log.info("going on from step %d of %s", step, self._directory)
        return step, tree

    def after(self, step: int, tree: Callable[[], PyTree]) -> None:
        """Save the state after a step if it is time to.

        Args:
            step: Number of the step, above those before.
            tree: Gives the state, on the host.

        Raises:
            PreemptedError: if the run is to stop; the state is saved by then.
        """
        stops, due = agreed(self._should_stop(), time.monotonic() - self._saved_at >= self._every)
        if self._directory is not None and (stops or due):
            if self._writer is None:
                self._writer = CheckpointWriter(self._directory, keep=2)
            self._writer.save(step, tree())
            self._saved_at = time.monotonic()
        if stops:
            self.close()
            where = "nothing was saved" if self._directory is None else f"saved in {self._directory}"
            raise PreemptedError(f"stopped after step {step}, {where}")

    def ask(self) -> None:
        """Stop a run that is to, where nothing can be saved but what was saved before may be there.

        Raises:
            PreemptedError: if the run is to stop.
        """
        if agreed(self._should_stop())[0]:
            self.close()
            goes_on = (
                "nothing was saved" if self._directory is None else "goes on from what was saved before"
            )
            raise PreemptedError(f"stopped while heads are evaluated; {goes_on}")

    def close(self) -> None:
        """Wait until what was begun is written."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def discard(self) -> None:
        """Remove what was kept of a run that is finished; what was damaged stays."""
        self.close()
        if jax.process_index() == 0 and self._directory is not None:
            remove_checkpoints(self._directory)
