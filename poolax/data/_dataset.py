"""The record that every data set is."""

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Inputs and targets with their splits.

    Attributes:
        name: Short name, as records hold it.
        inputs: Raw inputs, shape ``(N, ...)``; a backbone's ``preprocess`` takes them.
        targets: Shape ``(N, ...)``.
        splits: Indices of ``"train"``, ``"validation"`` and ``"test"``.
        source: Where the data come from.
        licence: Licence of the data.
        mask: True at real tokens, for inputs that are padded; ``None`` otherwise.
        num_classes: Number of classes; ``None`` where targets are not labels.
    """

    name: str
    inputs: np.ndarray
    targets: np.ndarray
    splits: Mapping[str, np.ndarray]
    source: str
    licence: str
    mask: np.ndarray | None = None
    num_classes: int | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of inputs, mask, targets and splits, shortened to 16 digits."""
        digest = hashlib.sha256(self.name.encode())
        arrays = [self.inputs, self.mask, self.targets, *(self.splits[k] for k in sorted(self.splits))]
        for array in arrays:
            if array is not None:
                digest.update(f"{array.shape}{array.dtype}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]
