"""Data sets as array records in the layout of TensorFlow Datasets, without TensorFlow."""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from poolax._dataset import Dataset
from poolax._progress import Progress, no_progress
from poolax.data._encoded import EncodedImages
from poolax.data._entry import Entry
from poolax.data._record_files import write_checksums
from poolax.records import python_numbers

FILE_FORMAT = "array_record"
VERSION = "1.0.0"
REST = "rest"
CHUNK = 256


def prepared_directory(
    entry: Entry, tfds_dir: epath.PathLike, options: Mapping[str, Any]
) -> epath.Path:
    """Where a data set lies once prepared: one folder for each choice of options.

    Data sets that are stored by what they are derived from have one folder for all options.
    """
    name = f"poolax_{entry.name}"
    return epath.Path(tfds_dir) / name / _config(entry, options) / VERSION


def write_prepared(
    entry: Entry,
    dataset: Dataset,
    tfds_dir: epath.PathLike,
    options: Mapping[str, Any],
    attributes: Mapping[str, Any],
    progress: Progress = no_progress,
) -> epath.Path:
    """Write a data set as array records.

    Args:
        entry: What is known of it.
        dataset: The data set, or what it is derived from.
        tfds_dir: Where to write; what is below it is not complete before the function returns.
        options: Options of the entry with which it was read.
        attributes: What is to be kept beside it, as plain JSON.
        progress: Called with the split, the examples done and their number.

    Returns:
        The folder of the records.
    """
    import tensorflow_datasets as tfds

    config = tfds.core.BuilderConfig(name=_config(entry, options), version=VERSION)
    metadata = _describe(dataset, entry, options, attributes)
    builder = _builder_class(entry, config)(
        dataset,
        metadata,
        progress,
        data_dir=tfds_dir,
        config=config.name,
        file_format=FILE_FORMAT,
    )
    with quiet_tfds():
        builder.download_and_prepare()
    write_checksums(builder.data_dir)
    return epath.Path(builder.data_dir)


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Keep TensorFlow Datasets from writing on standard output, which belongs to records."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _config(entry: Entry, options: Mapping[str, Any]) -> str:
    options = {name: value for name, value in options.items() if (name, value) != ("partial", False)}
    if entry.stored is not None:
        return "partial" if options.get("partial") else "default"
    if not options:
        return "default"
    values = {name: _option_key(value) for name, value in sorted(options.items())}
    return f"options_{hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]}"


def _option_key(value: Any) -> str:
    """What tells values of an option apart: of a file its content."""
    if isinstance(value, (str, os.PathLike)) and epath.Path(value).is_file():
        return hashlib.sha256(epath.Path(value).read_bytes()).hexdigest()
    return repr(python_numbers(value))


def _describe(
    dataset: Dataset, entry: Entry, options: Mapping[str, Any], attributes: Mapping[str, Any]
) -> dict[str, Any]:
    """What stands beside the records, as plain JSON."""
    images = _image_files(dataset)
    return {
        "name": dataset.name,
        "task": entry.task,
        "preprocessing": entry.preprocessing,
        "options": {} if entry.stored else {name: str(value) for name, value in options.items()},
        "num_examples": len(dataset.inputs),
        "splits": list(dataset.splits),
        "source": dataset.source,
        "licence": dataset.licence,
        "num_classes": dataset.num_classes,
        "class_names": None if dataset.class_names is None else list(dataset.class_names),
        "notes": list(dataset.notes),
        "images": None if images is None else {"size": images.shape[1], "fit": images.fit},
        "dtypes": {name: column.dtype.str for name, column in _columns(dataset).items()},
        "attributes": dict(attributes),
    }


def _image_files(dataset: Dataset) -> EncodedImages | None:
    """Images that are kept as the files that they stand in; ``None`` for other inputs."""
    return dataset.inputs if isinstance(dataset.inputs, EncodedImages) else None


@dataclasses.dataclass(frozen=True)
class _Column:
    """Type and shape of what an example has under a name."""

    dtype: np.dtype
    shape: tuple[int, ...]


def _columns(dataset: Dataset) -> dict[str, _Column]:
    """The arrays of a data set by name, those of a mapping of targets as ``"targets/NAME"``."""
    first = dataset.inputs[:1]
    columns = {"inputs": _Column(np.asarray(first).dtype, tuple(dataset.inputs.shape[1:]))}
    named: dict[str, Any] = {"targets": dataset.targets}
    if isinstance(dataset.targets, Mapping):
        named = {f"targets/{name}": array for name, array in dataset.targets.items()}
    if dataset.mask is not None:
        named["mask"] = dataset.mask
    return columns | {name: _Column(array.dtype, array.shape[1:]) for name, array in named.items()}


def _features(dataset: Dataset) -> Any:
    import tensorflow_datasets as tfds

    features: dict[str, Any] = {"index": np.int64}
    for name, column in _columns(dataset).items():
        if name == "inputs" and _image_files(dataset) is not None:
            features["image"] = tfds.features.Image()
        elif column.dtype.kind in "OU":
            features[name] = _text_feature(name, column)
        elif name == "targets" and _are_labels(dataset):
            features[name] = _label_feature(dataset)
        else:
            # Raw bytes keep every bit, which lists of numbers in records do not.
            features[name] = tfds.features.Tensor(
                shape=column.shape, dtype=column.dtype, encoding="bytes"
            )
    return tfds.features.FeaturesDict(_nested(features))


def _text_feature(name: str, column: _Column) -> Any:
    import tensorflow_datasets as tfds

    if len(column.shape) > 1:
        raise ValueError(f"{name}: expected texts (N,) or (N, parts), got (N, *{column.shape})")
    text = tfds.features.Text()
    return tfds.features.Sequence(text, length=column.shape[0]) if column.shape else text


def _are_labels(dataset: Dataset) -> bool:
    targets = dataset.targets
    if not isinstance(targets, np.ndarray) or targets.ndim != 1 or dataset.num_classes is None:
        return False
    known = (targets >= 0) & (targets < dataset.num_classes)
    return targets.dtype.kind in "iu" and bool(known.all())


def _label_feature(dataset: Dataset) -> Any:
    import tensorflow_datasets as tfds

    names = dataset.class_names
    if names is None or len(set(names)) < len(names) or any("\n" in name for name in names):
        return tfds.features.ClassLabel(num_classes=dataset.num_classes)
    return tfds.features.ClassLabel(names=list(names))


def _examples(dataset: Dataset, indices: np.ndarray) -> Iterator[dict[str, Any]]:
    images = _image_files(dataset)
    for start in range(0, len(indices), CHUNK):
        chunk = indices[start : start + CHUNK]
        arrays: dict[str, Any] = {"index": chunk}
        if images is None:
            arrays["inputs"] = dataset.inputs[chunk]
        else:
            arrays["image"] = [io.BytesIO(images.encoded(int(index))) for index in chunk]
        if isinstance(dataset.targets, Mapping):
            arrays |= {f"targets/{name}": array[chunk] for name, array in dataset.targets.items()}
        else:
            arrays["targets"] = dataset.targets[chunk]
        if dataset.mask is not None:
            arrays["mask"] = dataset.mask[chunk]
        for row in range(len(chunk)):
            yield _nested({name: array[row] for name, array in arrays.items()})


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """``"targets/NAME"`` as an entry of ``"targets"``."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        group, slash, key = name.partition("/")
        if slash:
            nested.setdefault(group, {})[key] = value
        else:
            nested[name] = value
    return nested


def _parts(dataset: Dataset) -> dict[str, np.ndarray]:
    """The splits, and what belongs to none of them."""
    parts = {name: np.asarray(indices) for name, indices in dataset.splits.items()}
    rest = np.setdiff1d(np.arange(len(dataset.inputs)), np.concatenate(list(parts.values())))
    return parts | ({REST: rest} if rest.size else {})


def _builder_class(entry: Entry, config: Any) -> Any:
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """A builder of a data set that is there already."""

        name = f"poolax_{entry.name}"
        VERSION = tfds.core.Version(VERSION)
        BUILDER_CONFIGS = [config]  # noqa: RUF012 - as TensorFlow Datasets declares it
        url_infos = None  # It downloads nothing.

        def __init__(self, dataset, metadata, progress, **options):
            self._data, self._metadata, self._progress = dataset, metadata, progress
            super().__init__(**options)

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"{entry.title}. Preprocessing: {entry.preprocessing}.",
                features=_features(self._data),
                homepage=entry.source,
                citation=entry.citation,
                license=entry.licence,
                disable_shuffling=True,
                metadata=tfds.core.MetadataDict(self._metadata),
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            return {
                name: self._generate_examples(name, indices)
                for name, indices in _parts(self._data).items()
            }

        def _generate_examples(self, name, indices):
            for number, example in enumerate(_examples(self._data, indices)):
                yield number, example
                if (number + 1) % CHUNK == 0 or number + 1 == len(indices):
                    self._progress(name, number + 1, len(indices))

    return Builder
