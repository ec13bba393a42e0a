"""The record that every data set is."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from poolax._checks import check_count, check_instance
from poolax._inputs import Inputs, all_digests
from poolax._splits import TooFewExamplesError, check_disjoint, count_duplicates

Targets = np.ndarray | Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Inputs and targets with their splits.

    Attributes:
        name: Short name, as records hold it.
        inputs: Raw inputs, shape ``(N, ...)``, which a backbone's ``preprocess`` takes: images with
            channels last, texts as strings, series; ``(N, parts, ...)`` where an example has several,
            such as the sentences of a pair. An array, or :class:`Inputs` that are read when indexed.
        targets: Shape ``(N, ...)``, or a mapping from names to such arrays.
        splits: Indices of ``"train"``, ``"validation"`` and ``"test"``, no example in two of them.
        source: Where the data come from.
        licence: Licence of the data.
        mask: True at real tokens, for inputs that are padded; ``None`` otherwise.
        num_classes: Number of classes; ``None`` where targets are not labels.
        class_names: Their names, in the order of the labels; ``None`` where there are none.
        notes: What was decided where the data leave a choice, such as a validation split cut from the
            training split; stands in records.
    """

    name: str
    inputs: Inputs | np.ndarray
    targets: Targets
    splits: Mapping[str, np.ndarray]
    source: str
    licence: str
    mask: np.ndarray | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        """Refuse parts that do not fit each other, empty splits, and splits that overlap."""
        check_instance("name", self.name, str, "a text")
        check_instance("splits", self.splits, Mapping, "a mapping from names to indices")
        if not hasattr(self.inputs, "shape") or not hasattr(self.inputs, "__len__"):
            raise ValueError(f"inputs: expected an array, or Inputs, got {type(self.inputs).__name__}")
        num_examples = len(self.inputs)
        for name, array in _named(self.targets).items():
            if len(array) != num_examples:
                raise ValueError(
                    f"{name}: expected {num_examples} rows for {self.name!r}, got {len(array)}"
                )
        for split, indices in self.splits.items():
            indices = np.asarray(indices)
            if indices.size and not np.issubdtype(indices.dtype, np.integer):
                raise ValueError(
                    f"splits: expected whole numbers in {split!r} of {self.name!r}, got {indices.dtype}"
                )
            if indices.size == 0:
                raise TooFewExamplesError(
                    f"splits: expected examples in {split!r} of {self.name!r}, got none"
                )
            if indices.min() < 0 or indices.max() >= num_examples:
                raise ValueError(
                    f"splits: expected indices from 0 to {num_examples - 1} for {split!r} of "
                    f"{self.name!r}, got {indices.min()} to {indices.max()}"
                )
        check_disjoint(self.splits, repr(self.name))
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"class_names: expected {self.num_classes} for {self.name!r}, got "
                f"{len(self.class_names)}"
            )

    @property
    def fingerprint(self) -> str:
        """SHA-256 of inputs, mask, targets and splits, shortened to 16 digits."""
        digest = hashlib.sha256(self.name.encode())
        named = {"inputs": self.inputs, "mask": self.mask, **_named(self.targets)}
        named |= {f"split {name}": indices for name, indices in self.splits.items()}
        for name, array in sorted(named.items()):
            if array is not None:
                digest.update(f"{name} {array.shape}".encode())
                _update(digest, array)
        return digest.hexdigest()[:16]

    def count_duplicates(self) -> dict[str, int]:
        """How many examples of a split have, exactly, the inputs of an example of another one.

        Images in files are compared as the files that they are, and are not decoded.

        Returns:
            Counts by ``"validation in train"``, ``"test in train"`` and ``"test in validation"``.

        Example:
            >>> texts = np.array(["a", "b", "c", "a"])
            >>> splits = {"train": np.array([0, 1]), "test": np.array([2, 3])}
            >>> Dataset("d", texts, np.arange(4), splits, "made up", "none").count_duplicates()
            {'test in train': 1}
        """
        splits = {name: np.asarray(indices) for name, indices in self.splits.items()}
        return count_duplicates(
            {name: all_digests(self.inputs, part, self.mask) for name, part in splits.items()}
        )

    def subset(self, num_examples: int, *, seed: int = 0) -> "Dataset":
        """The same data with at most ``num_examples`` of each split, chosen at random.

        Args:
            num_examples: Most examples of a split.
            seed: Seed of the choice.

        Returns:
            The smaller data set; its notes say so.

        Raises:
            ValueError: for numbers out of range.
        """
        check_count("num_examples", num_examples)
        check_count("seed", seed, at_least=0)
        rng = np.random.default_rng(seed)
        splits = {
            name: np.sort(rng.permutation(indices)[:num_examples])
            for name, indices in self.splits.items()
        }
        note = f"at most {num_examples} examples of each split, seed {seed}"
        return dataclasses.replace(self, splits=splits, notes=(*self.notes, note))


def _named(targets: Targets) -> dict[str, np.ndarray]:
    if isinstance(targets, Mapping):
        return {f"targets[{name!r}]": array for name, array in targets.items()}
    check_instance("targets", targets, np.ndarray, "a NumPy array or a mapping to such")
    return {"targets": targets}


def _update(digest: Any, array: Any) -> None:
    """Add the content of an array, or what stands for it."""
    if not isinstance(array, np.ndarray):
        digest.update(array.fingerprint.encode())
    elif array.dtype.kind in "OU":
        for text in array.ravel():
            # The length tells ("ab",) from ("a", "b").
            digest.update(f"{len(text)} {text}".encode())
    else:
        digest.update(array.dtype.str.encode())
        digest.update(np.ascontiguousarray(array).data)
