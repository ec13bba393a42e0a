"""Images and labels of prepared TFDS builders, read without TensorFlow."""

import bisect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from poolax.data._record_files import reading_records
from poolax.data.vision._images import IMAGE_SIZE, Fit, Images
from poolax.data.vision._lists import splits_of


class Records:
    """Splits of a builder one after another, with images left as the bytes of their files.

    Args:
        builder: A prepared builder whose files are array records.
        splits: Names of its splits.

    Attributes:
        builder: The builder.
        counts: Number of examples of each split.
    """

    def __init__(self, builder: Any, splits: Sequence[str]):
        import tensorflow_datasets as tfds

        missing = [split for split in splits if split not in builder.info.splits]
        if missing:
            known = ", ".join(builder.info.splits) or "none"
            raise ValueError(
                f"tfds_dir: expected the split {missing[0]!r} of {builder.info.full_name}, which has "
                f"{known}"
            )
        features = builder.info.features
        decoders = {
            name: tfds.decode.SkipDecoding()
            for name, feature in features.items()
            if isinstance(feature, tfds.features.Image)
        }
        self.builder = builder
        with reading_records(builder.data_dir):
            self._sources = [builder.as_data_source(split=name, decoders=decoders) for name in splits]
        self.counts = {name: len(source) for name, source in zip(splits, self._sources, strict=True)}
        self._ends = np.cumsum(list(self.counts.values())).tolist()

    def __len__(self) -> int:
        """The number of examples."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """One example."""
        split = bisect.bisect_right(self._ends, index)
        start = self._ends[split - 1] if split else 0
        with reading_records(self.builder.data_dir):
            return self._sources[split][index - start]

    def column(self, name: str) -> np.ndarray:
        """A feature of all examples, read once through."""
        return np.asarray([self[index][name] for index in range(len(self))])

    def class_names(self) -> tuple[str, ...] | None:
        """The names of the labels; ``None`` where the builder only numbers them."""
        names = tuple(self.builder.info.features["label"].names)
        return None if names == tuple(map(str, range(len(names)))) else names


class ImageRecords(Images):
    """Images of records, decoded when they are indexed.

    Args:
        records: The records, whose feature ``"image"`` is read.
        kept: Which of them; ``None`` for all.
        size: Pixels a side that images are brought to.
        fit: How, see :func:`poolax.data.vision.fit_image`.
    """

    def __init__(
        self,
        records: Records,
        kept: np.ndarray | None = None,
        *,
        size: int = IMAGE_SIZE,
        fit: Fit = "crop",
    ):
        self._records = records
        self._kept = np.arange(len(records)) if kept is None else kept
        super().__init__(len(self._kept), size=size, fit=fit)

    def encoded(self, index: int) -> bytes:
        """The bytes of an image's file."""
        return self._records[int(self._kept[index])]["image"]

    def name(self, index: int) -> str:
        """The number of an image among the records."""
        return f"{self._records.builder.info.full_name}, record {self._kept[index]}"

    def content(self) -> str:
        """Name, version, sizes of the builder, and which records are kept."""
        info = self._records.builder.info
        sizes = {name: info.splits[name].num_bytes for name in self._records.counts}
        return f"{info.full_name} {sizes} {self._kept.tolist()}"


def read_labelled(builder: Any, splits: Sequence[str], **geometry: Any):
    """Images, labels, indices of the splits and names of the classes of a builder.

    Args:
        builder: A prepared builder with the features ``"image"`` and ``"label"``.
        splits: Names of its splits.
        **geometry: Size and fit, as for :class:`ImageRecords`.

    Returns:
        Images, labels (int32), indices by split, and names or ``None``.
    """
    records = Records(builder, splits)
    labels = records.column("label").astype(np.int32)
    images = ImageRecords(records, **geometry)
    return images, labels, splits_of(records.counts), records.class_names()
