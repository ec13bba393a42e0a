"""How one of several processes ends when the others may not come to their end."""

import os
import re
import sys
import threading

import jax

# How XLA's errors begin; those of its collectives are plain ValueErrors.
_STATUS = re.compile("(ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|UNKNOWN): ")
_PATIENCE = 30.0


def has_lost_another(error: Exception) -> bool:
    """Whether an error says that another process of this run is gone."""
    return jax.distributed.is_initialized() and _STATUS.match(str(error)) is not None


def leave(code: int, *, at_once: bool) -> int:
    """The exit code of a process that fails or stops, of which others may know nothing.

    JAX waits for all processes at the end of each, for minutes where one was killed, and then aborts.

    Args:
        code: The exit code.
        at_once: Whether to end without the others; else they have half a minute to get here.
    """
    if not jax.distributed.is_initialized():
        return code
    if not at_once:
        together = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        together.start()
        together.join(_PATIENCE)
        if not together.is_alive():
            return code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
