"""CUB-200-2011: two hundred species of birds."""

from typing import Any

import numpy as np
from etils import epath

from poolax._dataset import Dataset
from poolax.data._damage import damaged_data
from poolax.data._entry import TFDS, Download, Entry, existing
from poolax.data._splits import HELD_OUT_NOTE, hold_out
from poolax.data.vision._images import GEOMETRY, GEOMETRY_TEXT, IMAGE_SIZE, Fit, ImageFiles
from poolax.data.vision._lists import root_of, rows, whole_number
from poolax.data.vision._tfds import read_labelled

_SOURCE = "https://www.vision.caltech.edu/datasets/cub_200_2011/"
_LICENCE = "none found"


def read_cub200(directory: epath.PathLike, *, size: int = IMAGE_SIZE, fit: Fit = "crop") -> Dataset:
    """CUB-200-2011 as published.

    Args:
        directory: Holds ``CUB_200_2011`` or is it: ``images.txt``, ``image_class_labels.txt``,
            ``train_test_split.txt``, ``classes.txt`` and ``images``.
        size: Pixels a side that images are brought to.
        fit: How, see :func:`fit_image`.

    Returns:
        The data set.
    """
    root = root_of(directory, "images.txt", ("CUB_200_2011", ""))
    names = tuple(name for _, (_, name) in rows(existing(root, "classes.txt"), 2))
    files = {number: file for _, (number, file) in rows(root / "images.txt", 2)}
    labels = _numbers(root, "image_class_labels.txt", files, 1, len(names))
    is_training = _numbers(root, "train_test_split.txt", files, 0, 1)
    targets = np.asarray([labels[number] - 1 for number in files], np.int32)
    training = np.asarray([is_training[number] for number in files], bool)
    splits = {"train": np.flatnonzero(training), "test": np.flatnonzero(~training)}
    inputs = ImageFiles(root / "images", tuple(files.values()), size=size, fit=fit)
    return _dataset(inputs, targets, splits, len(names), names)


def _numbers(root: epath.Path, file: str, files: dict[str, str], low: int, high: int) -> dict[str, int]:
    """The number that a list gives to each image, which has to have one."""
    path = existing(root, file)
    found = {}
    for where, (number, text) in rows(path, 2):
        if number not in files:
            raise damaged_data(where, f"expected the number of an image in images.txt, got {number!r}")
        found[number] = whole_number(where, text, low, high)
    missing = [number for number in files if number not in found]
    if missing:
        raise damaged_data(path, f"expected a line for image {missing[0]}, got none")
    return found


def _read_tfds(builder: Any, *, size: int = IMAGE_SIZE, fit: Fit = "crop") -> Dataset:
    """The same from the prepared TFDS builder."""
    inputs, labels, splits, names = read_labelled(builder, ("train", "test"), size=size, fit=fit)
    num_classes = builder.info.features["label"].num_classes
    return _dataset(inputs, labels, splits, num_classes, names)


def _dataset(
    inputs: Any,
    labels: np.ndarray,
    splits: Any,
    num_classes: int,
    class_names: tuple[str, ...] | None,
) -> Dataset:
    return Dataset(
        name="cub200",
        inputs=inputs,
        targets=labels,
        splits=hold_out(splits, labels),
        source=_SOURCE,
        licence=_LICENCE,
        num_classes=num_classes,
        class_names=class_names,
        notes=(HELD_OUT_NOTE,),
    )


ENTRIES = (
    Entry(
        name="cub200",
        modality="vision",
        task="classification",
        title="Caltech-UCSD Birds 200-2011",
        sizes={"train": 5994, "test": 5794},
        source=_SOURCE,
        citation=(
            "Wah, Branson, Welinder, Perona, Belongie, The Caltech-UCSD Birds-200-2011 Dataset, "
            "California Institute of Technology CNS-TR-2011-001 (2011)"
        ),
        licence=_LICENCE,
        preprocessing=GEOMETRY_TEXT,
        layout=(
            "CUB_200_2011/ with images/, images.txt, image_class_labels.txt, train_test_split.txt, "
            "classes.txt"
        ),
        read=read_cub200,
        options=GEOMETRY,
        tfds=TFDS(name="caltech_birds2011", needs_tensorflow=True, manual=False, read=_read_tfds),
        downloads=(
            Download(
                url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
                sha256="0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
                file="CUB_200_2011.tgz",
            ),
        ),
    ),
)
