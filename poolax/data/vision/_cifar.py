"""CIFAR-10 and CIFAR-100."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from poolax._arrays import ARRAY_ERRORS, read_arrays
from poolax._dataset import Dataset
from poolax._files import reading
from poolax.data._damage import RESTORE, damaged_data
from poolax.data._entry import TFDS, Download, Entry, MissingFilesError, existing
from poolax.data._splits import HELD_OUT_NOTE, hold_out
from poolax.data.vision._images import ImageArrays
from poolax.data.vision._lists import check_labels, splits_of
from poolax.data.vision._tfds import read_labelled

_SIDE = 32
_SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_LICENCE = "none found"


class _Layout(NamedTuple):
    """The published binary version: its folder, its files, and which label byte counts."""

    name: str
    num_classes: int
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    class_names: str
    num_label_bytes: int
    pickles: tuple[str, ...]


_CIFAR10 = _Layout(
    name="cifar10",
    num_classes=10,
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test=("test_batch.bin",),
    class_names="batches.meta.txt",
    num_label_bytes=1,
    pickles=("cifar-10-batches-py", "data_batch_1"),
)
_CIFAR100 = _Layout(
    name="cifar100",
    num_classes=100,
    folder="cifar-100-binary",
    train=("train.bin",),
    test=("test.bin",),
    class_names="fine_label_names.txt",
    num_label_bytes=2,  # The coarse label comes first, the fine one last.
    pickles=("cifar-100-python", "train"),
)


def _read(layout: _Layout, directory: epath.PathLike, *, size: int = _SIDE) -> Dataset:
    """CIFAR from ``train.npz`` and ``test.npz`` or from the published binary version."""
    root = epath.Path(directory)
    if (root / "train.npz").exists():
        parts, names = _from_npz(layout, root)
    else:
        parts, names = _from_binary(layout, _binary_root(layout, root))
    (train_images, train_labels), (test_images, test_labels) = parts
    images = np.concatenate([train_images, test_images])
    splits = splits_of({"train": len(train_labels), "test": len(test_labels)})
    inputs = images if size == _SIDE else ImageArrays(images, size=size)
    return _dataset(layout, inputs, np.concatenate([train_labels, test_labels]), splits, names)


def _read_tfds(layout: _Layout, builder: Any, *, size: int = _SIDE) -> Dataset:
    """CIFAR from the prepared TFDS builder."""
    return _dataset(layout, *read_labelled(builder, ("train", "test"), size=size))


def _dataset(
    layout: _Layout, inputs: Any, labels: np.ndarray, splits: Any, class_names: Sequence[str] | None
) -> Dataset:
    notes = [HELD_OUT_NOTE]
    for split, published in _SIZES.items():
        if len(splits[split]) != published:
            notes.append(f"{len(splits[split])} of the {published} published {split} images")
    return Dataset(
        name=layout.name,
        inputs=inputs,
        targets=labels,
        splits=hold_out(splits, labels),
        source=_SOURCE,
        licence=_LICENCE,
        num_classes=layout.num_classes,
        class_names=None if class_names is None else tuple(class_names),
        notes=tuple(notes),
    )


def _from_npz(layout: _Layout, root: epath.Path):
    parts, names = [], []
    for split in ("train", "test"):
        path = existing(root, f"{split}.npz")
        with (
            reading(path, "arrays image, label, classes", RESTORE, *ARRAY_ERRORS),
            path.open("rb") as file,
        ):
            arrays = read_arrays(file)
            image, label, classes = (arrays[key] for key in ("image", "label", "classes"))
        if image.shape[1:] != (_SIDE, _SIDE, 3) or image.dtype != np.uint8:
            raise damaged_data(
                path, f"expected image (N, {_SIDE}, {_SIDE}, 3) uint8, got {image.shape} {image.dtype}"
            )
        if label.shape != image.shape[:1] or len(classes) != layout.num_classes:
            raise damaged_data(
                path,
                f"expected label ({len(image)},) and classes ({layout.num_classes},), got "
                f"{label.shape} and {classes.shape}",
            )
        labels = label.astype(np.int32)
        check_labels(str(path), labels, layout.num_classes)
        parts.append((image, labels))
        names.append(classes.tolist())
    if names[0] != names[1]:
        raise damaged_data(root, "expected the same classes in train.npz and test.npz")
    return parts, names[0]


def _binary_root(layout: _Layout, root: epath.Path) -> epath.Path:
    for folder in (root / layout.folder, root):
        if (folder / layout.train[0]).exists():
            return folder
    if any((root / pickle).exists() for pickle in layout.pickles):
        raise MissingFilesError(
            f"data_dir: expected the binary version ({layout.folder}) in {root}, got the Python "
            f"version, whose pickles are not opened; take the binary version from {_SOURCE}"
        )
    raise MissingFilesError(
        f"data_dir: expected train.npz or {layout.folder}/{layout.train[0]} in {root}, which has none"
    )


def _from_binary(layout: _Layout, root: epath.Path):
    names = existing(root, layout.class_names).read_text().split()
    if len(names) != layout.num_classes:
        raise damaged_data(
            root / layout.class_names, f"expected {layout.num_classes} names, got {len(names)}"
        )
    num_bytes = layout.num_label_bytes + 3 * _SIDE * _SIDE
    parts = []
    for files in (layout.train, layout.test):
        images, labels = [], []
        for file in files:
            path = existing(root, file)
            content = np.frombuffer(path.read_bytes(), np.uint8)
            if content.size == 0 or content.size % num_bytes:
                raise damaged_data(
                    path, f"expected a multiple of {num_bytes} bytes, got {content.size}"
                )
            records = content.reshape(-1, num_bytes)
            label = records[:, layout.num_label_bytes - 1].astype(np.int32)
            check_labels(str(path), label, layout.num_classes)
            labels.append(label)
            pixels = records[:, layout.num_label_bytes :].reshape(-1, 3, _SIDE, _SIDE)
            images.append(pixels.transpose(0, 2, 3, 1))  # Channels come first in the file.
        parts.append((np.concatenate(images), np.concatenate(labels)))
    return parts, names


_SIZES = {"train": 50000, "test": 10000}


def _entry(layout: _Layout, title: str, download: Download) -> Entry:
    read: Callable[..., Dataset] = functools.partial(_read, layout)
    return Entry(
        name=layout.name,
        modality="vision",
        task="classification",
        title=title,
        sizes=_SIZES,
        source=_SOURCE,
        citation="Krizhevsky, Learning multiple layers of features from tiny images (2009)",
        licence=_LICENCE,
        preprocessing=f"none: {_SIDE} by {_SIDE} pixels, RGB; bicubic where another size is asked for",
        layout=(
            f"train.npz and test.npz (image, label, classes), or {layout.folder}/ with "
            f"{', '.join((*layout.train, *layout.test, layout.class_names))}"
        ),
        read=read,
        own_layouts=("train.npz",),
        options={"size": f"pixels a side that images are brought to, their own {_SIDE} by default"},
        tfds=TFDS(
            name=layout.name,
            needs_tensorflow=True,
            manual=False,
            read=functools.partial(_read_tfds, layout),
        ),
        downloads=(download,),
    )


ENTRIES = (
    _entry(
        _CIFAR10,
        "CIFAR-10",
        Download(
            url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            file="cifar-10-binary.tar.gz",
        ),
    ),
    _entry(
        _CIFAR100,
        "CIFAR-100",
        Download(
            url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            file="cifar-100-binary.tar.gz",
        ),
    ),
)
