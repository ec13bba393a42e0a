"""Paths, local or in a bucket, and text files that are never half written."""

import os

from etils import epath


def absolute_path(path: epath.PathLike) -> epath.Path:
    """An absolute path with ``~`` expanded; a bucket's (``gs://``) stays as it is."""
    path = epath.Path(path)
    return path if "://" in os.fspath(path) else path.expanduser().resolve()


def write_atomically(path: epath.PathLike, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part."""
    path = epath.Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
