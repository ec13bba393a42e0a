"""Finding the files of a data set in the layouts in which they are published."""

import zipfile
from collections.abc import Sequence

from etils import epath

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
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path}: expected a zip file, got one that cannot be opened") from error
        with archive:
            members = {member.rsplit("/", 1)[-1]: member for member in archive.namelist()}
            for name in names:
                if name in members:
                    try:
                        content = archive.read(members[name])
                    except (RuntimeError, zipfile.BadZipFile) as error:  # a password, a wrong checksum
                        raise ValueError(
                            f"{path}: expected {name} to be readable, got: {error}"
                        ) from error
                    return name, _decode(content, f"{path}/{name}")
    return None


def _decode(content: bytes, where: str) -> list[str]:
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: expected text in UTF-8, got byte {error.start} that is not"
        ) from error
