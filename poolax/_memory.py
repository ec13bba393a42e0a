"""Memory of the process that nothing uses any more, and programs that are compiled."""

import ctypes
import pathlib
import sys

_MAPPINGS = pathlib.Path("/proc/self/maps")
# A process of Linux may have 65,530 by default.
_MOST_MAPPINGS = 20_000


def keep_programs_few() -> None:
    """Drop what JAX has compiled, where it takes a third of the mappings that a process may have.

    A process that compiles one program after another, as a long grid of shapes does, ends after some
    thousands of them by a fault in the compiler: each takes several mappings of memory, of which Linux
    allows a process 65,530 by default. What is needed again is compiled again. Elsewhere than on Linux
    nothing is done.

    Example:
        >>> from poolax.startup import keep_programs_few
        >>> for width in (2, 3):  # and many more
        ...     keep_programs_few()
    """
    if not _MAPPINGS.exists() or _MAPPINGS.read_bytes().count(b"\n") <= _MOST_MAPPINGS:
        return
    import jax

    jax.clear_caches()
    give_back_memory()


def give_back_memory() -> None:
    """Give freed memory back to the system, where the C library keeps it: compiling frees gigabytes."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc's; musl's allocator keeps little
        libc.malloc_trim(0)
