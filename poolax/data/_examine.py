"""What is to be known of a data set before anything is trained on it."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from poolax._dataset import Dataset
from poolax._inputs import all_digests, dtype_of
from poolax._splits import count_contradictions, count_duplicates

# A class of a tenth of the largest one's size is one that accuracy hardly sees.
_IMBALANCE = 10
_FEW = 50


@dataclasses.dataclass(frozen=True)
class Examination:
    """What was found in a data set.

    Attributes:
        sizes: Examples of each split.
        class_counts: Examples of each class in the training split, by its name; empty without classes.
        duplicates: Copies between splits, see :meth:`Dataset.count_duplicates`.
        contradictions: Examples whose inputs stand under another label, too, in the same split
            (``"train"``) or in another (``"test in train"``); empty without classes.
        empty: Texts without a character but blanks, and inputs all of whose numbers are missing, by
            split.
        warnings: What to look at first, a line each.
    """

    sizes: Mapping[str, int]
    class_counts: Mapping[str, int]
    duplicates: Mapping[str, int]
    contradictions: Mapping[str, int]
    empty: Mapping[str, int]
    warnings: tuple[str, ...]


def examine(dataset: Dataset) -> Examination:
    """Count what makes scores mean less than they seem to.

    Args:
        dataset: Any data set.

    Returns:
        Counts, and warnings: of classes of which the largest has ten times the examples of the
        smallest, of examples that stand in two splits or under two labels, of empty texts, and of
        splits below 50 examples.

    Example:
        >>> texts = np.array(["a", "b", "", "a"], dtype=object)
        >>> splits = {"train": np.array([0, 1]), "validation": np.array([2]), "test": np.array([3])}
        >>> found = examine(Dataset("d", texts, np.arange(4), splits, "made up", "none"))
        >>> found.duplicates["test in train"], found.empty["validation"], found.warnings[0]
        (1, 1, '1 of 1 test examples stands in train, too')
    """
    sizes = {split: len(indices) for split, indices in dataset.splits.items()}
    class_counts = _class_counts(dataset)
    splits = {split: np.asarray(indices) for split, indices in dataset.splits.items()}
    digests = {
        split: list(all_digests(dataset.inputs, part, dataset.mask)) for split, part in splits.items()
    }
    duplicates = count_duplicates(digests)
    contradictions: dict[str, int] = {}
    labels = _labels(dataset)
    if labels is not None:
        own = {split: labels[part] for split, part in splits.items()}
        contradictions = count_contradictions(digests, own)
    empty = _empty(dataset)
    warnings = []
    for pair, count in duplicates.items():
        if count:
            split, other = pair.split(" in ")
            stand = "stands" if count == 1 else "stand"
            warnings.append(f"{count} of {sizes[split]} {split} examples {stand} in {other}, too")
    for where, count in contradictions.items():
        if count:
            split, _, other = where.partition(" in ")
            stand = "stands" if count == 1 else "stand"
            warnings.append(
                f"{count} of {sizes[split]} {split} examples {stand} in {other or split} under another "
                f"label{'' if other else ', too'}"
            )
    for split, count in empty.items():
        if count:
            what = "texts" if _are_texts(dataset) else "inputs"
            warnings.append(f"{count} of {sizes[split]} {split} {what} {_are(count)} empty")
    if class_counts:
        few, many = min(class_counts, key=class_counts.__getitem__), max(class_counts.values())
        if many >= _IMBALANCE * class_counts[few]:
            warnings.append(
                f"classes are uneven: {class_counts[few]} training examples of {few!r}, {many} of the "
                "largest class; look at balanced accuracy and macro F1"
            )
    warnings += [
        f"{split} has {size} examples alone: scores on it say little"
        for split, size in sizes.items()
        if split != "train" and size < _FEW
    ]
    return Examination(sizes, class_counts, duplicates, contradictions, empty, tuple(warnings))


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _labels(dataset: Dataset) -> np.ndarray | None:
    """The class of each example; ``None`` where they have none."""
    targets = dataset.targets
    if dataset.num_classes is None or isinstance(targets, Mapping) or targets.ndim != 1:
        return None
    return targets


def _class_counts(dataset: Dataset) -> dict[str, int]:
    labels = _labels(dataset)
    if labels is None or dataset.num_classes is None:
        return {}
    counts = np.bincount(labels[dataset.splits["train"]], minlength=dataset.num_classes)
    names = dataset.class_names or tuple(map(str, range(dataset.num_classes)))
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def _empty(dataset: Dataset) -> dict[str, int]:
    inputs = dataset.inputs
    if _are_texts(dataset):
        return {
            split: sum(not text.strip() for text in np.ravel(inputs[indices]))
            for split, indices in dataset.splits.items()
        }
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind == "f":
        rows = inputs.reshape(len(inputs), -1)
        return {
            split: int(np.isnan(rows[indices]).all(axis=1).sum())
            for split, indices in dataset.splits.items()
        }
    return {}


def _are_texts(dataset: Dataset) -> bool:
    dtype = dtype_of(dataset.inputs)
    return dtype is not None and dtype.kind in "OU"
