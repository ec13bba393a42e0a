"""One schema for each kind of record: which fields it has, and what they hold."""

import functools
import types
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from poolax._text import one_line

_Schema = TypeVar("_Schema", bound=type)
_Renew = Callable[[dict[str, Any]], dict[str, Any]]
_SCHEMAS: dict[str, Any] = {}
_RENEWED: dict[str, _Renew] = {}
# One of them, and several.
_WORDS = {
    bool: ("true or false", "true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number or null", "numbers or null"),
    str: ("text", "texts"),
    dict: ("an object", "objects"),
    list: ("a list", "lists"),
    type(None): ("null", "nulls"),
}


def record_kind(name: str, *, renew: _Renew | None = None) -> Callable[[_Schema], _Schema]:
    """Declare the fields of a kind of record: a decorator of a ``TypedDict``.

    Records whose ``kind`` is the name are checked when they are written and when they are read: the
    fields that are required are there, and each that is declared holds what it should. Other fields
    may stand beside them. A ``float`` may be null, as numbers that are not finite are.

    Args:
        name: The kind.
        renew: Makes of a record of an earlier version what it would be now, and leaves others as they
            are; records are given to it when they are read, before they are checked.

    Returns:
        The decorator, which gives the class as it is.

    Raises:
        ValueError: for a kind that is declared as something else already.

    Example:
        >>> from typing import NotRequired, TypedDict
        >>> @record_kind("weighed")
        ... class Weighed(TypedDict):
        ...     of: str
        ...     grams: list[float]
        ...     scale: NotRequired[str]
        >>> check_record({"kind": "weighed", "of": "salt", "grams": [1.5, None]})
        >>> check_record({"kind": "weighed", "of": "salt", "grams": 1.5})
        Traceback (most recent call last):
        ...
        ValueError: grams: expected a list of numbers or null, got 1.5, in a record of kind 'weighed'
    """

    def register(schema: _Schema) -> _Schema:
        # A script that is run and imported declares its kinds twice.
        before = _SCHEMAS.setdefault(name, schema)
        if get_type_hints(before, include_extras=True) != get_type_hints(schema, include_extras=True):
            raise ValueError(f"name: expected a kind that is new, got {name!r}, which is {before!r}")
        if renew is not None:
            _RENEWED[name] = renew
        return schema

    return register


def renewed(row: dict[str, Any]) -> dict[str, Any]:
    """A record of an earlier version as it would be now."""
    kind = row.get("kind")
    renew = _RENEWED.get(kind) if isinstance(kind, str) else None
    return row if renew is None else renew(row)


def check_record(row: Mapping[str, Any]) -> None:
    """Refuse a record that is not as its kind has to be; a kind that nobody declared may be anything.

    Args:
        row: The record, plain JSON.

    Raises:
        ValueError: for a field that is missing, or holds something else.
    """
    kind = row.get("kind")
    schema = _SCHEMAS.get(kind) if isinstance(kind, str) else None
    if schema is None:
        return
    for name, expected in fields_of(schema).items():
        if name in row and _holds(row[name], expected):
            continue
        if name in row or name in schema.__required_keys__:
            got = one_line(row[name], longest=80) if name in row else "none"
            words = _words(expected)[0]
            raise ValueError(f"{name}: expected {words}, got {got}, in a record of kind {kind!r}")


@functools.cache
def fields_of(schema: type) -> dict[str, Any]:
    """The fields that a schema declares, with their types."""
    return get_type_hints(schema)


def kinds() -> dict[str, Any]:
    """The schemas of all kinds that are declared, by name."""
    return dict(_SCHEMAS)


def _holds(value, expected):
    """Whether plain JSON is of a type."""
    origin, parts = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        return any(_holds(value, part) for part in parts)
    if origin is list:
        return isinstance(value, list) and all(_holds(entry, parts[0]) for entry in value)
    if origin is dict:
        return isinstance(value, Mapping) and all(_holds(entry, parts[1]) for entry in value.values())
    if expected is Any:
        return True
    if isinstance(value, bool) or expected is bool:
        return isinstance(value, bool) and expected is bool
    if expected is float:
        return value is None or isinstance(value, Real)
    return isinstance(value, Integral if expected is int else expected)


def _words(expected):
    """What a type is called, one and several."""
    origin, parts = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        return tuple(" or ".join(words) for words in zip(*map(_words, parts), strict=True))
    one, several = _WORDS[origin or expected]
    inner = [part for part in parts[-1:] if part in _WORDS or get_origin(part)]
    return tuple(" of ".join([word, *(_words(part)[1] for part in inner)]) for word in (one, several))
