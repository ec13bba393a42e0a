"""What a script does before its imports; nothing but the standard library is loaded."""

import atexit
import contextlib

from poolax import _signals

__all__ = ("take_signals",)


def take_signals(name: str) -> None:
    """Let SIGTERM and Ctrl-C end a script with one line, from its first import to its end.

    Python's own handlers would raise in the middle of an import, with a traceback, and JAX's compiler
    does not let them through at all. The script has three seconds to stop by itself, as
    :func:`poolax.training.stop_on_sigterm` and :func:`poolax.training.sweep` do; then the process ends
    with exit code 75. To be called in the main thread.

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
