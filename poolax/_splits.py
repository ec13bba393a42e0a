"""Splits of examples: no example in two of them, and how many copies of one are."""

import collections
import hashlib
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

SPLITS = ("train", "validation", "test")
# Entries by which most rows that differ are told apart.
_SAMPLED = 16


class TooFewExamplesError(ValueError):
    """Examples do not suffice for the splits; of files that were cut off it is damage."""


def check_disjoint(splits: Mapping[str, Int[np.ndarray, "_"]], of: str = "") -> None:
    """Refuse an example that stands in two splits, or twice among those that are scored.

    In the training split an example may stand several times, as oversampling has it.

    Args:
        splits: Indices of ``"train"``, ``"validation"`` and ``"test"``, or of some of them.
        of: Whose splits, for the error.
    """
    known = [name for name in SPLITS if name in splits]
    whose = f" of {of}" if of else ""
    for name in known[1:] if known[:1] == ["train"] else known:
        repeated = _first_repeated(np.asarray(splits[name]))
        if repeated is not None:
            raise ValueError(
                f"splits: expected each example once in {name!r}{whose}, got {repeated} several times"
            )
    for one, other in itertools.combinations(known, 2):
        common = np.intersect1d(splits[one], splits[other])
        if common.size:
            raise ValueError(
                f"splits: expected no example in both {one!r} and {other!r}{whose}, got "
                f"{common.size}, {common[0]} among them"
            )


def _first_repeated(indices):
    values, counts = np.unique(indices, return_counts=True)
    return None if values.size == indices.size else values[counts > 1][0]


def row_digests(*arrays: np.ndarray | None) -> list[bytes]:
    """A digest of each row of arrays with as many rows; ``None`` has none.

    Example:
        >>> one, two, three = row_digests(np.array([[1, 2], [3, 4], [1, 2]]))
        >>> one == three, one == two
        (True, False)
    """
    given = [np.asarray(array) for array in arrays if array is not None]
    return [_digest(row) for row in zip(*given, strict=True)]


def count_copied_rows(
    splits: Mapping[str, Int[np.ndarray, "_"]], *arrays: np.ndarray | None
) -> dict[str, int]:
    """How many rows of a split have the content of a row of another one: :func:`count_duplicates`.

    Rows are read whole only where a sample of their entries stands in several.

    Args:
        splits: Rows of each split.
        arrays: Arrays of numbers with as many rows; ``None`` has none.

    Returns:
        As for :func:`count_duplicates`.

    Example:
        >>> states = np.array([[1, 2], [3, 4], [1, 2]])
        >>> count_copied_rows({"train": np.array([0, 1]), "test": np.array([2])}, states)
        {'test in train': 1}
    """
    given = [array for array in arrays if array is not None]
    samples = [sample.tobytes() for sample in _sampled(given[0])]
    met = collections.Counter(samples)

    def content(row):
        sample = samples[row]
        return sample if met[sample] == 1 else _digest(array[row] for array in given)

    chosen = {name: [content(row) for row in np.asarray(rows)] for name, rows in splits.items()}
    return count_duplicates(chosen)


def _sampled(array):
    """A few entries of each row, from all over it."""
    rows = array.reshape(len(array), -1)
    return rows[:, :: max(1, rows.shape[1] // _SAMPLED)]


def _digest(parts: Iterable[Any]) -> bytes:
    digest = hashlib.sha256()
    for part in map(np.asarray, parts):
        if part.dtype.kind in "OUS":
            # The lengths tell ("ab",) from ("a", "b").
            digest.update(repr([str(text) for text in part.ravel()]).encode(errors="surrogatepass"))
        else:
            digest.update(f"{part.shape}{part.dtype.str}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.digest()


def count_duplicates(digests: Mapping[str, Iterable[bytes]]) -> dict[str, int]:
    """How many examples of a split have the content of an example of another one.

    Args:
        digests: Digests of the examples of each split.

    Returns:
        Counts by ``"validation in train"``, ``"test in train"`` and ``"test in validation"``.

    Example:
        >>> count_duplicates({"train": [b"a", b"b"], "test": [b"a", b"a", b"c"]})
        {'test in train': 2}
    """
    listed = {name: list(digests[name]) for name in SPLITS if name in digests}
    sets = {name: set(found) for name, found in listed.items()}
    return {
        f"{other} in {one}": sum(digest in sets[one] for digest in listed[other])
        for one, other in itertools.combinations(listed, 2)
    }


def count_contradictions(
    digests: Mapping[str, Iterable[bytes]], labels: Mapping[str, Int[np.ndarray, "_"]]
) -> dict[str, int]:
    """How many examples of a split have the content of an example with another label.

    Args:
        digests: Digests of the examples of each split.
        labels: Their labels.

    Returns:
        Counts by ``"train"``, ``"validation"`` and ``"test"`` for those whose other stands in the same
        split, and by ``"validation in train"``, ``"test in train"`` and ``"test in validation"``.

    Example:
        >>> labels = {"train": np.array([0, 1, 1]), "test": np.array([0, 1])}
        >>> count_contradictions({"train": [b"a", b"a", b"b"], "test": [b"b", b"b"]}, labels)
        {'train': 2, 'test': 2, 'test in train': 1}
    """
    listed = {
        name: list(zip(digests[name], np.asarray(labels[name]).tolist(), strict=True))
        for name in SPLITS
        if name in digests
    }
    met: dict[str, dict[bytes, set[int]]] = {name: {} for name in listed}
    for name, pairs in listed.items():
        for digest, label in pairs:
            met[name].setdefault(digest, set()).add(label)

    def count(name, other):
        return sum(bool(met[other].get(digest, set()) - {label}) for digest, label in listed[name])

    across = itertools.combinations(listed, 2)
    return {
        **{name: count(name, name) for name in listed},
        **{f"{other} in {one}": count(other, one) for one, other in across},
    }
