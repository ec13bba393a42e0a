"""Paths, local or in a bucket, and files that are never half written."""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterator

from etils import epath

from poolax._checks import check_path
from poolax._files import writing_to

# File systems take names of up to 255 bytes.
_MOST_BYTES = 160


def absolute_path(path: epath.PathLike) -> epath.Path:
    """An absolute path with ``~`` expanded; a bucket's (``gs://``) stays as it is.

    An empty one is refused: it would be the current folder.
    """
    check_path("path", path)
    path = epath.Path(path)
    return path if "://" in os.fspath(path) else path.expanduser().resolve()


def size_and_time(path: epath.PathLike) -> tuple[int, int]:
    """Bytes of a file and when it was changed, in nanoseconds; a bucket has whole seconds.

    ``epath.Path.stat`` also asks for the owner's name, and raises ``KeyError`` for a file of a user
    that the system does not know: many in containers and on shared disks.
    """
    path = os.fspath(path)
    if "://" in path:
        found = epath.Path(path).stat()
        return found.length, found.mtime * 10**9
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def write_atomically(path: epath.PathLike, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    Raises:
        OSError: where the system refuses; it names the folder where the disk is full.
    """
    path = epath.Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with writing_to(path.parent):
            if isinstance(content, str):
                temporary.write_text(content)
            else:
                temporary.write_bytes(content)
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def new_folder(path: epath.PathLike) -> Iterator[epath.Path]:
    """A folder to write into, which is at ``path`` once all is written, or not at all.

    Args:
        path: Where it is to be; nothing may be there.

    Raises:
        ValueError: if something is there.
        OSError: where the system refuses; it names the folder where the disk is full.
    """
    folder = absolute_path(path)
    if folder.exists():
        raise ValueError(f"directory: expected a new one, got {path}, where there is something")
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    with writing_to(folder.parent):
        # What is there already by this name is of somebody else, and stays.
        temporary.mkdir(parents=True)
        try:
            yield temporary
            temporary.rename(folder)
        except BaseException:
            temporary.rmtree()
            raise


def set_aside(path: epath.PathLike, ending: str) -> epath.Path:
    """Rename a file or folder to ``NAME.ENDING``, or ``NAME.ENDING-2`` and so on where that is taken.

    Args:
        path: What to rename.
        ending: Says why.

    Returns:
        Its new path.
    """
    path = epath.Path(path)
    names = itertools.chain([ending], (f"{ending}-{number}" for number in itertools.count(2)))
    free = next(
        other for name in names if not (other := path.with_name(f"{path.name}.{name}")).exists()
    )
    return path.rename(free)


def path_component(text: str) -> str:
    """A name of one folder for any text: the text itself where it can be one.

    Characters that separate folders or cannot be printed are percent-encoded, as are texts that mean
    another folder; long texts are cut, and told apart by their digest.

    Example:
        >>> path_component("avg, no CLS"), path_component("../../victim"), path_component("..")
        ('avg, no CLS', '..%2F..%2Fvictim', '%2E%2E')
    """
    name = "".join(c if c.isprintable() and c not in "/\\" else _quote(c) for c in text)
    if name in ("", ".", ".."):
        name = "".join(map(_quote, text or "\0"))
    if len(name.encode()) <= _MOST_BYTES:
        return name
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    kept = name.encode()[: _MOST_BYTES - len(digest) - 1].decode(errors="ignore")
    return f"{kept}-{digest}"


def _quote(character):
    encoded = character.encode(errors="surrogatepass")
    return "".join(f"%{byte:02X}" for byte in encoded)
