"""A user's own images and series to pretrain on, with labels or without."""

from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from poolax._arrays import ARRAY_ERRORS, read_arrays
from poolax._checks import check_count, check_number
from poolax._dataset import Dataset
from poolax._progress import Progress, no_progress
from poolax.data._own._from_files import from_files
from poolax.data._own._images import classes_of, whole_images
from poolax.data._own._series import is_number, is_ucr, series_of_table
from poolax.data._own._split import VALIDATION_SHARE
from poolax.data._own._table import TABLES, Table, read_table
from poolax.data.series._series import Series
from poolax.data.vision._images import ImageFiles

_ARRAYS = (".npy", ".npz")
_SERIES = (*TABLES, *_ARRAYS, ".ts", ".txt")


def read_images(
    path: epath.PathLike,
    *,
    size: int,
    validation: float | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    progress: Progress = no_progress,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Images to pretrain on, and images that are held out.

    Images by class, and other files of labelled images, are split as
    :func:`poolax.data.from_files` splits them, whose test images are in neither part. Of any other
    folder all images below it are taken, in whatever folders they stand.

    Args:
        path: Folder or file.
        size: Pixels a side that images of a folder are brought to.
        validation: Share that is held out, by default a tenth.
        seed: Seed of what is held out.
        skip_bad: Whether images that cannot be decoded are left out; otherwise they are refused.
        progress: Called with a description, how much is done, and the total.
        **options: Further ones of :func:`poolax.data.from_files`, for labelled images.

    Returns:
        Images to train on, shape ``(N, h, w, channels)``, and held out.

    Raises:
        ValueError: for a path without images, or images that cannot be decoded.

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for number in range(10):
        ...         Image.new("RGB", (9, 8)).save(pathlib.Path(folder, f"{number}.png"))
        ...     train, held_out = read_images(folder, size=4)
        >>> train.shape, held_out.shape
        ((9, 4, 4, 3), (1, 4, 4, 3))
    """
    folder = _existing(path)
    if not folder.is_dir() or len(classes_of(folder)) > 1 or not _images_below(folder, folder):
        if folder.is_dir():
            options |= {"size": size}
            options |= {"skip_bad": True} if skip_bad else {}
        dataset = from_files(path, validation=validation, seed=seed, progress=progress, **options)
        if len(dataset.inputs.shape) != 4:
            raise ValueError(f"path: expected images, got {path}, inputs {tuple(dataset.inputs.shape)}")
        parts = (dataset.splits[split] for split in ("train", "validation"))
        train, held_out = (np.asarray(dataset.inputs[part]) for part in parts)
        return train, held_out
    for name in options:
        raise ValueError(f"{name}: expected for images by class, got it for {path}, which has none")
    share = VALIDATION_SHARE if validation is None else validation
    check_number("validation", share, above=0.0, below=1.0)
    check_count("seed", seed, at_least=0)
    files, _ = whole_images(folder, _images_below(folder, folder), skip_bad, progress)
    number = max(1, round(share * len(files)))
    if number >= len(files):
        raise ValueError(f"path: expected several images to hold some out of, got {len(files)}")
    images = ImageFiles(folder, files, size=size)
    order = np.random.default_rng(seed).permutation(len(files))
    return images[np.sort(order[number:])], images[np.sort(order[:number])]


def read_series(path: epath.PathLike, **options: Any) -> list[Dataset | Series | np.ndarray]:
    r"""Series to pretrain on, as :func:`training_series` takes them.

    Args:
        path: An array ``.npy`` of one series, shape ``(steps,)``, or of several, ``(N, steps)``; a file
            ``.npz`` with one such array, or one called ``inputs``, and no targets; a table with a row
            for each step and a column for each channel, a first one of dates taken for times; labelled
            series, as :func:`poolax.data.from_files` takes them; or a folder of such files.
        **options: Of :func:`poolax.data.from_files`, such as ``time_column``.

    Returns:
        What was found, in the order of file names.

    Raises:
        ValueError: for a path without such files, or content that does not fit; the error names it.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(pathlib.Path(folder, "a.npy"), np.arange(6.0))
        ...     _ = pathlib.Path(folder, "b.csv").write_text("level\n5\n6\n4\n5\n6\n")
        ...     array, series = read_series(folder)
        >>> array.shape, series.names, series.values.shape
        ((1, 6), ('level',), (5, 1))
    """
    given = _existing(path)
    if not given.is_dir():
        return [_one(given, options)]
    files = [
        file
        for file in sorted(given.iterdir())
        if file.suffix.lower() in _SERIES and not file.name.startswith(".")
    ]
    if not files:
        raise ValueError(f"path: expected files of series ({', '.join(_SERIES)}) in {path}, got none")
    return [_one(file, options) for file in files]


def _one(file: epath.Path, options: dict[str, Any]) -> Dataset | Series | np.ndarray:
    suffix = file.suffix.lower()
    if suffix in _ARRAYS:
        array = _array(file)
        if array is not None:
            return array
    is_table = suffix in TABLES and not is_ucr(file) and "series_column" not in options
    if not is_table:
        return from_files(file, **options)
    read = {name: options[name] for name in ("encoding", "quotes") if name in options}
    for name in options.keys() - read.keys() - {"time_column"}:
        raise ValueError(f"{name}: expected none for a row for each step, got it for {file}")
    table = read_table(file, **read)
    if all(map(is_number, table.columns)):
        raise ValueError(f"{file}, line 1: expected the names of columns, got numbers")
    time_column = options.get("time_column") or _time_column(table)
    return series_of_table(file.stem, table, time_column=time_column, source=str(file))


def _array(file: epath.Path) -> np.ndarray | None:
    """Rows of series of a file without targets."""
    try:
        with file.open("rb") as opened:
            arrays = {name.lower(): array for name, array in read_arrays(opened).items()}
    except ARRAY_ERRORS as error:
        raise ValueError(f"{file}: expected a file of arrays, got: {error}") from None
    if len(arrays) > 1:
        return None
    [array] = arrays.values()
    if array.ndim not in (1, 2) or array.dtype.kind not in "iuf" or not array.size:
        raise ValueError(
            f"{file}: expected numbers of shape (steps,) or (N, steps), got {array.dtype} {array.shape}"
        )
    return np.atleast_2d(array).astype(np.float64)


def _time_column(table: Table) -> str | None:
    """The first column, where it has something else than numbers."""
    first = next(iter(table.columns))
    return None if all(map(is_number, table.columns[first])) else first


def _images_below(folder: epath.Path, root: epath.Path) -> list[str]:
    suffixes, found = set(Image.registered_extensions()), []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            found += _images_below(path, root)
        elif path.suffix.lower() in suffixes:
            found.append(str(path.relative_to(root)))
    return found


def _existing(path: epath.PathLike) -> epath.Path:
    found = epath.Path(path).expanduser()
    if not found.exists():
        raise ValueError(f"path: expected a file or folder, got {path}, where there is nothing")
    return found
