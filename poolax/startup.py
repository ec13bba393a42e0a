"""What a script does as a process; nothing but the standard library is loaded with it."""

import atexit
import contextlib
import os
import sys

from poolax import _signals
from poolax._memory import keep_programs_few

__all__ = ("keep_programs_few", "take_signals")


def take_signals(name: str) -> None:
    """Let SIGTERM and Ctrl-C end a script with one line, from its first import to its end.

    Python's own handlers would raise in the middle of an import, with a traceback, and JAX's compiler
    does not let them through at all. The script has three seconds to stop by itself, as
    :func:`poolax.training.stop_on_sigterm` and :func:`poolax.training.sweep` do, whose
    :class:`poolax.training.PreemptedError` need not be caught; then the process ends with exit code 75.
    To be called in the main thread.

    Args:
        name: Name of the script, in front of the line.

    Example:
        In front of the imports of a script::

            if __name__ == "__main__":
                from poolax.startup import take_signals

                take_signals("probe")

            import jax
    """
    ends = contextlib.ExitStack()
    ends.enter_context(_signals.taking_signals())
    ends.enter_context(_signals.Watch(name)())
    atexit.register(ends.close)
    before = sys.excepthook

    def told(kind, error, trace):
        if not issubclass(kind, (_signals.PreemptedError, KeyboardInterrupt)):
            return before(kind, error, trace)
        sys.stdout.flush()
        print(f"{name}: interrupted", file=sys.stderr, flush=True)
        # What an exception leaves Python with would be code 1.
        os._exit(_signals.INTERRUPTED)

    sys.excepthook = told
