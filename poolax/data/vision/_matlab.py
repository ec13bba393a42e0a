"""Vectors of numbers in MATLAB 5 files; a damaged one makes SciPy's reader end the process."""

import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np

MATLAB_ERRORS = (ValueError, LookupError, struct.error, zlib.error)
"""What anything else than such a file leads to."""

_HEAD = 128
_ORDERS = {b"IM": "<", b"MI": ">"}
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED, _COMPLEX = 14, 15, 0x800
_NUMERIC = range(6, 16)
_MOST_BYTES = 2**26


def read_vectors(content: bytes) -> dict[str, np.ndarray]:
    """Real vectors of a MATLAB 5 file by name; what else it holds is left out.

    Args:
        content: The file.

    Returns:
        Vectors in the types in which they are stored.

    Raises:
        ValueError: or another of ``MATLAB_ERRORS`` for anything else.

    Example:
        >>> import io, scipy.io
        >>> file = io.BytesIO()
        >>> scipy.io.savemat(file, {"labels": [[3, 1, 2]], "matrix": [[1, 2], [3, 4]]})
        >>> read_vectors(file.getvalue())
        {'labels': array([3, 1, 2])}

    Reference:
        MathWorks, "MAT-File Format", chapter on version 5.
    """
    order = _ORDERS[content[_HEAD - 2 : _HEAD]]
    found = {}
    for kind, body in _elements(content[_HEAD:], order):
        if kind == _COMPRESSED:
            [(kind, body)] = _elements(_inflated(body), order)
        if kind != _MATRIX:
            raise ValueError(f"an element of type {kind} where arrays stand")
        parts = [part for part, _ in zip(_elements(body, order), range(4), strict=False)]
        (_, flags), (_, shape), (_, name), (stored, values) = parts
        flags = struct.unpack_from(f"{order}I", flags)[0]
        if flags & 0xFF not in _NUMERIC or flags & _COMPLEX:
            continue
        vector = np.frombuffer(values, order + _TYPES[stored])
        shape = np.frombuffer(shape, f"{order}i4").tolist()
        if min(shape) < 0 or math.prod(shape) != len(vector):
            raise ValueError(f"shape {shape} of {len(vector)} numbers")
        if max(shape) != len(vector):
            continue
        found[name.decode("ascii")] = vector.astype(vector.dtype.newbyteorder("="))
    return found


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and bytes of elements that follow each other."""
    place = 0
    while place < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        start, step = place + 8, size
        if kind >> 16:  # at most four bytes, in place of the size
            kind, size, start, step = kind & 0xFFFF, kind >> 16, place + 4, 0
        elif kind != _COMPRESSED:
            step = -(-size // 8) * 8
        if start + size > len(content):
            raise ValueError(f"an element of {size} bytes where {len(content) - start} are left")
        yield kind, content[start : start + size]
        place += 8 + step


def _inflated(packed: bytes) -> bytes:
    stream = zlib.decompressobj()
    content = stream.decompress(packed, _MOST_BYTES)
    if not stream.eof:
        raise ValueError(f"a compressed array that ends early or has over {_MOST_BYTES} bytes")
    return content
