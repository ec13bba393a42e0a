"""Finding the files of a data set in the layouts in which they are published."""

from collections.abc import Sequence

from etils import epath

from poolax.data._archives import read_members
from poolax.data._damage import damaged_data
from poolax.data._entry import existing


def find(directory: epath.PathLike, files: Sequence[str]) -> epath.Path:
    """The first of ``files`` that the directory holds; an error that names the first if none."""
    for file in files:
        path = epath.Path(directory) / file
        if path.exists():
            return path
    return existing(directory, files[0])


def read_lines(path: epath.Path) -> list[str]:
    """Lines of a text file, which has to be one."""
    return _decode(path.read_bytes(), str(path))


def read_member(path: epath.Path, names: Sequence[str]) -> tuple[str, list[str]] | None:
    """Name and lines of the first of ``names`` in a zip file, in whatever folder; ``None`` if none."""
    contents = read_members(path, list(names))
    for name in names:
        if name in contents:
            return name, _decode(contents[name], f"{path}/{name}")
    return None


def _decode(content: bytes, where: str) -> list[str]:
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise damaged_data(
            where, f"expected text in UTF-8, got byte {error.start} that is not"
        ) from error
