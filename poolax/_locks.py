"""One program at a time in a folder."""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator

import filelock
from etils import epath

from poolax._paths import absolute_path

_LOCK = ".poolax.lock"
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def alone_in(folder: epath.PathLike, *, name: str = "out", seconds: float = 0.0) -> Iterator[None]:
    """Hold a folder, made if it is not there, while this program writes to it.

    The lock is the operating system's and ends with the process that holds it, however that ends. A
    thread may hold a folder several times over. Three cannot be held: a folder that this process may
    only read, in which it writes nothing; a bucket, which has no locks; and one on a system without
    locks, as some network mounts are, which the log tells. On the last two it is for the user to see
    to it that one program writes.

    Args:
        folder: Local, or ``gs://``.
        name: What the folder is called in an error.
        seconds: How long to wait for another program.

    Raises:
        BlockingIOError: if another program, or another thread, holds the folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, alone_in(folder), alone_in(folder):
        ...     os.listdir(folder)
        ['.poolax.lock']
    """
    path = os.fspath(absolute_path(folder))
    with contextlib.ExitStack() as stack:
        if "://" not in path:
            os.makedirs(path, exist_ok=True)
            try:
                stack.enter_context(locked(os.path.join(path, _LOCK), seconds=seconds))
            except filelock.Timeout:
                raise BlockingIOError(
                    f"{name}: expected a folder that no other program writes to, got {path}; wait "
                    "until that one has ended, or take another folder"
                ) from None
        yield


@contextlib.contextmanager
def locked(path: str, *, seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock file; one that may not be written, or whose file system has no locks, is not held.

    Raises:
        filelock.Timeout: if another program holds it for longer.
    """
    # One object for each path and thread, so that blocks within each other count.
    lock = filelock.FileLock(path, is_singleton=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock.acquire(timeout=seconds))
        except OSError as error:
            if error.errno in _WITHOUT_LOCKS:
                _log.warning(
                    "%s: its file system has no locks (%s); see to it that one program writes there",
                    os.path.dirname(path),
                    os.strerror(error.errno),
                )
            elif error.errno not in _READ_ONLY:
                raise
        yield
