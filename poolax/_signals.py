"""SIGTERM and Ctrl-C, as one flag: the first one asks to stop, the second one raises.

Nothing but the standard library is imported, so that a program takes signals before it imports what
takes a while.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 75
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_PATIENCE = 3.0
_COMPILER = os.path.join("jax", "_src", "compiler.py")


class PreemptedError(Exception):
    """A run was asked to stop, has saved its state, and can be resumed."""


class StopFlag:
    """Whether a signal has asked to stop; as a handler it is what Python calls for each of them.

    The first one raises nothing. Python calls a handler between any two instructions, where an
    exception may be lost, as in a callback of the garbage collector, or leave a file half written.
    """

    def __init__(self):
        self._count = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Count a signal."""
        self._count += 1
        if self._count > 1:
            raise KeyboardInterrupt

    def is_set(self) -> bool:
        """Whether one has arrived."""
        return self._count > 0


def stop_asked() -> bool:
    """Whether a signal has asked to stop, in a block that takes them."""
    flag = _installed()
    return flag is not None and flag.is_set()


def stop_if_asked() -> None:
    """Between two pieces of work of which nothing is half done: stop if a signal has asked to.

    Raises:
        PreemptedError: if one has.
    """
    if stop_asked():
        raise PreemptedError("stopped by a signal")


@contextlib.contextmanager
def taking_signals() -> Iterator[StopFlag]:
    """Let SIGTERM and Ctrl-C set a flag, for a block; blocks within each other have the same one.

    The handlers that were there before are put back afterwards. A signal that is ignored, as Ctrl-C of
    a program in the background, stays ignored. Python takes signals in the main thread alone: in
    another one the flag is that of a block around, or never set.
    """
    flag = _installed() or StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.getsignal(number) for number in _STOPPING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, flag)
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _installed() -> StopFlag | None:
    handlers = map(signal.getsignal, _STOPPING)
    return next((handler for handler in handlers if isinstance(handler, StopFlag)), None)


class Watch:
    """Answers signals while the main thread cannot, as in XLA's compiler, which takes minutes.

    A program that saves its state says at the first signal that it will. One that has nothing to save,
    and any after a second signal, has a few seconds to end by itself, and is ended then.

    Attributes:
        saves: Whether the program saves its state when it is asked to stop.
    """

    def __init__(self, name: str):
        self.saves = False
        self._name = name
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)
        self._ends = False
        self._ending: threading.Timer | None = None

    @contextlib.contextmanager
    def __call__(self) -> Iterator["Watch"]:
        """Watch for a block in the main thread; elsewhere nothing is watched."""
        with self._reader, self._writer:
            if threading.current_thread() is not threading.main_thread():
                yield self
                return
            self._thread.start()
            before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            try:
                yield self
            finally:
                signal.set_wakeup_fd(before)
                self._ends = True
                self._writer.shutdown(socket.SHUT_WR)
                self._thread.join()
                if self._ending is not None:
                    self._ending.cancel()

    def _run(self):
        count = 0
        while number := self._reader.recv(1):
            if self._ends or number[0] not in _STOPPING:
                continue
            count += 1
            if count == 1 and self.saves:
                first = "compiling a program; " if _is_compiling() else ""
                self._tell(f"{first}stops once its state is saved; a second signal ends it at once")
            elif self._ending is None:
                self._ending = threading.Timer(_PATIENCE, self._end)
                self._ending.daemon = True
                self._ending.start()

    def _end(self):
        if sys.stderr.isatty():
            os.write(2, b"\x1b[?25h")  # progress bars hide the cursor
        self._tell("interrupted")
        os._exit(INTERRUPTED)

    def _tell(self, text):
        os.write(2, f"{self._name}: {text}\n".encode())


def _is_compiling() -> bool:
    """Whether the main thread waits for XLA's compiler."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_code.co_filename.endswith(_COMPILER):
            return True
        frame = frame.f_back
    return False
