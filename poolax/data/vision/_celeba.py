"""CelebA: faces, for inpainting."""

from typing import Any

import numpy as np
from etils import epath

from poolax._dataset import Dataset
from poolax.data._entry import TFDS, Entry, existing
from poolax.data.vision._images import GEOMETRY, GEOMETRY_TEXT, IMAGE_SIZE, Fit, ImageFiles
from poolax.data.vision._lists import rows, splits_of, whole_number
from poolax.data.vision._tfds import ImageRecords, Records

_SPLITS = ("train", "validation", "test")  # In the order of the partition's numbers.
_SOURCE = "http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
_LICENCE = "non-commercial research purposes only"


def read_celeba(directory: epath.PathLike, *, size: int = IMAGE_SIZE, fit: Fit = "crop") -> Dataset:
    """CelebA as published, aligned and cropped.

    Args:
        directory: Holds ``img_align_celeba`` and ``list_eval_partition.txt``.
        size: Pixels a side that images are brought to.
        fit: How, see :func:`fit_image`.

    Returns:
        The data set without targets, which :func:`inpainting` makes of its images.
    """
    path = existing(directory, "list_eval_partition.txt")
    files, numbers = [], []
    for where, (file, number) in rows(path, 2):
        files.append(file)
        numbers.append(whole_number(where, number, 0, len(_SPLITS) - 1))
    partition = np.asarray(numbers)
    splits = {split: np.flatnonzero(partition == number) for number, split in enumerate(_SPLITS)}
    inputs = ImageFiles(existing(directory, "img_align_celeba"), files, size=size, fit=fit)
    return _dataset(inputs, splits)


def _read_tfds(builder: Any, *, size: int = IMAGE_SIZE, fit: Fit = "crop") -> Dataset:
    """The same from the prepared TFDS builder."""
    records = Records(builder, _SPLITS)
    return _dataset(ImageRecords(records, size=size, fit=fit), splits_of(records.counts))


def _dataset(inputs: Any, splits: Any) -> Dataset:
    return Dataset(
        name="celeba",
        inputs=inputs,
        targets={},
        splits=splits,
        source=_SOURCE,
        licence=_LICENCE,
    )


ENTRIES = (
    Entry(
        name="celeba",
        modality="vision",
        task="inpainting",
        title="CelebFaces Attributes (CelebA), aligned and cropped",
        sizes={"train": 162770, "validation": 19867, "test": 19962},
        source=_SOURCE,
        citation="Liu, Luo, Wang, Tang, Deep Learning Face Attributes in the Wild, ICCV 2015",
        licence=_LICENCE,
        preprocessing=GEOMETRY_TEXT,
        layout="img_align_celeba/ and list_eval_partition.txt",
        read=read_celeba,
        options=GEOMETRY,
        tfds=TFDS(name="celeb_a", needs_tensorflow=True, manual=False, read=_read_tfds),
    ),
)
