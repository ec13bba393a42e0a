"""Files of records: lines of JSON, each sealed by a digest, added at the end and never rewritten."""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

from etils import epath

from poolax._files import damaged, json_object, writing_to
from poolax._locks import alone_in
from poolax._paths import write_atomically
from poolax.records._plain import as_written, digest
from poolax.records._schemas import check_record, renewed

_log = logging.getLogger(__name__)
_REMEDY = "remove the line, and the run that wrote it makes it again"
# Stands in the file alone, so that a record is equal to what was written.
_SEAL = "digest"
_PATIENCE = 60.0


class Lines(NamedTuple):
    """What a file holds.

    Attributes:
        rows: The records, in order.
        cut_off: Number of a last line that is cut off, and left out; ``None`` where none is.
    """

    rows: list[dict[str, Any]]
    cut_off: int | None


def read_lines(path: epath.Path, *, warns: bool = True) -> Lines:
    """The records of a file, in order.

    A last line that is cut off, as by a program that ended while it wrote, is left out, and told where
    it ``warns``.

    Raises:
        DamagedFileError: for a line that is not a JSON object, not the record that was written, or not
            as a record of its kind has to be.
    """
    content = path.read_bytes()
    lines = content.splitlines()
    cut_off = len(lines) if _is_cut_off(_last_line(content)) else None
    if cut_off is not None:
        del lines[-1]
        if warns:
            _log.warning("%s: line %d is cut off, and left out", os.fspath(path), cut_off)
    rows = [_unsealed(line, f"{os.fspath(path)}, line {n}") for n, line in enumerate(lines, 1)]
    return Lines(rows, cut_off)


def append_lines(path: epath.Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add records at the end of a file, which is made if it is not there.

    Programs that write to the same folder take turns. One that ends while it writes leaves at most its
    own last line cut off, which the next one takes away. A bucket has no files that grow: there the
    whole is written anew.

    Raises:
        ValueError: for a record that is not as its kind has to be.
        BlockingIOError: if another program does not let go of the folder for a minute.
        OSError: where the system refuses; the file is then as it was.
    """
    lines = _lines(rows)
    with alone_in(path.parent, name="records", seconds=_PATIENCE):
        if "://" in os.fspath(path):
            before = path.read_bytes() if path.exists() else b""
            kept, between = _end(before)
            write_atomically(path, before[:kept] + between + lines)
        else:
            with writing_to(path.parent):
                _append(path, lines)


def replace_lines(path: epath.Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Make records the whole of a file: what was there stays until all are written.

    Raises:
        ValueError: for a record that is not as its kind has to be.
        OSError: where the system refuses; the file is then as it was.
    """
    write_atomically(path, _lines(rows))


def _lines(rows):
    return "".join(json.dumps(_sealed(row), allow_nan=False) + "\n" for row in rows).encode()


def _append(path, lines):
    with open(path, "a+b", buffering=0) as file:
        kept = file.seek(0, os.SEEK_END)
        between = b""
        file.seek(max(kept - 1, 0))
        if file.read(1) not in (b"", b"\n"):
            file.seek(0)
            kept, between = _end(file.read())
            file.truncate(kept)
        rest = memoryview(between + lines)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except BaseException:
            file.truncate(kept)
            raise


def _end(content):
    """How much of a file stays when lines are added, and what comes between."""
    last = _last_line(content)
    if _is_cut_off(last):
        return len(content) - len(last), b""
    return len(content), b"\n" if last else b""


def _last_line(content):
    """What stands behind the last line break."""
    return content[content.rfind(b"\n") + 1 :]


def _is_cut_off(line):
    """Whether a line without a break behind it is only the beginning of a record."""
    try:
        json.JSONDecoder().raw_decode(line.decode(errors="replace"))
    except (ValueError, RecursionError):
        return line.startswith(b"{")
    return False


def _sealed(row):
    """A record as it is written: as its kind has to be, and with a digest of all the rest."""
    plain = as_written(row)
    plain.pop(_SEAL, None)
    check_record(plain)
    return plain | {_SEAL: digest(plain)}


def _unsealed(line, where):
    """A record as it was given to be written."""
    row = json_object(line, where, _REMEDY)
    said = row.pop(_SEAL, None)
    if said is None:
        _check_name(row, where)
    elif said != digest(row):
        problem = f"expected the record that was written, whose digest is {said}, got another"
        raise damaged(where, problem, _REMEDY)
    try:
        row = renewed(row)
        check_record(row)
    except ValueError as error:
        raise damaged(where, f"{error}{_other_version(row)}", _REMEDY) from None
    return row


def _other_version(row):
    """Which version wrote a record that this one does not take, where it is another."""
    versions = row.get("versions")
    writer = versions.get("poolax") if isinstance(versions, Mapping) else None
    own = version("poolax")
    return "" if writer in (None, own) else f", written by poolax {writer} (this is {own})"


def _check_name(row, where):
    """Refuse a record whose digest is there by another name; those of old versions have none."""
    name, said = next(reversed(row.items()), (None, None))
    if isinstance(said, str) and len(said) == len(digest(None)):
        rest = {other: value for other, value in row.items() if other != name}
        if said == digest(rest):
            raise damaged(where, f"expected its digest as {_SEAL!r}, got {name!r}", _REMEDY)
