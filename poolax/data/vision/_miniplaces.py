"""MiniPlaces: a hundred kinds of scenes."""

import numpy as np
from etils import epath

from poolax._dataset import Dataset
from poolax.data._entry import Entry, existing
from poolax.data._splits import HELD_OUT_NOTE, hold_out
from poolax.data.vision._images import GEOMETRY, GEOMETRY_TEXT, IMAGE_SIZE, Fit, ImageFiles
from poolax.data.vision._lists import (
    PUBLISHED_TEST_HAS_NO_LABELS,
    root_of,
    rows,
    splits_of,
    whole_number,
)

_SOURCE = "https://github.com/CSAILVision/miniplaces"
_LICENCE = "none stated for the images, which come from Places2"


def read_miniplaces(directory: epath.PathLike, *, size: int = IMAGE_SIZE, fit: Fit = "crop") -> Dataset:
    """MiniPlaces as published.

    Args:
        directory: Holds ``images`` of the archive, and ``train.txt``, ``val.txt``, ``categories.txt``
            of the development kit; all of it may stand in ``data``, as in the kit.
        size: Pixels a side that images are brought to.
        fit: How, see :func:`fit_image`.

    Returns:
        The data set.
    """
    root = root_of(directory, "train.txt", ("", "data"))
    names = []
    for where, (name, number) in rows(existing(root, "categories.txt"), 2):
        whole_number(where, number, len(names), len(names))
        names.append(name.strip("/").partition("/")[2] or name)
    files, labels, counts = [], [], {}
    for split in ("train", "val"):
        listed = rows(existing(root, f"{split}.txt"), 2)
        counts[split] = len(listed)
        for where, (file, number) in listed:
            files.append(file)
            labels.append(whole_number(where, number, 0, len(names) - 1))
    targets = np.asarray(labels, np.int32)
    splits = splits_of({"train": counts["train"], "test": counts["val"]})
    return Dataset(
        name="miniplaces",
        inputs=ImageFiles(existing(root, "images"), files, size=size, fit=fit),
        targets=targets,
        splits=hold_out(splits, targets),
        source=_SOURCE,
        licence=_LICENCE,
        num_classes=len(names),
        class_names=tuple(names),
        notes=(HELD_OUT_NOTE, PUBLISHED_TEST_HAS_NO_LABELS),
    )


ENTRIES = (
    Entry(
        name="miniplaces",
        modality="vision",
        task="classification",
        title="MiniPlaces Challenge",
        sizes={"train": 100000, "validation": 10000, "test": 10000},
        source=_SOURCE,
        citation=(
            "Zhou, Lapedriza, Khosla, Oliva, Torralba, Places: A 10 million Image Database for Scene "
            "Recognition, IEEE Transactions on Pattern Analysis and Machine Intelligence (2017)"
        ),
        licence=_LICENCE,
        preprocessing=GEOMETRY_TEXT,
        layout=(
            "images/ of http://miniplaces.csail.mit.edu/data/data.tar.gz, and train.txt, val.txt, "
            "categories.txt of the development kit's data/"
        ),
        read=read_miniplaces,
        holds={"train": ("train", "validation"), "validation": ("test",), "test": ()},
        options=GEOMETRY,
    ),
)
