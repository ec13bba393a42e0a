"""Inputs of a backbone: from the command line, from files, or what comes with its libraries."""

import csv
import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from poolax import data
from poolax._arrays import ARRAY_ERRORS, read_arrays
from poolax._files import damaged, reading
from poolax.backbones import Backbone, ImageGeometry

_REMEDY = "restore the file, or name another"
# What a backbone of each modality reads.
_NAMES = {"language": "texts", "vision": "images", "series": "series"}
_IMAGES = (".png", ".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Raw inputs.

    Attributes:
        raw: Texts, or an array with the inputs on its first axis.
        source: Where they come from, for people and records.
    """

    raw: Any
    source: str


def read_inputs(
    backbone: Backbone, texts: Sequence[str], path: str | None, num_inputs: int | None
) -> Inputs:
    """The first inputs that were given, or else ones that need no file.

    Args:
        backbone: Says whether texts, series or images are wanted.
        texts: Texts of the command line.
        path: File or folder; ``None`` if there is none.
        num_inputs: Most inputs to take of those given, or how many; ``None`` for all that were given.

    Returns:
        The inputs.

    Raises:
        ValueError: for inputs that cannot be read or are not what the backbone takes.
    """
    wanted = _NAMES[backbone.modality]
    if texts and path is not None:
        raise ValueError("inputs: expected no file beside --text, got both")
    if texts and wanted != "texts":
        raise ValueError(f"text: expected none for {type(backbone).__name__}, which takes {wanted}")
    if texts:
        return Inputs(list(texts[:num_inputs]), "the given texts")
    if path is None:
        return _DEFAULTS[wanted](backbone, num_inputs)
    raw = _READERS[wanted](pathlib.Path(path).expanduser(), backbone)
    if len(raw) == 0:
        raise damaged(path, "expected at least one input, got none", _REMEDY)
    return Inputs(raw[:num_inputs], path)


def read_array(path: pathlib.Path | str) -> np.ndarray:
    """The array in a .npy file, or the first of a .npz file; nothing pickled."""
    path = _existing(path, "an array")
    with reading(path, "an array", _REMEDY, *ARRAY_ERRORS), path.open("rb") as file:
        return list(read_arrays(file).values())[0]  # noqa: RUF015  an empty file is damage


def _existing(path, expected):
    path = pathlib.Path(path)
    if not path.exists():
        raise ValueError(f"inputs: expected {expected} in {path}, where there is nothing")
    return path


def _read_texts(path, backbone):
    if path.suffix in (".npy", ".npz"):
        raise ValueError(f"inputs: expected a text file with one text a line, got {path}")
    _existing(path, "texts")
    with reading(path, "text in UTF-8", _REMEDY, ValueError):
        lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip()]


def _read_images(path, backbone):
    if path.suffix in (".npy", ".npz"):
        return read_array(path)
    from poolax._images import decode_image

    files = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in files if file.suffix.lower() in _IMAGES]
    if not files:
        raise ValueError(f"inputs: expected .npy, .npz, or images ({', '.join(_IMAGES)}), got {path}")
    size, channels = backbone.config.image_size, backbone.config.num_channels
    if channels not in (1, 3):
        raise ValueError(f"inputs: expected .npy or .npz for {channels} channels")
    images = [
        decode_image(_existing(file, "an image").read_bytes(), str(file), _REMEDY) for file in files
    ]
    # As the checkpoint's processor does it, or cut to a square of the size that positions are of.
    geometry = getattr(backbone.preprocess, "geometry", None)
    if geometry is None:
        fitted = ImageGeometry()(images, size=(size, size), channels=channels)
    else:
        fitted = geometry(images, channels=channels)
    return fitted.astype(np.float32)


def _read_series(path, backbone):
    if path.suffix in (".npy", ".npz"):
        return read_array(path)
    readers = {".tsv": _rows_behind_a_label, ".csv": _columns_of_numbers}
    if path.suffix not in readers:
        raise ValueError(f"inputs: expected .npy, .npz, .csv or .tsv, got {path}")
    _existing(path, "series")
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with reading(path, "series", _REMEDY, ValueError, csv.Error):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file, delimiter=delimiter))
        return readers[path.suffix](rows)


def _rows_behind_a_label(rows):
    """The layout of the UCR archive: one series a row, its class in front."""
    return np.array([row[1:] for row in rows if row], np.float32)


def _columns_of_numbers(rows):
    """One series a column, below a line of names; columns of anything but numbers are left out."""
    columns = []
    for line, row in enumerate(rows, 1):
        if row and len(row) != len(rows[0]):
            raise ValueError(f"{len(row)} fields in line {line}, {len(rows[0])} in line 1")
    for number, column in enumerate(zip(*filter(None, rows[1:]), strict=True), 1):
        values = [_number(entry) for entry in column]
        odd = [line for line, value in enumerate(values, 2) if value is None]
        if not odd:
            columns.append(values)
        elif len(odd) < len(values) / 2:
            raise ValueError(
                f"{column[odd[0] - 2]!r} among the numbers of column {number}, line {odd[0]}"
            )
    return np.array(columns, np.float32)


def _number(entry):
    """A number, NaN where nothing stands, ``None`` for anything else."""
    try:
        return float(entry) if entry else np.nan
    except ValueError:
        return None


def _default_texts(backbone, num_inputs):
    if backbone.preprocess is None:
        raise ValueError("checkpoint: expected a tokenizer beside the weights, got none")
    return Inputs(data.sentences(num_inputs), "sentences of Python's documentation")


def _default_images(backbone, num_inputs):
    size, channels = backbone.config.image_size, backbone.config.num_channels
    geometry = getattr(backbone.preprocess, "geometry", None)
    if geometry is not None and geometry.crop is not None:
        size = min(geometry.crop)
    if (size, channels) == (8, 1):
        digits = data.digits()
        return Inputs(
            digits.inputs[digits.splits["test"][:num_inputs]], "scikit-learn's digits, test part"
        )
    if channels != 3:
        raise ValueError(f"inputs: expected a file of images with {channels} channels, got none")
    from sklearn.datasets import load_sample_images

    photos = load_sample_images().images
    rng = np.random.default_rng(0)
    crops = []
    for index in range(num_inputs):
        photo = photos[index % len(photos)]
        if min(photo.shape[:2]) < size:
            raise ValueError(f"inputs: expected a file of images for {size} pixels, got none")
        top, left = (rng.integers(side - size + 1) for side in photo.shape[:2])
        crops.append(photo[top : top + size, left : left + size].astype(np.float32))
    return Inputs(np.stack(crops), "crops of scikit-learn's two photographs")


def _default_series(backbone, num_inputs):
    steps = np.random.default_rng(0).normal(size=(num_inputs, backbone.config.num_steps))
    return Inputs(np.cumsum(steps, axis=1, dtype=np.float32), "random walks")


_READERS: dict[str, Callable[..., Any]] = {
    "texts": _read_texts,
    "images": _read_images,
    "series": _read_series,
}
_DEFAULTS: dict[str, Callable[..., Inputs]] = {
    "texts": _default_texts,
    "images": _default_images,
    "series": _default_series,
}
