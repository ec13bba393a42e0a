"""SHA-256 of every array of a tree and of the JSON beside it: what is read is what was written."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

_FORMAT = 1
_EMPTY = {"empty": True}


def checksums(tree: PyTree, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept beside a checkpoint, as plain JSON.

    Args:
        tree: Arrays on the host, and numbers.
        metadata: Plain JSON.

    Returns:
        Shape, dtype and SHA-256 of each array by its place in the tree, and SHA-256 of the metadata.

    Raises:
        ValueError: for two arrays at places of one name, such as ``{"a/b": x, "a": {"b": y}}``.

    Example:
        >>> found = checksums({"w": np.ones(2, np.float32)}, {"width": 2})
        >>> found["state"]["w"]["dtype"], found["state"]["w"]["shape"], len(found["metadata"])
        ('float32', [2], 64)
    """
    state = {}
    for name, leaf in _named_leaves(tree):
        if name in state:
            raise ValueError(f"tree: expected places of different names, got two called {name!r}")
        state[name] = _EMPTY if _is_empty(leaf) else _describe(leaf) | {"sha256": _sha256(leaf)}
    return {"format": _FORMAT, "state": state, "metadata": json_sha256(metadata)}


def structure_problem(expected: Mapping[str, Any], structure: PyTree) -> str | None:
    """How the shapes and dtypes of a tree differ from those of its checksums.

    Args:
        expected: As :func:`checksums` gave it.
        structure: Arrays, or what has their shapes and dtypes.

    Returns:
        The first difference; ``None`` if there is none.
    """
    if expected.get("format") != _FORMAT:
        return f"expected checksums of format {_FORMAT}, got {expected.get('format')!r}"
    saved: dict[str, Any] = expected["state"]
    found = {
        name: _EMPTY if _is_empty(leaf) else _describe(leaf) for name, leaf in _named_leaves(structure)
    }
    for name in saved | found:
        wanted = {key: value for key, value in saved.get(name, {}).items() if key != "sha256"}
        if found.get(name, {}) != wanted:
            return f"{name!r}: expected {wanted or 'nothing'}, got {found.get(name, 'nothing')}"
    return None


def content_problem(expected: Mapping[str, Any], tree: PyTree) -> str | None:
    """How the arrays of a tree differ from those that its checksums were taken of.

    Args:
        expected: As :func:`checksums` gave it.
        tree: Arrays on the host, and numbers.

    Returns:
        The first difference; ``None`` if there is none.
    """
    problem = structure_problem(expected, tree)
    if problem is not None:
        return problem
    for name, leaf in _named_leaves(tree):
        if not _is_empty(leaf) and _sha256(leaf) != expected["state"][name]["sha256"]:
            return f"{name!r} has another checksum than it was written with"
    return None


def json_sha256(value: Any) -> str:
    """SHA-256 of plain JSON, in whatever order its keys stand."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _named_leaves(tree):
    return [
        ("/".join(map(_key, path)), leaf)
        for path, leaf in jax.tree.leaves_with_path(tree, is_leaf=_is_empty)
    ]


def _key(key):
    # A list is told from a dictionary with the keys "0", "1", …, tuples are read as lists.
    if isinstance(key, jax.tree_util.SequenceKey):
        return f"[{key.idx}]"
    return jax.tree_util.keystr((key,), simple=True)


def _is_empty(leaf):
    return leaf is None or (isinstance(leaf, (dict, list, tuple)) and not leaf)


def _describe(leaf):
    leaf = _data(leaf)
    return {"shape": list(leaf.shape), "dtype": np.dtype(leaf.dtype).name}


def _sha256(leaf):
    array = _data(leaf)
    if array.dtype.hasobject:
        raise ValueError(f"tree: expected arrays of numbers, got one of {array.dtype}")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    array = np.ascontiguousarray(array)
    return hashlib.sha256(array.view(np.uint8).data if array.size else b"").hexdigest()


def _data(leaf):
    """What has a shape and a dtype, where a checkpoint keeps it: random keys as their numbers."""
    if isinstance(leaf, jax.Array):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)
    return leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
