"""Archives of a data set: unpacked inside one folder, whole or not at all, up to a size."""

import lzma
import os
import pathlib
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from typing import IO

from etils import epath

from poolax._files import damaged, reading, writing_to
from poolax._paths import set_aside, size_and_time, write_atomically

ARCHIVE_ERRORS = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError),
    *(OSError, ValueError, OverflowError, LookupError, RuntimeError),
)
"""What a damaged archive leads to in the modules that read it, passwords and methods included."""

_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# What data sets hold shrinks by less; an archive made to fill the disk by a thousand and more.
_MOST_TIMES = 100
_SMALL = 2**26
_CHUNK = 2**20
_REMEDY = "remove the archive and fetch it again from its source"


def is_archive(path: pathlib.Path) -> bool:
    """Whether a file is unpacked, by the ending of its name."""
    return path.name.endswith((".zip", *_TAR))


def unpack(archive: pathlib.Path, directory: pathlib.Path) -> None:
    """Unpack a zip or tar archive into a directory, once.

    What the archive holds comes into the directory only when all of it was unpacked; a note beside the
    archive says for which content that was done.

    Args:
        archive: The archive.
        directory: Where its members go, in place of those that an earlier archive had; what has the
            same name and came from elsewhere is renamed to ``NAME.before``.

    Raises:
        ValueError: if it is damaged, a member would lie outside the directory, or its members are
            more than a hundred times as large as the archive.
        OSError: if the disk is full.
    """
    import pooch

    note = archive.with_name(f"{archive.name}.unpacked")
    begun = archive.with_name(f"{archive.name}.unpacking")
    digest = pooch.file_hash(str(archive))
    if note.exists() and note.read_bytes() == digest.encode():
        return
    with (
        writing_to(directory),
        tempfile.TemporaryDirectory(prefix=".unpack.", dir=directory) as temporary,
    ):
        with reading(archive, "an archive to unpack", _REMEDY, *ARCHIVE_ERRORS):
            size = _Size(archive, archive.stat().st_size)
            if archive.name.endswith(".zip"):
                _unpack_zip(archive, temporary, size)
            else:
                _unpack_tar(archive, temporary, size)
        is_own = note.exists() or begun.exists()
        members = list(pathlib.Path(temporary).iterdir())
        for target in [] if is_own else [directory / member.name for member in members]:
            if os.path.lexists(target):
                set_aside(target, "before")
        write_atomically(begun, digest)
        for member in members:
            target = directory / member.name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            os.replace(member, target)
    write_atomically(note, digest)
    begun.unlink()


def read_members(path: epath.PathLike, names: list[str]) -> dict[str, bytes]:
    """Contents of files of a zip or tar archive, by their names without folders.

    Args:
        path: The archive, local or in a bucket.
        names: Which files; those that it lacks are left out.

    Raises:
        ValueError: as for :func:`unpack`.
    """
    path = epath.Path(path)
    with reading(path, "an archive to read", _REMEDY, *ARCHIVE_ERRORS), path.open("rb") as file:
        size = _Size(path, size_and_time(path)[0])
        read = _read_zip if path.name.endswith(".zip") else _read_tar
        return read(file, set(names), size)


class _Size:
    """How much the members of an archive come to; refuses what no data set has."""

    def __init__(self, archive: epath.PathLike, packed: int):
        self._archive, self._packed, self._unpacked = archive, packed, 0

    def add(self, num_bytes: int) -> None:
        self._unpacked += num_bytes
        most = max(_MOST_TIMES * self._packed, _SMALL)
        if self._unpacked > most:
            problem = (
                f"expected at most {most} bytes in an archive of {self._packed}, got "
                f"{self._unpacked} and more"
            )
            raise damaged(self._archive, problem, "get the data set from another source")


def _unpack_zip(archive: pathlib.Path, directory: str, size: _Size) -> None:
    with zipfile.ZipFile(archive) as content:
        for member in content.infolist():
            size.add(member.file_size)
            # What zipfile would do is to drop the dots and write to another place.
            name = member.filename
            if _lies_outside(name):
                raise zipfile.BadZipFile(f"{name!r} would lie outside")
        content.extractall(directory)


def _unpack_tar(archive: pathlib.Path, directory: str, size: _Size) -> None:
    with tarfile.open(archive) as content:
        for member in content:
            size.add(member.size)
        if hasattr(tarfile, "data_filter"):
            content.extractall(directory, filter="data")
        else:
            # Python 3.11 before 3.11.4, as distributions have it.
            content.extractall(directory, members=map(_plain, content.getmembers()))
        _read_to_the_end(content, size)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """A file or folder that lies inside; links and devices are refused."""
    if _lies_outside(member.name) or not (member.isfile() or member.isdir()):
        raise tarfile.TarError(f"{member.name!r} would lie outside, or is no file")
    return member


def _lies_outside(name: str) -> bool:
    """Whether a name in an archive leads out of the folder that it is unpacked to."""
    parts = pathlib.PurePosixPath(name.replace("\\", "/")).parts
    return ".." in parts or name.startswith(("/", "\\"))


def _read_zip(file: IO[bytes], names: set[str], size: _Size) -> dict[str, bytes]:
    found = {}
    with zipfile.ZipFile(file) as content:
        for member in content.infolist():
            name = member.filename.rsplit("/", 1)[-1]
            if name in names:
                size.add(member.file_size)
                found[name] = content.read(member)
    return found


def _read_tar(file: IO[bytes], names: set[str], size: _Size) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=file) as content:
        for member in content:
            size.add(member.size)
            name = member.name.rsplit("/", 1)[-1]
            opened = content.extractfile(member) if name in names and member.isfile() else None
            if opened is not None:
                found[name] = opened.read()
                if len(found[name]) < member.size:
                    raise EOFError(f"{name} ends early")
        _read_to_the_end(content, size)
    return found


def _read_to_the_end(content: tarfile.TarFile, size: _Size) -> None:
    """Compression compares its checksum where a file ends, which is behind the end of the archive."""
    while content.fileobj is not None and (chunk := content.fileobj.read(_CHUNK)):
        size.add(len(chunk))
