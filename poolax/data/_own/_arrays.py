"""Arrays: in memory, or in a file ``.npz``."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from poolax._arrays import ARRAY_ERRORS, read_arrays
from poolax._checks import check_choice
from poolax._dataset import Dataset
from poolax._splits import SPLITS
from poolax.data._own._assemble import Splitting, labelled, valued
from poolax.data._own._split import ALIASES, splits_of_names

_INPUTS = ("inputs", "x", "images", "image", "series", "texts", "text", "data")
_TARGETS = ("targets", "y", "labels", "label", "target")
_CLASSES = ("class_names", "classes")


def from_arrays(
    inputs: Any,
    targets: Any,
    *,
    mask: Any = None,
    splits: Mapping[str, Any] | Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    validation: float | None = None,
    test: float | None = None,
    seed: int = 0,
    name: str = "arrays",
    source: str = "arrays in memory",
) -> Dataset:
    """A data set from arrays, as scikit-learn takes them.

    Args:
        inputs: Raw inputs, ``N`` of them: texts, images ``(N, height, width, channels)``, series
            ``(N, time)``, or pairs of texts ``(N, 2)``.
        targets: ``N`` labels, words or whole numbers; or numbers to predict, floats ``(N,)`` or
            ``(N, values)``: of pairs, their similarity from 0 to 1.
        mask: True at real steps of ``inputs``; ``None`` if all are.
        splits: Indices of ``"train"``, ``"validation"`` and ``"test"``, or the name of its split for
            each example; ``None`` to cut all of them.
        class_names: What the labels ``0, 1, …`` are called; ``None`` for the labels themselves.
        validation: Share of the training examples that is cut off; ``None`` for a tenth where no such
            split is given.
        test: Likewise; ``None`` for a fifth.
        seed: Seed of what is cut off, which the notes name.
        name: Name of the data set.
        source: Where the arrays come from.

    Returns:
        The data set.

    Raises:
        ValueError: for arrays that do not fit each other, numbers that are not finite, one class alone,
            and labels that no training example has.

    Example:
        >>> texts = ["good", "fine", "bad", "awful"] * 5
        >>> dataset = from_arrays(texts, ["+", "+", "-", "-"] * 5)
        >>> {split: len(indices) for split, indices in dataset.splits.items()}, dataset.class_names
        ({'train': 14, 'validation': 2, 'test': 4}, ('+', '-'))
    """
    inputs = _as_inputs(inputs)
    targets = np.asarray(targets)
    num_examples = len(inputs)
    if targets.ndim == 0 or len(targets) != num_examples:
        got = targets.shape if targets.ndim else "a single value"
        raise ValueError(f"targets: expected {num_examples}, one for each of the inputs, got {got}")
    mask = None if mask is None else np.asarray(mask, bool)

    def place(index: int) -> str:
        return f"{source}, example {index}"

    given = _given(splits, num_examples, place)
    splitting = Splitting(validation, test, seed)
    if targets.dtype.kind == "f":
        if not np.isfinite(targets).all():
            row = int(np.argwhere(~np.isfinite(targets))[0][0])
            raise ValueError(f"{place(row)}: expected finite targets, got {targets[row]}")
        is_pair = inputs.dtype.kind in "OU" and inputs.ndim == 2
        values = targets[:, None] if targets.ndim == 1 and not is_pair else targets
        return valued(name, inputs, values, given, splitting, source=source, mask=mask)
    if targets.ndim != 1 or targets.dtype.kind not in "biuOUS":
        raise ValueError(
            f"targets: expected labels (N,) or floats, got {targets.dtype} of shape {targets.shape}"
        )
    labels, names = _labels(targets, class_names)
    return labelled(
        name,
        inputs,
        labels,
        given,
        splitting,
        place,
        source=source,
        class_names=names,
        mask=mask,
    )


def read_npz(files: Mapping[str, epath.Path], name: str, splitting: Splitting) -> Dataset:
    """A data set from files of arrays.

    Args:
        files: The file of each split that has one. A file holds ``inputs`` and ``targets`` (or ``x``
            and ``y``), and may hold ``mask``, ``split`` (a name for each example) and ``class_names``;
            or ``x_train``, ``y_train``, ``x_test``, ``y_test`` and others of such names. Of several
            files each holds one split.
        name: Name of the data set.
        splitting: How the splits that are not given are cut off.

    Raises:
        ValueError: for a file without these arrays; the error lists those that it holds.
    """
    path = files["train"]
    arrays = _read(path)
    parts = _parts(arrays)
    options: dict[str, Any] = {}
    if len(files) > 1:
        parts = {split: _pair(_read(files[split]), files[split]) for split in SPLITS if split in files}
    if parts:
        inputs, targets = (np.concatenate([part[side] for part in parts.values()]) for side in (0, 1))
        names = [split for split, part in parts.items() for _ in part[0]]
        options["splits"] = names
    else:
        inputs, targets = _pair(arrays, path)
        options["splits"] = arrays["split"].tolist() if "split" in arrays else None
        options["mask"] = arrays.get("mask")
    names_of_classes = next((key for key in _CLASSES if key in arrays), None)
    if names_of_classes is not None:
        options["class_names"] = arrays[names_of_classes].tolist()
    return from_arrays(
        inputs,
        targets,
        **options,
        validation=splitting.validation,
        test=splitting.test,
        seed=splitting.seed,
        name=name,
        source=", ".join(map(str, files.values())),
    )


def _read(path: epath.Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            return {key.lower(): array for key, array in read_arrays(file).items()}
    except ARRAY_ERRORS as error:
        raise ValueError(f"{path}: expected a file of arrays, got: {error}") from None


def _pair(arrays: Mapping[str, np.ndarray], path: epath.Path) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of a file."""
    keys = [next((key for key in keys if key in arrays), None) for keys in (_INPUTS, _TARGETS)]
    if keys[0] is None or keys[1] is None:
        raise ValueError(
            f"{path}: expected arrays 'inputs' and 'targets' (or 'x' and 'y', or 'x_train', "
            f"'y_train', …), got {', '.join(arrays) or 'none'}"
        )
    return arrays[keys[0]], arrays[keys[1]]


def _parts(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Inputs and targets of each split where arrays are named by it."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for key, array in arrays.items():
        side, underscore, split = key.partition("_")
        sides = [number for number, keys in enumerate((_INPUTS, _TARGETS)) if side in keys]
        if underscore and sides and split in ALIASES:
            found.setdefault(ALIASES[split], {})[sides[0]] = array
    whole = {split: (part[0], part[1]) for split, part in found.items() if len(part) == 2}
    return {split: whole[split] for split in SPLITS if split in whole}


def _as_inputs(inputs: Any) -> Any:
    if isinstance(inputs, (list, tuple)):
        is_text = bool(inputs) and all(isinstance(one, str) for one in inputs)
        inputs = np.array(inputs, dtype=object) if is_text else np.asarray(inputs)
    if not hasattr(inputs, "shape") or not len(inputs.shape):
        raise ValueError(f"inputs: expected an array or a list of texts, got {type(inputs).__name__}")
    dtype = getattr(inputs, "dtype", None)
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind == "U":
        return inputs.astype(object)
    if isinstance(inputs, np.ndarray) and dtype is not None and dtype.kind not in "biufO":
        raise ValueError(f"inputs: expected numbers or texts, got {dtype}")
    return inputs


def _given(splits, num_examples, place) -> Mapping[str, np.ndarray]:
    if splits is None:
        return {"train": np.arange(num_examples)}
    if isinstance(splits, Mapping):
        for split in splits:
            check_choice("splits", split, SPLITS)
        return {split: np.asarray(indices) for split, indices in splits.items()}
    if len(splits) != num_examples:
        raise ValueError(f"splits: expected {num_examples} names, got {len(splits)}")
    return splits_of_names(splits, place, "splits")


def _labels(targets, class_names) -> tuple[list[str], tuple[str, ...] | None]:
    """Labels as words, and all of them in order where they are numbers with names."""
    labels = [str(label) for label in targets.tolist()]
    if class_names is None:
        return labels, None
    names = tuple(map(str, class_names))
    if targets.dtype.kind not in "iu":
        unknown = sorted(set(labels) - set(names))
        if unknown:
            raise ValueError(f"class_names: expected all labels among them, got no {unknown[0]!r}")
        return labels, names
    if targets.min() < 0 or targets.max() >= len(names):
        raise ValueError(
            f"class_names: expected one for each label from {targets.min()} to {targets.max()}, got "
            f"{len(names)}"
        )
    return [names[label] for label in targets.tolist()], names
