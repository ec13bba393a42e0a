"""LAPACK on one thread while matrices are decomposed: on several it takes more time, not less."""

import contextlib
import functools
import importlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import jax
import jax.core
from threadpoolctl import ThreadpoolController

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def on_one_thread(fn: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Let LAPACK use one thread while ``fn`` runs and until its result is there.

    LAPACK's threads wait for each other without sleeping: a matrix of 384 by 384, as most are here,
    takes two of them on two cores up to 60 times the time that one takes. Afterwards there are as many
    as before. What is traced here runs later, on the threads that there are then; and of several
    threads of Python only the first one that comes here has the number changed, while it lives.

    Args:
        fn: Gives a tree of arrays.

    Returns:
        A function with the same arguments and result.
    """

    @functools.wraps(fn)
    def limited(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with _limit():
            result = fn(*args, **kwargs)
            _wait_for(result)
        return result

    return limited


def _wait_for(result: Any) -> None:
    """Wait for arrays that are computed while Python goes on."""
    leaves = [leaf for leaf in jax.tree.leaves(result) if isinstance(leaf, jax.Array)]
    jax.block_until_ready([leaf for leaf in leaves if not isinstance(leaf, jax.core.Tracer)])


# Of the process, as the number of threads is.
_lock = threading.Lock()


@contextlib.contextmanager
def _limit() -> Iterator[None]:
    libraries = _libraries()
    with contextlib.ExitStack() as ends:
        with _lock:
            # What another thread has limited is put back by that one. Only one thread of a program can
            # change the number as long as it is alive, the first that does: in others nothing changes.
            if any(library["num_threads"] != 1 for library in libraries.info()):
                ends.enter_context(libraries.limit(limits=1))
        yield


@functools.cache
def _libraries() -> ThreadpoolController:
    """The libraries of the process that compute decompositions, which are looked up once."""
    importlib.import_module("scipy.linalg.cython_lapack")  # by which JAX decomposes on a CPU
    return ThreadpoolController().select(user_api="blas")
