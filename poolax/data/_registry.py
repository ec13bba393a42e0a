"""Named data sets, and where they are read from."""

from typing import Any

from etils import epath

from poolax._checks import did_you_mean
from poolax._dataset import Dataset
from poolax.data._builder import FILE_FORMAT, prepared_directory
from poolax.data._entry import Entry
from poolax.data._prepared import read_prepared
from poolax.data._record_files import open_builder
from poolax.data.language import ENTRIES as LANGUAGE
from poolax.data.series import ENTRIES as SERIES
from poolax.data.vision import ENTRIES as VISION

_ENTRIES = {found.name: found for found in (*VISION, *LANGUAGE, *SERIES)}


def names() -> tuple[str, ...]:
    """Names of all data sets: images first, then texts, then series."""
    return tuple(_ENTRIES)


def entry(name: str) -> Entry:
    """What is known of a data set.

    Args:
        name: Its name.

    Raises:
        ValueError: if there is none of that name; the error lists those that there are.

    Example:
        >>> entry("digits").sizes["train"]
        1078
    """
    if not isinstance(name, str) or name not in _ENTRIES:
        hint = did_you_mean(name, _ENTRIES)
        raise ValueError(f"name: expected a data set ({', '.join(_ENTRIES)}), got {name!r}{hint}")
    return _ENTRIES[name]


def load(
    name: str,
    *,
    data_dir: epath.PathLike | None = None,
    tfds_dir: epath.PathLike | None = None,
    **options: Any,
) -> Dataset:
    """A data set by its name: from a library, from files, or as it was prepared.

    Args:
        name: Its name.
        data_dir: Folder of its files, or of a folder of its name with them; ``None`` to read what
            :func:`prepare` or TensorFlow Datasets prepared. Data sets that come with a library need
            none.
        tfds_dir: Folder of TensorFlow Datasets; ``None`` for its own default.
        **options: Options of the data set, see ``entry(name).all_options``; ``partial=True`` reads
            files of another number of examples than was published, which are refused otherwise.

    Returns:
        The data set.

    Raises:
        ValueError: for an unknown name or option, if there are neither files nor prepared data, and
            for files that are damaged or not whole, which is an ``OSError`` as well.

    Example:
        >>> load("digits").num_classes
        10
    """
    found = entry(name)
    found.check_options(options)
    if found.embedded is not None:
        return found.embedded(**options)
    if data_dir is not None:
        return found.read_files(data_dir, **options)
    root = epath.Path(tfds_dir or default_tfds_dir()).expanduser()
    own = prepared_directory(found, root, options)
    options = {option: value for option, value in options.items() if option != "partial"}
    if own.exists():
        dataset, attributes = read_prepared(own)
        return found.stored.derive(dataset, attributes, **options) if found.stored else dataset
    tfds_prepared = prepared_by_tfds(found, root)
    if tfds_prepared is not None and found.tfds is not None:
        return found.tfds.read(open_builder(tfds_prepared), **options)
    raise ValueError(_nowhere(found, root, own, options))


def default_tfds_dir() -> str:
    """The folder of TensorFlow Datasets: ``TFDS_DATA_DIR``, or ``~/tensorflow_datasets``."""
    from tensorflow_datasets.core.constants import get_default_data_dir

    return get_default_data_dir()


def prepared_by_tfds(found: Entry, tfds_dir: epath.PathLike) -> epath.Path | None:
    """Where the builder of TensorFlow Datasets has put the newest version of a data set."""
    if found.tfds is None:
        return None
    from tensorflow_datasets.core.utils.version import list_all_versions

    directory = epath.Path(tfds_dir) / found.tfds.name
    for version in reversed(list_all_versions(directory)):
        path = directory / str(version)
        if open_builder(path).info.file_format.value == FILE_FORMAT:
            return path
    return None


def _nowhere(found: Entry, root: epath.Path, own: epath.Path, options: dict[str, Any]) -> str:
    command = " ".join(
        ["poolax data prepare", found.name, *(f"--option {k}={v}" for k, v in options.items())]
    )
    others = [path for path in own.parent.parent.glob("*") if path != own.parent]
    so_far = f" with {'these' if options else 'default'} options" if others else ""
    return (
        f"{found.name}: expected it in {root}, prepared{so_far} by '{command}', or a data_dir "
        f"(--data-dir) with {found.layout}; got neither"
    )
