"""Files of a data set from their publisher: fetched once, compared by checksum, unpacked safely."""

import gzip
import os
import pathlib
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from typing import Any

from etils import epath

from poolax._paths import write_atomically
from poolax._progress import Progress, no_progress
from poolax.data._entry import Download

_CHUNK = 1 << 20
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError)
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def fetch(
    download: Download, directory: pathlib.Path, progress: Progress = no_progress
) -> pathlib.Path:
    """A file of a data set, downloaded unless it is there already and whole.

    Where the checksum is not known, that of the first download is written beside the file, and later
    runs compare.

    Args:
        download: What to fetch.
        directory: Where to keep it.
        progress: Called with the name of the file, the bytes that came, and their number.

    Returns:
        The path of the file.

    Raises:
        ValueError: if its checksum is not the one expected; the file is not kept.
        ConnectionError: if it cannot be downloaded.
    """
    import pooch
    import requests

    directory.mkdir(parents=True, exist_ok=True)
    path = directory / download.file
    beside = path.with_name(f"{path.name}.sha256")
    expected, source = download.sha256, "its publisher or records of it"
    if expected is None and beside.exists():
        expected, source = beside.read_text().split()[0], beside.name
    if path.exists() and expected is not None and pooch.file_hash(str(path)) == expected:
        return path
    path.unlink(missing_ok=True)
    pooch.get_logger().setLevel("WARNING")
    reporter: Any = _Reporter(download.file, progress)
    downloader: Any = pooch.HTTPDownloader(progressbar=reporter, chunk_size=_CHUNK)
    with tempfile.TemporaryDirectory(prefix=".download.", dir=directory) as temporary:
        try:
            fetched = pooch.retrieve(
                download.url,
                known_hash=None,
                fname=path.name,
                path=temporary,
                downloader=downloader,
            )
        except requests.RequestException as error:
            raise ConnectionError(f"{download.url}: expected a download, got: {error}") from error
        digest = pooch.file_hash(fetched)
        if expected is not None and digest != expected:
            raise ValueError(
                f"{download.url}: expected SHA-256 {expected} (of {source}), got {digest}; the file "
                "was not kept"
            )
        if download.sha256 is None:
            write_atomically(beside, f"{digest}  {path.name}\n")
        os.replace(fetched, path)
    return path


def is_archive(path: pathlib.Path) -> bool:
    """Whether a file is unpacked, by the ending of its name."""
    return path.name.endswith((".zip", *_TAR))


def unpack(archive: pathlib.Path, directory: pathlib.Path) -> None:
    """Unpack a zip or tar archive into a directory, once.

    What the archive holds comes into the directory only when all of it was unpacked; a note beside the
    archive says for which content that was done.

    Args:
        archive: The archive.
        directory: Where its members go; those of the same names are replaced.

    Raises:
        ValueError: if it is damaged, or a member would lie outside the directory.
    """
    import pooch

    note = archive.with_name(f"{archive.name}.unpacked")
    digest = pooch.file_hash(str(archive))
    if note.exists() and note.read_text() == digest:
        return
    with tempfile.TemporaryDirectory(prefix=".unpack.", dir=directory) as temporary:
        try:
            if archive.name.endswith(".zip"):
                _unpack_zip(archive, temporary)
            else:
                with tarfile.open(archive) as tar:
                    tar.extractall(temporary, filter="data")
        except _DAMAGED as error:
            raise ValueError(f"{archive}: expected an archive to unpack, got: {error}") from error
        for member in pathlib.Path(temporary).iterdir():
            target = directory / member.name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            os.replace(member, target)
    write_atomically(note, digest)


def _unpack_zip(archive: pathlib.Path, directory: str) -> None:
    with zipfile.ZipFile(archive) as content:
        for name in content.namelist():
            # What zipfile would do is to drop the dots and write to another place.
            parts = pathlib.PurePosixPath(name.replace("\\", "/")).parts
            if ".." in parts or name.startswith(("/", "\\")):
                raise zipfile.BadZipFile(f"{name!r} would lie outside")
        content.extractall(directory)


class _Reporter:
    """What pooch takes for a progress bar."""

    def __init__(self, description: str, progress: Progress):
        self.total, self._done = 0, 0
        self._description, self._progress = description, progress

    def update(self, count: int) -> None:
        """Report that more came."""
        self._done += count
        self._progress(self._description, min(self._done, self.total), self.total)

    def reset(self) -> None:
        """Begin again, which pooch does at the end to fill the bar."""
        self._done = 0

    def close(self) -> None:
        """Nothing is to be closed."""


def local_directory(name: str, path: epath.PathLike) -> pathlib.Path:
    """A directory that has to be local, with ``~`` expanded."""
    if "://" in os.fspath(path):
        raise ValueError(
            f"{name}: expected a local folder to write to, got {path}; prepare locally, then copy"
        )
    return pathlib.Path(path).expanduser().resolve()
