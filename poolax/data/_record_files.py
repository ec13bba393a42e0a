"""Prepared folders of TensorFlow Datasets: what is beside their records, and what damage is told as."""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath

from poolax._files import damaged, json_object, reading

CHECKSUMS = "checksums.json"
_RECORDS = ".array_record-"
_REMEDY = "remove the folder and prepare the data set again"
# What damage leads to in TensorFlow Datasets and array records, which have no classes of their own.
_ERRORS = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, OSError)
_ERRORS += (RuntimeError, AssertionError, MemoryError)


def write_checksums(directory: epath.PathLike) -> None:
    """Write SHA-256 of the files beside the records, which have checksums of their own."""
    folder = pathlib.Path(directory)
    names = [path.name for path in folder.iterdir() if _RECORDS not in path.name]
    noted = _checksums(folder, set(names) - {CHECKSUMS})
    (folder / CHECKSUMS).write_text(json.dumps(noted, indent=1))


@contextlib.contextmanager
def reading_records(directory: epath.PathLike) -> Iterator[None]:
    """Tell what a damaged prepared folder leads to as damage of that folder."""
    from google.protobuf.json_format import ParseError

    with reading(directory, "whole records as they were prepared", _REMEDY, ParseError, *_ERRORS):
        yield


def open_builder(directory: epath.PathLike) -> Any:
    """The builder of a prepared folder, whose files beside the records have to be as they were written.

    Args:
        directory: The folder.

    Returns:
        The builder, for reading.

    Raises:
        ValueError: for a folder that is damaged.
    """
    import tensorflow_datasets as tfds

    with reading_records(directory):
        folder = epath.Path(directory)
        noted = folder / CHECKSUMS
        if noted.exists():  # what TensorFlow Datasets prepared by itself has none
            written = json_object(noted.read_bytes(), noted, _REMEDY)
            found = _checksums(folder, written)
            for name in written:
                if written[name] != found.get(name):
                    raise damaged(
                        folder / name, "expected the SHA-256 it was written with, got another", _REMEDY
                    )
        return tfds.builder_from_directory(os.fspath(directory))


def _checksums(folder: epath.Path | pathlib.Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of those of the names that are files."""
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in sorted(names)
        if (folder / name).is_file()
    }
