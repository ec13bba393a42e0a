"""Preparing data sets: array records below the folder of TensorFlow Datasets, whole or not at all."""

import importlib
import importlib.util
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any, Literal

from etils import epath

from poolax._files import writing_to
from poolax._progress import Progress, no_progress
from poolax.data._archives import is_archive, unpack
from poolax.data._builder import FILE_FORMAT, prepared_directory, quiet_tfds, write_prepared
from poolax.data._download import fetch, local_directory
from poolax.data._entry import Entry
from poolax.data._registry import default_tfds_dir, entry, prepared_by_tfds

Way = Literal["files", "TFDS", "download"]


def prepare(
    name: str,
    *,
    data_dir: epath.PathLike | None = None,
    tfds_dir: epath.PathLike | None = None,
    download_dir: epath.PathLike | None = None,
    progress: Progress = no_progress,
    **options: Any,
) -> epath.Path:
    """Prepare a data set as array records, from which :func:`load` reads it.

    From files if a folder is given; else by the builder of TensorFlow Datasets, if there is one that
    can run; else from the publisher's files, which are downloaded and compared by checksum. Prepared
    data appear at once when they are complete. What is prepared already is left as it is.

    Args:
        name: Name of the data set.
        data_dir: Folder of its files; ``None`` to download them.
        tfds_dir: Folder of TensorFlow Datasets; ``None`` for its own default.
        download_dir: Where downloads are kept; ``None`` for ``downloads`` in ``tfds_dir``.
        progress: Called with a description, how much is done, and the total.
        **options: Options of the data set, as for :func:`load`.

    Returns:
        The folder of the records.

    Raises:
        ValueError: if there is nothing to prepare from, files are missing or malformed, or a checksum
            is wrong.
        ConnectionError: if a file cannot be downloaded.
    """
    found = entry(name)
    found.check_options(options)
    way = way_to_prepare(found, data_dir)
    root = local_directory("tfds_dir", tfds_dir or default_tfds_dir())
    downloads = local_directory("download_dir", download_dir or root / "downloads")
    ready = ready_directory(found, root, way, options)
    if ready is not None:
        return ready
    if data_dir is None and way == "download":
        data_dir = _fetch_all(found, downloads / "poolax" / name, progress)
    root.mkdir(parents=True, exist_ok=True)
    with (
        writing_to(root),
        tempfile.TemporaryDirectory(prefix=f"incomplete.{name}.", dir=root) as temporary,
    ):
        if data_dir is None:
            made = _run_builder(found, temporary, downloads)
        else:
            dataset, attributes = found.read_stored(data_dir, **options)
            made = write_prepared(found, dataset, temporary, options, attributes, progress)
        return _move(pathlib.Path(made), pathlib.Path(temporary), root)


def way_to_prepare(found: Entry, data_dir: epath.PathLike | None = None) -> Way:
    """What :func:`prepare` will do for an entry.

    Raises:
        ValueError: if there is nothing that it could do.
    """
    if found.embedded is not None:
        raise ValueError(
            f"name: expected a data set that has to be prepared, got {found.name!r}, which comes with "
            "a library and is read from it"
        )
    if data_dir is not None:
        return "files"
    tfds = found.tfds
    runs = tfds is not None and not (tfds.needs_tensorflow and not _has_tensorflow())
    if tfds is not None and runs and not (tfds.manual and found.downloads):
        return "TFDS"
    if found.downloads:
        return "download"
    files = f"a data_dir (--data-dir) with {found.layout}"
    if tfds is not None:
        raise ValueError(
            f"{found.name}: expected TensorFlow, which TFDS's own builder {tfds.name!r} needs to "
            f"prepare it and which is not installed, or {files}"
        )
    raise ValueError(
        f"{found.name}: expected {files}; its publisher offers no download without account"
    )


def ready_directory(
    found: Entry, root: epath.PathLike, way: Way, options: Mapping[str, Any]
) -> epath.Path | None:
    """Where a data set lies if it is prepared already."""
    if way == "TFDS":
        return prepared_by_tfds(found, root)
    own = prepared_directory(found, root, options)
    return own if own.exists() else None


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _fetch_all(found: Entry, directory: pathlib.Path, progress: Progress) -> pathlib.Path:
    for download in found.downloads:
        path = fetch(download, directory, progress)
        if is_archive(path):
            unpack(path, directory)
    return directory


def _run_builder(found: Entry, data_dir: str, downloads: pathlib.Path) -> str:
    import tensorflow_datasets as tfds

    if found.tfds is None:
        raise ValueError(f"{found.name}: expected a builder of TensorFlow Datasets, which has none")
    if found.tfds.module is not None:
        importlib.import_module(found.tfds.module)
    builder = tfds.builder(found.tfds.name, data_dir=data_dir, file_format=FILE_FORMAT)
    with quiet_tfds():
        builder.download_and_prepare(download_dir=os.fspath(downloads))
    return os.fspath(builder.data_dir)


def _move(made: pathlib.Path, temporary: pathlib.Path, root: pathlib.Path) -> epath.Path:
    """Bring complete records to their place, in one step."""
    target = root / made.relative_to(temporary.resolve())
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.rename(target)
    except OSError:
        # Another process may have been quicker; both have made the same.
        if not target.exists():
            raise
    return epath.Path(target)
