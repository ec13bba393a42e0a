"""Data sets of the library ``datasets`` of Hugging Face, in memory or written by ``save_to_disk``."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from etils import epath

from poolax.data._encoded import Fit
from poolax.data._own._split import ALIASES
from poolax.data._own._table import Table
from poolax.data.vision._images import Images

_MARKS = ("dataset_dict.json", "state.json")


@dataclasses.dataclass(frozen=True)
class Parts:
    """The splits of such a data set.

    Attributes:
        tables: Rows of each split, without images.
        images: The images of each split, in their files; ``None`` for data without any.
        class_names: Names of the classes by the name of the column that holds them.
    """

    tables: Mapping[str, Table]
    images: Mapping[str, Any] | None
    class_names: Mapping[str, tuple[str, ...]]


def is_huggingface(given: Any) -> bool:
    """Whether an object is a data set of that library."""
    return type(given).__module__.split(".")[0] == "datasets"


def is_saved(folder: epath.Path) -> bool:
    """Whether ``save_to_disk`` wrote a folder."""
    return any((folder / mark).exists() for mark in _MARKS)


def load_saved(folder: epath.Path) -> Any:
    """The data set that ``save_to_disk`` wrote.

    Raises:
        ValueError: without the library.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"{folder}: expected the library datasets, which wrote it (pip install datasets), got none"
        ) from None
    return datasets.load_from_disk(str(folder))


def parts_of(given: Any, source: str) -> Parts:
    """The splits of a data set or of a dictionary of them.

    Args:
        given: ``Dataset`` or ``DatasetDict``.
        source: Where it comes from, for messages.

    Raises:
        ValueError: for streams, and dictionaries without a training split.
    """
    splits = dict(given) if isinstance(given, Mapping) else {"train": given}
    named = {ALIASES[name.lower()]: split for name, split in splits.items() if name.lower() in ALIASES}
    if "train" not in named:
        raise ValueError(f"{source}: expected a split 'train', got {', '.join(splits) or 'none'}")
    for split in named.values():
        if not hasattr(split, "num_rows"):
            raise ValueError(f"{source}: expected a data set in memory, got a {type(split).__name__}")
    features = named["train"].features
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    class_names = {
        name: tuple(features[name].names) for name, kind in kinds.items() if kind == "ClassLabel"
    }
    image_columns = [name for name, kind in kinds.items() if kind == "Image"]
    tables = {
        split: Table(
            {
                name: _named(data.with_format(None)[name], class_names.get(name))
                for name in kinds
                if name not in image_columns
            },
            f"{source}, {split}",
            range(data.num_rows),
            "row",
        )
        for split, data in named.items()
    }
    images = None
    if image_columns:
        import datasets

        column, kept = image_columns[0], datasets.Image(decode=False)
        images = {split: data.cast_column(column, kept)[column] for split, data in named.items()}
    return Parts(tables, images, class_names)


def _named(values: Any, names: tuple[str, ...] | None) -> list[Any]:
    """Labels as words; a number that stands for none is left as it is not one."""
    if names is None:
        return list(values)
    return [None if value is None or value < 0 else names[value] for value in values]


class RowImages(Images):
    """Images in the rows of such a data set.

    Args:
        rows: The file of each image: its bytes, or its path.
        source: Where they come from, for messages.
        size: Pixels a side that images are brought to.
        fit: How, ``"crop"`` or ``"pad"``.
    """

    def __init__(self, rows: Any, source: str, *, size: int, fit: Fit):
        super().__init__(len(rows), size=size, fit=fit)
        self._rows, self._source = rows, source

    def encoded(self, index: int) -> bytes:
        """The bytes of an image's file."""
        row = self._rows[index]
        return row["bytes"] if row["bytes"] is not None else epath.Path(row["path"]).read_bytes()

    def name(self, index: int) -> str:
        """Where an image stands."""
        return f"{self._source}, row {index}"

    def content(self) -> str:
        """SHA-256 of all files."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            file = self.encoded(index)
            digest.update(f"{len(file)} ".encode() + file)
        return digest.hexdigest()
