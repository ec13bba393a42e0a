"""What goes wrong with files, told in one line: which file, what is wrong with it, and what to do."""

import contextlib
import errno
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from etils import epath

from poolax._text import one_line

_LONGEST = 500
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# TensorStore raises ValueError for what the system refuses, with the system's code in its text.
_SYSTEM_CODE = re.compile(r"\[os_error_code='(\d+)'\]")
# It also appends how it opened what it could not read, a kilobyte of JSON.
_SPECIFICATION = re.compile(r" \[tensorstore_spec=.*", re.DOTALL)
# NumPy says no more of a disk that fills up while it writes.
_CUT_OFF = re.compile(r"\d+ requested and \d+ written")


class DamagedFileError(OSError, ValueError):
    """A file does not hold what its format says, or what was written to it.

    A ``ValueError``, as for any content that is refused, and an ``OSError``, since it tells of a
    failure and not of arguments that are wrong: a program ends with 1 instead of 2.
    """


def damaged(path: epath.PathLike, problem: object, remedy: str) -> DamagedFileError:
    r"""The error for a damaged file.

    Args:
        path: Which file.
        problem: What is wrong with it, as ``"expected …, got …"`` or as its reader says.
        remedy: What to do about it.

    Returns:
        The error, whose message is one line of bounded length.

    Example:
        >>> damaged("a.json", "expected JSON,\n got '{'", "restore it from a copy")
        DamagedFileError("a.json: expected JSON, got '{'; restore it from a copy")
    """
    said = one_line(_SPECIFICATION.sub("", str(problem)), longest=_LONGEST)
    return DamagedFileError(f"{os.fspath(path)}: {said}; {remedy}")


@contextlib.contextmanager
def reading(
    path: epath.PathLike, expected: str, remedy: str, *errors: type[Exception]
) -> Iterator[None]:
    """Tell what a reader raises for the content of a file as damage of that file.

    Args:
        path: Which file is read.
        expected: What it has to be, such as ``"JSON"``.
        remedy: What to do where it is not.
        *errors: What the reader raises then.

    Raises:
        DamagedFileError: for one of ``errors``; one that is a ``DamagedFileError`` already, or the
            system's refusal of the file, is raised as it is.

    Example:
        >>> import json
        >>> with reading("a.json", "JSON", "restore it from a copy", ValueError):
        ...     json.loads("{")
        Traceback (most recent call last):
        ...
        poolax._files.DamagedFileError: a.json: expected JSON, got: Expecting property name enclosed \
in double quotes: line 1 column 2 (char 1); restore it from a copy
    """
    try:
        yield
    except errors as error:
        # Damage asks for places that no file has, which the system calls an invalid argument.
        refused = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
        if refused or isinstance(error, DamagedFileError):
            raise
        said = str(error) or type(error).__name__
        raise damaged(path, f"expected {expected}, got: {said}", remedy) from error


def json_object(content: bytes | str, where: epath.PathLike, remedy: str) -> dict[str, Any]:
    """The object that JSON holds.

    Args:
        content: UTF-8.
        where: File, and line where it has several.
        remedy: What to do where it holds anything else.

    Returns:
        The object.

    Raises:
        DamagedFileError: for anything else, nested too deep or numbers too long included.

    Example:
        >>> json_object(b'{"width": 2}', "a.json", "restore it from a copy")
        {'width': 2}
    """
    with reading(where, "a JSON object", remedy, ValueError, RecursionError):
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        value = json.loads(text)
    if not isinstance(value, dict):
        raise damaged(where, f"expected a JSON object, got {text}", remedy)
    return value


@contextlib.contextmanager
def writing_to(folder: epath.PathLike) -> Iterator[None]:
    """Name the folder where the system takes no more data, as on a full disk.

    Args:
        folder: Where is written to.

    Raises:
        OSError: with the system's code and the folder, in place of what a writer makes of it; one that
            names a file elsewhere, such as one that is read, keeps that.

    Example:
        >>> with writing_to("/tmp/run"):
        ...     raise OSError(28, "No space left on device")
        Traceback (most recent call last):
        ...
        OSError: [Errno 28] No space left on device; free some and run the same again: '/tmp/run'
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        code = _code(error)
        if code is None:
            raise
        advice = "; free some and run the same again" if code in _FULL else ""
        where = os.fspath(folder)
        if _names_another(error, where):
            where = getattr(error, "filename", where)
        raise OSError(code, os.strerror(code) + advice, where) from error


def _names_another(error, folder):
    """Whether an error names a file that is not in a folder, where names may be temporary ones."""
    named = getattr(error, "filename", None)
    if not isinstance(named, (str, bytes, os.PathLike)):
        return False
    path = pathlib.PurePath(os.fsdecode(named))
    return not path.is_relative_to(folder)


def system_code(error: BaseException) -> int | None:
    """The code with which the system refused TensorStore something; ``None`` if it did not."""
    found = _SYSTEM_CODE.search(str(error))
    return int(found[1]) if found else None


def _code(error):
    """The system's code where it refused to write and the error does not say where; else ``None``."""
    if isinstance(error, DamagedFileError):
        return None
    code = system_code(error)
    if code is not None:
        return code
    if _CUT_OFF.search(str(error)):
        return errno.ENOSPC
    if isinstance(error, RuntimeError):  # array records say it in words alone
        return next((code for code in _FULL if os.strerror(code) in str(error)), None)
    code = getattr(error, "errno", None)
    if code == errno.EIO:
        return None if getattr(error, "filename", None) is not None else code
    return code if code in _FULL else None
