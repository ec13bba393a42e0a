"""ImageNet-100: a hundred classes of ImageNet."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from poolax._dataset import Dataset
from poolax.data._entry import TFDS, Entry, MissingFilesError
from poolax.data._splits import HELD_OUT_NOTE, hold_out
from poolax.data.vision._images import GEOMETRY, GEOMETRY_TEXT, IMAGE_SIZE, Fit, ImageFiles
from poolax.data.vision._lists import (
    PUBLISHED_TEST_HAS_NO_LABELS,
    rows,
    splits_of,
)
from poolax.data.vision._tfds import ImageRecords, Records

NUM_CLASSES = 100
_SPLITS = ("train", "val")
_SOURCE = "https://image-net.org/"
_LICENCE = "terms of image-net.org, where one has to register"


def read_imagenet100(
    directory: epath.PathLike,
    *,
    classes: epath.PathLike | None = None,
    size: int = IMAGE_SIZE,
    fit: Fit = "crop",
) -> Dataset:
    """Classes of ImageNet from ``train/SYNSET/*.JPEG`` and ``val/SYNSET/*.JPEG``.

    Args:
        directory: Holds ``train`` and ``val``.
        classes: A file with one synset a line; ``None`` for the first hundred in sorted order.
        size: Pixels a side that images are brought to.
        fit: How, see :func:`fit_image`.

    Returns:
        The data set; labels are positions in the list of classes.
    """
    root = epath.Path(directory)
    for split in _SPLITS:
        if not (root / split).is_dir():
            raise MissingFilesError(
                f"data_dir: expected {split}/SYNSET/*.JPEG in {root}, which has none"
            )
    known = sorted(folder.name for folder in (root / "train").iterdir() if folder.is_dir())
    if not known:
        raise MissingFilesError(
            f"data_dir: expected folders of synsets in {root / 'train'}, which has none"
        )
    chosen, note = _chosen(classes, known, str(root / "train"))
    files, labels, counts = [], [], {}
    for split in _SPLITS:
        before = len(files)
        for label, synset in enumerate(chosen):
            folder = root / split / synset
            names = sorted(file.name for file in folder.glob("*.JPEG"))
            if not names:
                raise MissingFilesError(
                    f"data_dir: expected {synset}/*.JPEG in {root / split}, got none"
                )
            files += [f"{split}/{synset}/{name}" for name in names]
            labels += [label] * len(names)
        counts[split] = len(files) - before
    splits = splits_of({"train": counts["train"], "test": counts["val"]})
    inputs = ImageFiles(root, files, size=size, fit=fit)
    return _dataset(inputs, np.asarray(labels, np.int32), splits, chosen, note)


def _read_tfds(
    builder: Any,
    *,
    classes: epath.PathLike | None = None,
    size: int = IMAGE_SIZE,
    fit: Fit = "crop",
) -> Dataset:
    """The same from the prepared TFDS builder; looks through all records for their labels."""
    records = Records(builder, ("train", "validation"))
    known = builder.info.features["label"].names
    chosen, note = _chosen(classes, sorted(known), builder.info.full_name)
    position = np.full(len(known), -1, np.int32)
    position[[known.index(synset) for synset in chosen]] = np.arange(len(chosen))
    labels = position[records.column("label")]
    kept = np.flatnonzero(labels >= 0)
    num_train = int(np.sum(kept < records.counts["train"]))
    splits = splits_of({"train": num_train, "test": len(kept) - num_train})
    inputs = ImageRecords(records, kept, size=size, fit=fit)
    return _dataset(inputs, labels[kept], splits, chosen, note)


def _dataset(inputs: Any, labels: np.ndarray, splits: Any, chosen: Sequence[str], note: str) -> Dataset:
    return Dataset(
        name="imagenet100",
        inputs=inputs,
        targets=labels,
        splits=hold_out(splits, labels),
        source=_SOURCE,
        licence=_LICENCE,
        num_classes=len(chosen),
        class_names=tuple(chosen),
        notes=(note, HELD_OUT_NOTE, PUBLISHED_TEST_HAS_NO_LABELS),
    )


def _chosen(
    classes: epath.PathLike | None, known: Sequence[str], where: str
) -> tuple[tuple[str, ...], str]:
    """The synsets, and the note that names them."""
    if classes is None:
        if len(known) < NUM_CLASSES:
            raise ValueError(
                f"{where}: expected at least {NUM_CLASSES} synsets, got {len(known)}; name fewer by "
                "the option classes"
            )
        chosen = tuple(known[:NUM_CLASSES])
        return chosen, (
            f"classes: the first {NUM_CLASSES} synsets in sorted order, {chosen[0]} to {chosen[-1]}"
        )
    path = epath.Path(classes)
    if not path.exists():
        raise ValueError(f"classes: expected a file with one synset a line, and {path} does not exist")
    chosen = []
    for line, (synset,) in rows(path, 1):
        if synset not in known:
            raise ValueError(f"{line}: expected a synset of {where}, got {synset!r}")
        if synset in chosen:
            raise ValueError(f"{line}: expected every synset once, got {synset!r} again")
        chosen.append(synset)
    digest = hashlib.sha256("\n".join(chosen).encode()).hexdigest()[:16]
    return tuple(chosen), f"classes: {len(chosen)} synsets of {path.name}, SHA-256 {digest}"


ENTRIES = (
    Entry(
        name="imagenet100",
        modality="vision",
        task="classification",
        title="ImageNet-100: a hundred classes of ILSVRC 2012",
        source=_SOURCE,
        citation=(
            "Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 115(3), 2015"
        ),
        licence=_LICENCE,
        preprocessing=GEOMETRY_TEXT,
        layout="train/SYNSET/*.JPEG and val/SYNSET/*.JPEG",
        read=read_imagenet100,
        options={
            "classes": f"file with one synset a line; by default the first {NUM_CLASSES}, sorted",
            **GEOMETRY,
        },
        tfds=TFDS(name="imagenet2012", needs_tensorflow=True, manual=True, read=_read_tfds),
    ),
)
