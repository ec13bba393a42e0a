"""Compiled programs of the functions that are measured, kept from one call to the next."""

import functools
from collections.abc import Callable
from typing import Any

from poolax._checks import is_concrete

# What a function closes over is part of its program and stays in memory with it.
_MOST_KEPT = 16


def kept_program(build: Callable[..., Callable[..., Any]]) -> Callable[..., Callable[..., Any]]:
    """Keep the programs that ``build`` made of the last few functions and options.

    Args:
        build: Makes a jitted function of static arguments.

    Returns:
        Takes the arrays that the program will be called with, then the static arguments. Nothing is
        kept for tracers, which end with their trace and which functions then close over, nor for
        what has no hash, such as a callable record of arrays.
    """
    keep = functools.lru_cache(_MOST_KEPT)(build)

    @functools.wraps(build)
    def program(arrays, *static):
        kept = is_concrete(*arrays) and is_hashable(static)
        return keep(*static) if kept else build(*static)

    return program


def is_hashable(value: Any) -> bool:
    """Whether a value can be looked up."""
    try:
        hash(value)
    except TypeError:
        return False
    return True
