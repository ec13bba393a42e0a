"""Plain JSON, and digests of it and of arrays."""

import dataclasses
import hashlib
import json
import math
import operator
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def plain_json(value: Any) -> Any:
    """Plain JSON of nested values: tuples as lists, NumPy's numbers as Python's, null if not finite."""
    if isinstance(value, Mapping):
        return {key: plain_json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_written(row: Mapping[str, Any]) -> dict[str, Any]:
    """A record as it would be read again: lists for tuples, null for numbers that are not finite."""
    return json.loads(json.dumps(plain_json(row), allow_nan=False))


def difference(row: Mapping[str, Any], fields: Mapping[str, Any]) -> str | None:
    """The first of some fields of which a record says something else, or ``None``.

    Example:
        >>> difference({"seed": 0, "shape": [2, 3]}, {"shape": (2, 3), "seed": 1})
        'seed'
    """
    return next((name for name in fields if _plain(row.get(name)) != _plain(fields[name])), None)


def _plain(value):
    """As it would be read again: a record that was just made may hold tuples."""
    return json.loads(json.dumps(plain_json(value), default=str))


def digest(value: Any) -> str:
    """SHA-256 of plain JSON, shortened to 16 digits: what a record is a record of.

    Example:
        >>> digest({"seed": np.int64(3)}) == digest({"seed": 3})
        True
    """
    text = json.dumps(value, sort_keys=True, default=_number_or_text)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _number_or_text(value):
    """Options that come as NumPy's numbers are the same options."""
    return value.item() if isinstance(value, np.generic) else str(value)


def fingerprint(*values: Any) -> str:
    """SHA-256 of arrays and plain values, shortened to 16 digits."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(values):
        if isinstance(leaf, (np.ndarray, jax.Array)):
            array = np.ascontiguousarray(leaf)
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(array.view(np.uint8).data if array.size else b"")
        else:
            digest.update(repr(python_numbers(leaf)).encode())
    return digest.hexdigest()[:16]


def python_numbers(value: Any) -> Any:
    """A configuration with Python's numbers in place of NumPy's, whose texts differ.

    Args:
        value: A number, a tuple or a dataclass; anything else stays as it is.

    Returns:
        An equal value.

    Example:
        >>> python_numbers((np.int64(3), "a"))
        (3, 'a')
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        parts = tuple(map(python_numbers, value))
        return value if all(map(operator.is_, parts, value)) else parts
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    fields = [field.name for field in dataclasses.fields(value) if field.init]
    plain = {name: python_numbers(getattr(value, name)) for name in fields}
    changed = {name: part for name, part in plain.items() if part is not getattr(value, name)}
    return dataclasses.replace(value, **changed) if changed else value
