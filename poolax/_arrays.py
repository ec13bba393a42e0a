"""Arrays of .npy and .npz files, read to the last byte, so that damage shows."""

import tokenize
import zipfile
import zlib
from typing import IO

import numpy as np

ARRAY_ERRORS = (
    *(ValueError, OSError, EOFError, LookupError, TypeError, RuntimeError, SyntaxError, MemoryError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What a damaged file leads to, in NumPy and in what it reads by."""

_ZIP = b"PK"


def read_arrays(file: IO[bytes]) -> dict[str, np.ndarray]:
    """The arrays of an open .npz file by name, or that of a .npy file as ``""``; nothing pickled.

    Args:
        file: Open for reading, at its beginning.

    Returns:
        The arrays.

    Raises:
        ValueError: or another of ``ARRAY_ERRORS`` for anything else, such as a header that names less
            than follows it.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> np.savez(file, a=np.arange(3))
        >>> _ = file.seek(0)
        >>> read_arrays(file)
        {'a': array([0, 1, 2])}
    """
    start = file.read(len(_ZIP))
    file.seek(0)
    if start != _ZIP:
        return {"": _read(file)}
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        for member in archive.namelist():
            with archive.open(member) as stored:
                arrays[member.removesuffix(".npy")] = _read(stored)
    return arrays


def _read(file):
    array = np.lib.format.read_array(file, allow_pickle=False)
    # A zip file compares its checksum where the last byte is read, and .npy has none at all.
    if file.read(1):
        raise ValueError(f"more bytes than an array of shape {array.shape} and {array.dtype} has")
    return array
