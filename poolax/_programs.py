"""Compiled programs of the functions that are measured, kept from one call to the next."""

import dataclasses
import functools
import hashlib
import types
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, TypeVar

import jax
import jax.core
import numpy as np

from poolax._checks import is_concrete

_Program = TypeVar("_Program")
# What a function closes over is part of its program and stays in memory with it.
_MOST_KEPT = 16
# Packages whose functions read no global that changes.
_CONSTANT = ("flax", "jax", "jaxlib", "numpy", "optax", "poolax")


def kept_program(build: Callable[..., _Program]) -> Callable[..., _Program]:
    """Keep the programs that ``build`` made of the last few functions and options.

    Args:
        build: Makes a jitted function, or several, of static arguments.

    Returns:
        Takes the arrays that the program will be called with, then the static arguments. A program is
        kept as long as everything that the functions can be seen to read is the same: what they close
        over, their defaults, and the globals that they name, but not the attributes of modules. Lists,
        dictionaries and NumPy arrays are the same if they are one object that has not changed.
        Nothing is kept for tracers, which end with their trace, nor for objects that may have changed
        unseen, such as instances of ordinary classes.
    """

    @functools.lru_cache(_MOST_KEPT)
    def keep(static):
        return build(*static.values)

    @functools.wraps(build)
    def program(arrays, *static):
        if is_concrete(*arrays):
            try:
                return keep(_Static(static))
            except _UnseenError:
                pass
        return build(*static)

    return program


class _UnseenError(Exception):
    """A value may change without a sign of it."""


class _Static:
    """Static arguments, equal to others that read the same."""

    def __init__(self, values):
        self.values = values
        self.read = _read(values, {})

    def __eq__(self, other):
        return self.read == other.read

    def __hash__(self):
        return hash(self.read)


class _Same:
    """A value, equal to itself alone; held, so that no other comes to its address."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self):
        return id(self.value)


def _read(value: Any, met: dict[int, Any]) -> Any:
    """What a program of ``value`` depends on, in a form that can be looked up."""
    if isinstance(value, (float, complex, np.generic)):
        # Zeros of both signs are equal, and NaN is not.
        return type(value), repr(value)
    if value is None or isinstance(value, _Same):
        return value
    if isinstance(value, (jax.Array, type, types.ModuleType, types.BuiltinFunctionType, np.ufunc)):
        if isinstance(value, jax.core.Tracer):
            raise _UnseenError
        return _Same(value)
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise _UnseenError
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).digest()
        return _Same(value), value.shape, value.dtype, digest
    if id(value) in met:
        return _Same(value)
    parts = _parts(value)
    if parts is None:
        return type(value), value
    met[id(value)] = value
    # A kept program is traced again for other shapes, with what its own list then holds: an equal
    # list will not do.
    same = _Same(value) if isinstance(value, (list, MutableMapping)) else type(value)
    return same, *(_read(part, met) for part in parts)


def _parts(value: Any) -> Iterator[Any] | list[Any] | tuple[Any, ...] | None:
    """What a value consists of; ``None`` if it tells by itself what it is equal to."""
    if isinstance(value, (tuple, list)):
        return value
    if isinstance(value, Mapping):
        return tuple(value.items())
    if isinstance(value, functools.partial):
        return value.func, value.args, tuple(value.keywords.items())
    if isinstance(value, types.MethodType):
        return value.__func__, value.__self__
    if isinstance(value, types.FunctionType):
        return _parts_of_function(value)
    if _package(type(value).__module__) in ("jax", "jaxlib") and callable(value):
        # Transformed functions; that of a method is made anew each time.
        return [_Same(value), getattr(value, "__wrapped__", None)]
    if not _tells_equality(value):
        raise _UnseenError
    if dataclasses.is_dataclass(value):
        return [getattr(value, field.name) for field in dataclasses.fields(value) if field.compare]
    return None


def _parts_of_function(fn: types.FunctionType) -> Iterator[Any]:
    yield _Same(fn.__code__)
    yield _Same(fn.__globals__)
    yield fn.__defaults__
    yield tuple((fn.__kwdefaults__ or {}).items())
    yield tuple(vars(fn).items())
    for cell in fn.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:
            # A name without a value yet.
            content = None
        yield content
    if _package(fn.__globals__.get("__name__", "")) not in _CONSTANT:
        for name in _names(fn.__code__):
            if name in fn.__globals__:
                yield fn.__globals__[name]


def _names(code: types.CodeType) -> Iterator[str]:
    """Names that may be globals, also of functions within."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _package(module: str) -> str:
    return module.partition(".")[0]


def _tells_equality(value: Any) -> bool:
    """Whether a value is looked up by more than where it lies."""
    if type(value).__hash__ is object.__hash__:
        return False
    try:
        hash(value)
    except TypeError:
        return False
    return True
