"""Sets of the UCR archive: one label and one series a line."""

import math
from typing import Literal

import numpy as np
from etils import epath

from poolax._checks import check_choice
from poolax._dataset import Dataset
from poolax._files import damaged
from poolax._splits import TooFewExamplesError
from poolax.data._damage import RESTORE, damaged_data
from poolax.data._labels import ordered_labels
from poolax.data.series._files import find, read_lines, read_member

UCR_SOURCE = "https://www.cs.ucr.edu/~eamonn/time_series_data_2018/"
UCR_LICENCE = "none found"
SUFFIXES = (".tsv", ".txt", ".ts")
_FEW = 10

Example = tuple[str, list[float], str]
"""Label, series, and where it was read, for messages."""


def read_ucr(
    name: str, directory: epath.PathLike, *, missing: Literal["error", "keep"] = "error"
) -> Dataset:
    r"""A set of the UCR archive, for classification.

    Found as ``NAME/NAME_{TRAIN,TEST}``, without the folder, in a folder ``ucr``, or in ``NAME.zip``;
    ``.tsv`` as in the archive of 2018, ``.txt`` (label first) and ``.ts`` as
    timeseriesclassification.com distributes them.

    The archive has no validation split: a stratified tenth of the training split is cut off. A class
    with fewer than ten training examples gives one, a class with a single example none.

    Args:
        name: Name of the set as the archive has it, such as ``"ECG200"``.
        directory: Folder that holds it.
        missing: ``"error"`` refuses series of several lengths and missing values; ``"keep"`` reads
            missing values as NaN and fills shorter series up with NaN at their end.

    Returns:
        Inputs float32 ``(N, time)``, training examples first; targets ``0, …, k - 1`` in the order of
        the labels, whose names are ``class_names``.

    Raises:
        ValueError: if a file is missing or a line does not fit; the error names file and line.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for part in ("TRAIN", "TEST"):
        ...         lines = "1\t0.5\t2.0\n-1\t1.5\t0.0\n1\t0.25\t2.0\n"
        ...         _ = pathlib.Path(folder, f"Toy_{part}.tsv").write_text(lines)
        ...     data = read_ucr("Toy", folder)
        >>> data.inputs.shape, data.targets, data.class_names
        ((6, 2), array([1, 0, 1, 1, 0, 1], dtype=int32), ('-1', '1'))

    Reference:
        Dau et al., "The UCR Time Series Archive" (IEEE/CAA Journal of Automatica Sinica, 2019).
    """
    check_choice("missing", missing, ("error", "keep"))
    parts = {part: _read_part(name, directory, part) for part in ("TRAIN", "TEST")}
    num_train = len(parts["TRAIN"])
    examples = parts["TRAIN"] + parts["TEST"]
    series = stack_series(examples, missing)
    class_names = ordered_labels(label for label, _, _ in parts["TRAIN"])
    numbers = {label: number for number, label in enumerate(class_names)}
    for label, _, where in parts["TEST"]:
        if label not in numbers:
            known = ", ".join(class_names)
            raise damaged_data(
                where, f"expected a label of the training split ({known}), got {label!r}"
            )
    targets = np.array([numbers[label] for label, _, _ in examples], np.int32)
    validation, note = validation_split(targets[:num_train])
    splits = {
        "train": np.setdiff1d(np.arange(num_train), validation),
        "validation": validation,
        "test": np.arange(num_train, len(examples)),
    }
    notes = (note,)
    if num_missing := int(np.isnan(series).sum()):
        notes += (f"{num_missing} missing values, filling up shorter series counted, read as NaN",)
    return Dataset(
        name=name,
        inputs=series,
        targets=targets,
        splits=splits,
        source=UCR_SOURCE,
        licence=UCR_LICENCE,
        num_classes=len(class_names),
        class_names=class_names,
        notes=notes,
    )


def validation_split(labels: np.ndarray) -> tuple[np.ndarray, str]:
    """Indices of a stratified tenth of training labels ``0, …, k - 1``, and a note that says so."""
    from sklearn.model_selection import train_test_split

    counts = np.bincount(labels)
    if counts.max() < 2:
        raise TooFewExamplesError(
            "validation: expected a class with two training examples to cut from, got none"
        )
    chosen = []
    large = np.flatnonzero(counts[labels] >= _FEW)
    if len(large):
        strata = labels[large]
        size = max(math.ceil(len(large) / 10), len(np.unique(strata)))
        several = strata if len(np.unique(strata)) > 1 else None
        chosen.append(train_test_split(large, test_size=size, stratify=several, random_state=0)[1])
    rng = np.random.default_rng(0)
    small = np.flatnonzero((counts > 1) & (counts < _FEW))
    chosen += [rng.choice(np.flatnonzero(labels == label), 1) for label in small]
    note = "validation: a stratified 10 % of train (train_test_split, random_state=0)"
    if len(small):
        note += f"; one example of each of the {len(small)} classes with fewer than {_FEW}"
    if num_single := int((counts == 1).sum()):
        note += f"; none of the {num_single} classes with a single training example"
    return np.sort(np.concatenate(chosen)), note


def _read_part(name: str, directory: epath.PathLike, part: str) -> list[Example]:
    files = [f"{name}_{part}{suffix}" for suffix in SUFFIXES]
    folders = (f"{name}/", "", f"ucr/{name}/")
    path = find(
        directory, [f"{folder}{file}" for folder in folders for file in files] + [f"{name}.zip"]
    )
    if path.suffix == ".zip":
        member = read_member(path, files)
        if member is None:
            raise damaged_data(path, f"expected one of {', '.join(files)}, got none of them")
        where, lines = f"{path}/{member[0]}", member[1]
    else:
        where, lines = str(path), read_lines(path)
    examples = parse_examples(lines, where)
    if not examples:
        raise damaged_data(where, "expected examples, got none")
    return examples


def parse_examples(lines: list[str], where: str) -> list[Example]:
    """Examples of a file's lines, in the format that the ending of its name tells."""
    is_ts = where.endswith(".ts")
    separator = "\t" if where.endswith(".tsv") else None
    examples, in_data = [], not is_ts
    for number, line in enumerate(lines, 1):
        place = f"{where}, line {number}"
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if not in_data:
            in_data = _reads_data_next(text, place)
        elif is_ts:
            examples.append(_parse_ts(text, place))
        else:
            cells = text.split(separator) if separator else text.replace(",", " ").split()
            examples.append((_label(cells[0], place), _numbers(cells[1:], place), place))
    return examples


def _reads_data_next(text: str, where: str) -> bool:
    """Whether a line of the head of a .ts file is its last; refuses all but one series a line."""
    key, *values = text.lower().split()
    if not key.startswith("@"):
        raise damaged_data(where, f"expected a line that begins with @, got {text[:40]!r}")
    wanted = {"@timestamps": "false", "@univariate": "true", "@classlabel": "true"}
    if key in wanted and values[:1] != [wanted[key]]:
        raise damaged_data(where, f"expected {key} {wanted[key]}, got {text[:40]!r}")
    return key == "@data"


def _parse_ts(text: str, where: str) -> Example:
    fields = text.split(":")
    if len(fields) != 2:
        raise damaged_data(
            where, f"expected one series and a label behind a colon, got {len(fields)} fields"
        )
    return _label(fields[1], where), _numbers(fields[0].split(","), where), where


def _numbers(cells: list[str], where: str) -> list[float]:
    try:
        numbers = [math.nan if cell.strip() in ("?", "") else float(cell) for cell in cells]
    except ValueError as error:
        raise damaged_data(where, f"expected numbers, got: {error}") from None
    if not numbers:
        raise damaged_data(where, "expected a label and a series, got no series")
    return numbers


def _label(text: str, where: str) -> str:
    """A label as the archive means it: ``1``, ``1.0`` and ``1.0000000e+00`` are one."""
    text = text.strip()
    try:
        number = float(text)
    except ValueError:
        number = 0.5  # a name
    if not text or not math.isfinite(number):
        raise damaged_data(where, f"expected a label, got {text!r}")
    return str(int(number)) if number.is_integer() else text


def stack_series(examples: list[Example], missing: str) -> np.ndarray:
    """Series as rows of an array; with ``missing="keep"`` shorter ones end with NaN."""
    length = max(len(numbers) for _, numbers, _ in examples)
    series = np.full((len(examples), length), np.nan, np.float32)
    expected = len(examples[0][1])
    for row, (_, numbers, where) in enumerate(examples):
        if missing == "error" and len(numbers) != expected:
            raise damaged(
                where,
                f"expected {expected} values as in the first series, got {len(numbers)}",
                f"{RESTORE}; missing='keep' fills shorter series up with NaN",
            )
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
            series[row, : len(numbers)] = numbers
        if np.isinf(series[row]).any():
            raise damaged_data(where, "expected finite numbers, got an infinite one")
        if np.isnan(series[row]).all():
            raise damaged_data(where, "expected a series, got nothing but missing values")
        if missing == "error" and np.isnan(series[row]).any():
            raise damaged(
                where,
                "expected numbers, got a missing one",
                f"{RESTORE}; missing='keep' reads it as NaN",
            )
    return series
