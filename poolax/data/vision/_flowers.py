"""Oxford Flowers 102."""

from typing import Any

import numpy as np
from etils import epath

from poolax._dataset import Dataset
from poolax._files import reading
from poolax.data._damage import RESTORE, damaged_data
from poolax.data._entry import TFDS, Download, Entry, existing
from poolax.data.vision._images import GEOMETRY, GEOMETRY_TEXT, IMAGE_SIZE, Fit, ImageFiles
from poolax.data.vision._lists import check_labels, splits_of
from poolax.data.vision._matlab import MATLAB_ERRORS, read_vectors
from poolax.data.vision._tfds import read_labelled

_NUM_CLASSES = 102
_SPLITS = {"train": "trnid", "validation": "valid", "test": "tstid"}
_SOURCE = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
_LICENCE = "none found"


def read_flowers102(directory: epath.PathLike, *, size: int = IMAGE_SIZE, fit: Fit = "crop") -> Dataset:
    """Oxford Flowers 102 as published; its files hold no names of classes.

    Args:
        directory: Holds ``jpg``, ``imagelabels.mat`` and ``setid.mat``.
        size: Pixels a side that images are brought to.
        fit: How, see :func:`fit_image`.

    Returns:
        The data set.
    """
    (labels,) = _matlab(existing(directory, "imagelabels.mat"), ("labels",))
    path = existing(directory, "setid.mat")
    numbers = dict(zip(_SPLITS, _matlab(path, tuple(_SPLITS.values())), strict=True))
    for split, listed in numbers.items():
        if listed.size and (listed.min() < 1 or listed.max() > len(labels)):
            raise damaged_data(
                path,
                f"expected images from 1 to {len(labels)} in {_SPLITS[split]}, got "
                f"{listed.min()} to {listed.max()}",
            )
    images = np.concatenate(list(numbers.values()))
    targets = labels[images - 1].astype(np.int32) - 1
    check_labels(str(directory), targets, _NUM_CLASSES)
    files = [f"image_{number:05d}.jpg" for number in images]
    splits = splits_of({split: len(listed) for split, listed in numbers.items()})
    inputs = ImageFiles(existing(directory, "jpg"), files, size=size, fit=fit)
    return _dataset(inputs, targets, splits, None)


def _matlab(path: epath.Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """Vectors of whole numbers of a MATLAB file."""
    expected = f"a MATLAB file with whole numbers {', '.join(names)}"
    with reading(path, expected, RESTORE, *MATLAB_ERRORS):
        vectors = read_vectors(path.read_bytes())
        found = [vectors[name] for name in names]
        if any((vector != np.round(vector)).any() for vector in found):
            raise ValueError("others")
        return [vector.astype(np.int64) for vector in found]


def _read_tfds(builder: Any, *, size: int = IMAGE_SIZE, fit: Fit = "crop") -> Dataset:
    """The same from the prepared TFDS builder, which has names of classes."""
    return _dataset(*read_labelled(builder, tuple(_SPLITS), size=size, fit=fit))


def _dataset(
    inputs: Any, labels: np.ndarray, splits: Any, class_names: tuple[str, ...] | None
) -> Dataset:
    return Dataset(
        name="flowers102",
        inputs=inputs,
        targets=labels,
        splits=splits,
        source=_SOURCE,
        licence=_LICENCE,
        num_classes=_NUM_CLASSES,
        class_names=class_names,
    )


ENTRIES = (
    Entry(
        name="flowers102",
        modality="vision",
        task="inpainting",
        title="Oxford Flowers 102",
        sizes={"train": 1020, "validation": 1020, "test": 6149},
        source=_SOURCE,
        citation=(
            "Nilsback, Zisserman, Automated Flower Classification over a Large Number of Classes, "
            "Indian Conference on Computer Vision, Graphics and Image Processing (2008)"
        ),
        licence=_LICENCE,
        preprocessing=GEOMETRY_TEXT,
        layout="jpg/, imagelabels.mat, setid.mat",
        read=read_flowers102,
        options=GEOMETRY,
        tfds=TFDS(name="oxford_flowers102", needs_tensorflow=True, manual=False, read=_read_tfds),
        downloads=(
            Download(
                url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz",
                sha256="2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
                file="102flowers.tgz",
            ),
            Download(
                url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/imagelabels.mat",
                sha256="4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
                file="imagelabels.mat",
            ),
            Download(
                url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/setid.mat",
                sha256="46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd",
                file="setid.mat",
            ),
        ),
    ),
)
