"""Plain JSON, and digests of it and of arrays."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def plain_json(value: Any) -> Any:
    """Plain JSON of nested values: tuples as lists, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {key: plain_json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(part) for part in value]
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
    """SHA-256 of plain JSON, shortened to 16 digits: what a record is a record of."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(*values: Any) -> str:
    """SHA-256 of arrays and plain values, shortened to 16 digits."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(values):
        if isinstance(leaf, (np.ndarray, jax.Array)):
            array = np.ascontiguousarray(leaf)
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(array.view(np.uint8).data if array.size else b"")
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()[:16]
