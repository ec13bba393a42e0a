"""Files of a data set from their publisher: fetched once, compared by checksum."""

import os
import pathlib
import re
import tempfile
from typing import Any

from etils import epath

from poolax._files import damaged, writing_to
from poolax._paths import set_aside, write_atomically
from poolax._progress import Progress, no_progress
from poolax.data._entry import Download

_CHUNK = 1 << 20
_NOTE = re.compile(rb"([0-9a-f]{64})\s")


def fetch(
    download: Download, directory: pathlib.Path, progress: Progress = no_progress
) -> pathlib.Path:
    """A file of a data set, downloaded unless it is there already and whole.

    Another file of this name is renamed to ``NAME.before`` once the right one has come.

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
        expected, source = _noted(beside), beside.name
    if path.exists() and expected is not None and pooch.file_hash(str(path)) == expected:
        return path
    pooch.get_logger().setLevel("WARNING")
    reporter: Any = _Reporter(download.file, progress)
    downloader: Any = pooch.HTTPDownloader(progressbar=reporter, chunk_size=_CHUNK)
    with (
        writing_to(directory),
        tempfile.TemporaryDirectory(prefix=".download.", dir=directory) as temporary,
    ):
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
            raise damaged(
                download.url,
                f"expected SHA-256 {expected} (of {source}), got {digest}",
                "the file was not kept; try again later",
            )
        if download.sha256 is None:
            write_atomically(beside, f"{digest}  {path.name}\n")
        if path.exists():
            set_aside(path, "before")
        os.replace(fetched, path)
    return path


def _noted(beside: pathlib.Path) -> str:
    """The checksum of an earlier download."""
    found = _NOTE.match(beside.read_bytes())
    if found is None:
        raise damaged(beside, "expected a SHA-256", "remove it, and the file is downloaded again")
    return found[1].decode()


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
