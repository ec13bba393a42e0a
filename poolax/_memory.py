"""Memory of the process that nothing uses any more."""

import ctypes
import sys


def give_back_memory() -> None:
    """Give freed memory back to the system, where the C library keeps it: compiling frees gigabytes."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc's; musl's allocator keeps little
        libc.malloc_trim(0)
