"""How functions that take a while report how far they are."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a description, how much is done, and the total."""


def no_progress(description: str, done: int, total: int) -> None:
    """Report nothing."""
