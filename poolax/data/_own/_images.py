"""Images in folders, one for each class."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from etils import epath
from PIL import Image

from poolax._dataset import Dataset
from poolax._files import DamagedFileError
from poolax._progress import Progress, no_progress
from poolax.data._encoded import Fit
from poolax.data._own._assemble import Splitting, labelled
from poolax.data._own._split import ALIASES
from poolax.data.vision._images import IMAGE_SIZE, ImageFiles, decode, read_bytes

_NAMED = 3
_CHUNK = 64


def image_folder(
    folder: epath.Path,
    name: str,
    splitting: Splitting,
    *,
    size: int = IMAGE_SIZE,
    fit: Fit = "crop",
    skip_bad: bool = False,
    progress: Progress = no_progress,
) -> Dataset:
    """A data set of the images of a folder: ``CLASS/FILE``, or ``SPLIT/CLASS/FILE``.

    Every image is decoded once, so that none that cannot be is met in training.

    Args:
        folder: The folder. Its folders are classes, or splits (``train``, ``val``, ``test``, …) with
            classes in them.
        name: Name of the data set.
        splitting: How the splits that have no folder are cut off.
        size: Pixels a side that images are brought to.
        fit: ``"crop"`` or ``"pad"``.
        skip_bad: Whether images that cannot be decoded are left out; otherwise they are refused.
        progress: Called with a description, how much is done, and the total.

    Returns:
        The data set; inputs are decoded when they are indexed.

    Raises:
        ValueError: for a folder without such images, and images that cannot be decoded, which are
            named and counted.
    """
    found = _find(folder)
    if not found:
        raise ValueError(
            f"{folder}: expected folders of images, one for each class (CLASS/FILE or "
            "SPLIT/CLASS/FILE), got none"
        )
    files, notes = whole_images(folder, [file for _, _, file in found], skip_bad, progress)
    whole = set(files)
    found = [one for one in found if one[2] in whole]
    splits = [split for split, _, _ in found]
    given = {split: np.flatnonzero([one == split for one in splits]) for split in dict.fromkeys(splits)}
    kept = [file for _, _, file in found]
    return labelled(
        name,
        ImageFiles(folder, kept, size=size, fit=fit),
        [label for _, label, _ in found],
        given,
        splitting,
        lambda index: str(folder / kept[index]),
        source=str(folder),
        notes=notes,
    )


def whole_images(
    folder: epath.Path, files: Sequence[str], skip_bad: bool, progress: Progress
) -> tuple[list[str], tuple[str, ...]]:
    """The files of images that can be decoded, and a note where others are left out.

    Args:
        folder: The folder.
        files: Paths below it.
        skip_bad: Whether images that cannot be decoded are left out; otherwise they are refused.
        progress: Called with a description, how much is done, and the total.

    Raises:
        ValueError: for images that cannot be decoded, which are named and counted.
    """
    bad = _undecodable(folder, files, progress)
    if not bad:
        return list(files), ()
    shown = ", ".join(bad[:_NAMED]) + (", …" if len(bad) > _NAMED else "")
    if not skip_bad:
        raise ValueError(
            f"{folder}: expected images that can be decoded, got {len(bad)} of {len(files)} that "
            f"cannot ({shown}); skip_bad=True leaves them out"
        )
    left_out = set(bad)
    note = f"{len(bad)} of {len(files)} images left out that cannot be decoded: {shown}"
    return [file for file in files if file not in left_out], (note,)


def classes_of(folder: epath.Path) -> list[str]:
    """The classes of a folder's images, in order."""
    return sorted({label for _, label, _ in _find(folder)})


def has_images(folder: epath.Path) -> bool:
    """Whether a folder has images in folders of classes."""
    return bool(_find(folder))


def _find(folder: epath.Path) -> list[tuple[str, str, str]]:
    """Split, class and path of each image, in the order of their names."""
    below = _folders(folder)
    splits = {path.name: ALIASES.get(path.name.lower()) for path in below}
    if not below or None in splits.values():
        return [("train", *one) for one in _classes(folder, folder)]
    return [
        (split, *one)
        for path in sorted(below, key=lambda path: list(ALIASES).index(path.name.lower()))
        if (split := splits[path.name]) is not None
        for one in _classes(path, folder)
    ]


def _classes(folder: epath.Path, root: epath.Path) -> list[tuple[str, str]]:
    suffixes = set(Image.registered_extensions())
    return [
        (path.name, str(file.relative_to(root)))
        for path in _folders(folder)
        for file in sorted(path.iterdir())
        if file.suffix.lower() in suffixes and not file.name.startswith(".")
    ]


def _folders(folder: epath.Path) -> list[epath.Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def _undecodable(folder: epath.Path, files: Sequence[str], progress: Progress) -> list[str]:
    """The files that hold no image."""

    def is_bad(file: str) -> bool:
        try:
            decode(read_bytes(folder / file), file)
        except DamagedFileError:
            return True
        return False

    bad: list[str] = []
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(files), _CHUNK):
            part = files[start : start + _CHUNK]
            bad += [
                file for file, is_one in zip(part, threads.map(is_bad, part), strict=True) if is_one
            ]
            progress("reading images", start + len(part), len(files))
    return bad
