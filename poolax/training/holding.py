"""A run's folder, which one program at a time may write to."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import jax
from etils import epath

from poolax._checks import check_path
from poolax._locks import alone_in
from poolax._processes import agreed

P = ParamSpec("P")
R = TypeVar("R")


@contextlib.contextmanager
def holding(out: epath.PathLike | None) -> Iterator[None]:
    """Hold a run's folder, for all processes of the run.

    Args:
        out: The folder; ``None`` holds nothing.

    Raises:
        ValueError: for what is no path.
        BlockingIOError: in every process, if another program holds it.
        OSError: in every process, if the first one cannot hold it for another reason.
    """
    if out is not None:
        check_path("out", out)
    failure = None
    with contextlib.ExitStack() as stack:
        if out is not None and jax.process_index() == 0:
            try:
                stack.enter_context(alone_in(out))
            except (OSError, ValueError) as error:
                failure = error  # raised once the others, which wait, know of it
        if out is not None:
            failed, is_held = agreed(failure is not None, isinstance(failure, BlockingIOError))
            if failure is not None:
                raise failure
            if is_held:
                raise BlockingIOError(f"out: another program writes to {out}")
            if failed:
                raise OSError(f"out: expected to be held by process 0, which failed for {out}")
        yield


def holds_out(check: Callable[..., None]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function hold the folder that its argument ``out`` names.

    Args:
        check: Called with all arguments by their names first: for arguments that are refused no folder
            is made.

    Returns:
        The decorator.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def held(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            check(**bound.arguments)
            with holding(bound.arguments["out"]):
                return function(*args, **kwargs)

        return held

    return decorate
