"""What is done at the end of a block, without hiding the error that ended it."""

import contextlib
import logging
from collections.abc import Callable, Iterator

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def ending_with(action: Callable[[], object]) -> Iterator[None]:
    """Do something when a block ends, however it ends.

    Args:
        action: Called without arguments. Where the block has failed its own failure is only logged.

    Raises:
        Exception: what the block raised, else what the action raises.

    Example:
        >>> def close():
        ...     raise OSError("the second")
        >>> with ending_with(close):
        ...     raise ValueError("the first")
        Traceback (most recent call last):
        ...
        ValueError: the first
    """
    try:
        yield
    except BaseException:
        try:
            action()
        except (OSError, ValueError, RuntimeError) as error:
            _log.warning("after another error: %s", error)
        raise
    action()
