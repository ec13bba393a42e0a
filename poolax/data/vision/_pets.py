"""Oxford-IIIT Pet: breeds of cats and dogs."""

from typing import Any

import numpy as np
from etils import epath

from poolax._dataset import Dataset
from poolax.data._damage import damaged_data
from poolax.data._entry import TFDS, Download, Entry, existing
from poolax.data._splits import HELD_OUT_NOTE, hold_out
from poolax.data.vision._images import GEOMETRY, GEOMETRY_TEXT, IMAGE_SIZE, Fit, ImageFiles
from poolax.data.vision._lists import rows, splits_of, whole_number
from poolax.data.vision._tfds import read_labelled

_NUM_CLASSES = 37
_SOURCE = "https://www.robots.ox.ac.uk/~vgg/data/pets/"
_LICENCE = "CC BY-SA 4.0; copyright remains with the owners of the images"


def read_pets(directory: epath.PathLike, *, size: int = IMAGE_SIZE, fit: Fit = "crop") -> Dataset:
    """Oxford-IIIT Pet as published.

    Args:
        directory: Holds ``images`` and ``annotations`` with ``trainval.txt`` and ``test.txt``.
        size: Pixels a side that images are brought to.
        fit: How, see :func:`fit_image`.

    Returns:
        The data set; names of classes are those of the files.
    """
    files, labels, counts, names = [], [], {}, {}
    for split, file in (("train", "trainval.txt"), ("test", "test.txt")):
        listed = rows(existing(directory, f"annotations/{file}"), 4)
        counts[split] = len(listed)
        for where, (image, number, _, _) in listed:
            label = whole_number(where, number, 1, _NUM_CLASSES) - 1
            name = image.rpartition("_")[0]
            if names.setdefault(label, name) != name:
                raise damaged_data(
                    where, f"expected class {label + 1} to be {names[label]!r}, got {name!r}"
                )
            files.append(f"{image}.jpg")
            labels.append(label)
    missing = [label + 1 for label in range(_NUM_CLASSES) if label not in names]
    if missing:
        raise damaged_data(directory, f"expected images of class {missing[0]} in annotations, got none")
    inputs = ImageFiles(existing(directory, "images"), files, size=size, fit=fit)
    class_names = tuple(names[label] for label in range(_NUM_CLASSES))
    return _dataset(inputs, np.asarray(labels, np.int32), splits_of(counts), class_names)


def _read_tfds(builder: Any, *, size: int = IMAGE_SIZE, fit: Fit = "crop") -> Dataset:
    """The same from the prepared TFDS builder."""
    return _dataset(*read_labelled(builder, ("train", "test"), size=size, fit=fit))


def _dataset(
    inputs: Any, labels: np.ndarray, splits: Any, class_names: tuple[str, ...] | None
) -> Dataset:
    return Dataset(
        name="pets",
        inputs=inputs,
        targets=labels,
        splits=hold_out(splits, labels),
        source=_SOURCE,
        licence=_LICENCE,
        num_classes=_NUM_CLASSES,
        class_names=class_names,
        notes=(HELD_OUT_NOTE,),
    )


ENTRIES = (
    Entry(
        name="pets",
        modality="vision",
        task="inpainting",
        title="Oxford-IIIT Pet",
        sizes={"train": 3680, "test": 3669},
        source=_SOURCE,
        citation=(
            "Parkhi, Vedaldi, Zisserman, Jawahar, Cats and Dogs, IEEE Conference on Computer Vision "
            "and Pattern Recognition (2012)"
        ),
        licence=_LICENCE,
        preprocessing=GEOMETRY_TEXT,
        layout="images/ and annotations/{trainval,test}.txt",
        read=read_pets,
        options=GEOMETRY,
        tfds=TFDS(name="oxford_iiit_pet", needs_tensorflow=True, manual=False, read=_read_tfds),
        downloads=(
            Download(
                url="https://thor.robots.ox.ac.uk/~vgg/data/pets/images.tar.gz",
                sha256="67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
                file="images.tar.gz",
            ),
            Download(
                url="https://thor.robots.ox.ac.uk/~vgg/data/pets/annotations.tar.gz",
                sha256="52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
                file="annotations.tar.gz",
            ),
        ),
    ),
)
