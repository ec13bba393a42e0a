"""What a record says of a data set that was read: splits, shapes, labels, samples."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from poolax.cli._data_list import describe_entry
from poolax.data import Dataset, Entry

NUM_SAMPLES = 3


def evenly(indices: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of some indices, evenly spaced, the first and the last among them."""
    places = np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)
    return np.asarray(indices)[places]


def named_targets(dataset: Dataset) -> dict[str, np.ndarray]:
    """The arrays of targets by name."""
    if isinstance(dataset.targets, Mapping):
        return {f"targets {name}": array for name, array in dataset.targets.items()}
    return {"targets": dataset.targets}


def class_name(dataset: Dataset, label: int) -> str:
    """What a label is called."""
    if dataset.class_names is None or not 0 <= label < len(dataset.class_names):
        return str(label)
    return dataset.class_names[label]


def target_text(dataset: Dataset, index: int) -> str:
    """The target of an example in a word, where one can say it."""
    targets = dataset.targets
    if isinstance(targets, Mapping) or targets.ndim > 1:
        return ""
    if dataset.num_classes is not None:
        return class_name(dataset, int(targets[index]))
    return f"{targets[index]:.4g}"


def describe_dataset(entry: Entry, dataset: Dataset, options: Mapping[str, Any]) -> dict[str, Any]:
    """What ``poolax data show`` knows, as plain JSON."""
    targets = named_targets(dataset)
    inputs = dataset.inputs
    arrays = {"inputs": inputs, **targets}
    if dataset.mask is not None:
        arrays["mask"] = dataset.mask
    return {
        **describe_entry(entry),
        "kind": "data",
        "options_given": dict(options),
        "splits": {name: len(indices) for name, indices in dataset.splits.items()},
        "arrays": {
            name: {"shape": list(array.shape), "dtype": _type_name(array)}
            for name, array in arrays.items()
        },
        "labels": _labels(dataset),
        "targets": _statistics(dataset, targets),
        "samples": [
            _sample(entry, dataset, int(index))
            for index in evenly(dataset.splits["train"], NUM_SAMPLES)
        ],
        "source": dataset.source,
        "licence": dataset.licence,
        "notes": [*entry.notes, *dataset.notes],
    }


def _type_name(array: Any) -> str:
    dtype = np.asarray(array[:1]).dtype
    return "text" if dtype.kind in "OU" else str(dtype)


def _labels(dataset: Dataset) -> list[dict[str, Any]]:
    """How often each label stands in each split."""
    targets = dataset.targets
    if dataset.num_classes is None or isinstance(targets, Mapping) or targets.dtype.kind not in "iu":
        return []
    counts = {}
    for split, indices in dataset.splits.items():
        labels = targets[indices].ravel()
        known = labels[(labels >= 0) & (labels < dataset.num_classes)]
        counts[split] = np.bincount(known, minlength=dataset.num_classes)
    return [
        {
            "label": label,
            "name": class_name(dataset, label),
            **{split: int(count[label]) for split, count in counts.items()},
        }
        for label in range(dataset.num_classes)
    ]


def _statistics(dataset: Dataset, targets: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Range and mean of targets that are numbers, and how many of them are not scored."""
    rows = []
    for name, array in targets.items():
        if array.dtype.kind != "f":
            continue
        for split, indices in dataset.splits.items():
            row = _range(array[indices])
            rows.append({"target": name, "split": split, **row})
    return rows


def _range(array: np.ndarray) -> dict[str, Any]:
    """Least, mean and largest number, and how many are NaN."""
    missing = np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, bool)
    seen = array[~missing]
    row: dict[str, Any] = {"min": None, "mean": None, "max": None, "missing": int(missing.sum())}
    if seen.size:
        row |= {
            "min": float(seen.min()),
            "mean": float(seen.mean(dtype=np.float64)),
            "max": float(seen.max()),
        }
    return row


def _sample(entry: Entry, dataset: Dataset, index: int) -> dict[str, Any]:
    example = dataset.inputs[np.array([index])][0]
    sample: dict[str, Any] = {"index": index, "target": target_text(dataset, index)}
    if entry.modality == "language" and not isinstance(example, np.ndarray):
        return sample | {"texts": [example]}
    if entry.modality == "language" and example.dtype.kind in "OU":
        return sample | {"texts": example.tolist()}
    sample |= _range(example)
    if entry.modality == "series":
        sample["values"] = [None if np.isnan(value) else float(value) for value in example.ravel()]
    return sample
