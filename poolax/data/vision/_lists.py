"""Lists of images and their labels."""

from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from poolax.data._damage import damaged_data
from poolax.data._entry import MissingFilesError

PUBLISHED_TEST_HAS_NO_LABELS = (
    "test: the published validation split, for the labels of the published test split are not public"
)


def rows(path: epath.Path, num_columns: int) -> list[tuple[str, list[str]]]:
    """The lines of a list, split at white space into at most ``num_columns`` columns.

    Args:
        path: A text file.
        num_columns: Columns that every line has to have; the last one may contain blanks.

    Returns:
        Of each line that is not blank, ``"FILE:LINE"`` for errors and the columns.

    Raises:
        ValueError: if a line has fewer columns, there are no lines, or it is no text.
    """
    found = []
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged_data(path, f"expected text in UTF-8, got: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where, columns = f"{path}:{number}", line.strip().split(maxsplit=num_columns - 1)
        if len(columns) != num_columns:
            raise damaged_data(where, f"expected {num_columns} columns, got {line.strip()!r}")
        found.append((where, columns))
    if not found:
        raise damaged_data(path, "expected at least one line, got none")
    return found


def whole_number(where: str, text: str, low: int, high: int) -> int:
    """A whole number of a line from ``low`` to ``high``."""
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise damaged_data(where, f"expected a whole number from {low} to {high}, got {text!r}")
    return value


def splits_of(counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Indices of splits that follow one another, from the number of examples of each."""
    ends = np.cumsum(list(counts.values()))
    return {
        name: np.arange(end - count, end)
        for (name, count), end in zip(counts.items(), ends, strict=True)
    }


def check_labels(where: str, labels: np.ndarray, num_classes: int) -> None:
    """Refuse labels outside ``0`` to ``num_classes - 1``."""
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise damaged_data(
            where, f"expected labels from 0 to {num_classes - 1}, got {labels.min()} to {labels.max()}"
        )


def root_of(directory: epath.PathLike, file: str, folders: Sequence[str]) -> epath.Path:
    """The first of several folders that holds a file, which one of them has to.

    Args:
        directory: What the user named.
        file: The file.
        folders: Folders below ``directory`` in which an archive may have put it, ``""`` for itself.
    """
    roots = [epath.Path(directory) / folder for folder in folders]
    for root in roots:
        if (root / file).exists():
            return root
    places = " or ".join(str(epath.Path(folder) / file) for folder in folders)
    raise MissingFilesError(f"data_dir: expected {places} in {directory}, which has none")
