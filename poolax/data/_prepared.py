"""Reading what was prepared: array records of TensorFlow Datasets, without TensorFlow."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from poolax._dataset import Dataset, Targets
from poolax.data._builder import CHUNK, REST
from poolax.data._record_files import open_builder, reading_records


def read_prepared(directory: epath.PathLike) -> tuple[Dataset, Mapping[str, Any]]:
    """Read what :func:`poolax.data._builder.write_prepared` wrote.

    Images stay where they are and are decoded when they are indexed; all else is read into memory.

    Args:
        directory: The folder of the records.

    Returns:
        The data set, equal to the one that was written, and what was kept beside it.

    Raises:
        ValueError: for a folder that is damaged.
    """
    builder = open_builder(directory)
    with reading_records(directory):
        return _read(builder)


def _read(builder: Any) -> tuple[Dataset, Mapping[str, Any]]:
    metadata = builder.info.metadata
    parts = [name for name in (*metadata["splits"], REST) if name in builder.info.splits]
    columns, record_of = _read_columns(builder, parts, metadata)
    splits = {}
    for name in metadata["splits"]:
        start = sum(builder.info.splits[part].num_examples for part in parts[: parts.index(name)])
        splits[name] = columns["index"][start:][: builder.info.splits[name].num_examples]
    geometry = metadata["images"]
    if geometry is None:
        inputs = columns["inputs"]
    else:
        from poolax.data.vision._tfds import ImageRecords, Records

        inputs = ImageRecords(Records(builder, parts), record_of, **geometry)
    targets: Targets = columns.get("targets", {})
    names = metadata["class_names"]
    dataset = Dataset(
        name=metadata["name"],
        inputs=inputs,
        targets=targets,
        splits=splits,
        source=metadata["source"],
        licence=metadata["licence"],
        mask=columns.get("mask"),
        num_classes=metadata["num_classes"],
        class_names=None if names is None else tuple(names),
        notes=tuple(metadata["notes"]),
    )
    return dataset, metadata["attributes"]


def _read_columns(builder: Any, parts: list[str], metadata: Mapping[str, Any]):
    """The arrays by name, in the order of the data set, and the record of each example."""
    import tensorflow_datasets as tfds

    skipped = {} if metadata["images"] is None else {"image": tfds.decode.SkipDecoding()}
    indices: list[int] = []
    columns: dict[str, Any] = {}
    for part in parts:
        source = builder.as_data_source(split=part, decoders=skipped)
        for start in range(0, len(source), CHUNK):
            chunk = range(start, min(start + CHUNK, len(source)))
            records = source.__getitems__(list(chunk))
            places = [int(record["index"]) for record in records]
            indices += places
            for name, dtype in metadata["dtypes"].items():
                if name == "inputs" and skipped:
                    continue
                values = _values([_get(record, name) for record in records], np.dtype(dtype))
                if name not in columns:
                    shape = (metadata["num_examples"], *values.shape[1:])
                    columns[name] = np.empty(shape, values.dtype)
                columns[name][places] = values
    targets = {
        name.removeprefix("targets/"): columns.pop(name)
        for name in list(columns)
        if name.startswith("targets/")
    }
    if targets:
        columns["targets"] = targets
    columns["index"] = np.array(indices)
    record_of = np.empty(metadata["num_examples"], np.int64)
    record_of[indices] = np.arange(len(indices))
    return columns, record_of


def _values(values: list[Any], dtype: np.dtype) -> np.ndarray:
    if dtype.kind not in "OU":
        return np.stack([np.asarray(value, dtype) for value in values])
    if isinstance(values[0], bytes):
        return np.array([value.decode() for value in values], dtype=object)
    parts = [[part.decode() for part in value] for value in values]
    return np.array(parts, dtype=object).reshape(len(values), -1)


def _get(record: Mapping[str, Any], name: str) -> Any:
    group, slash, key = name.partition("/")
    return record[group][key] if slash else record[name]
