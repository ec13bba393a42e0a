"""Which files a page is made of, and what of them can be read."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from poolax._files import DamagedFileError
from poolax._paths import absolute_path
from poolax._text import one_line
from poolax.records import Records

Row = Mapping[str, Any]
# A bucket has no folders that are walked through: so many floors below the one that is given.
_PATTERNS = ("*.jsonl", "*/*.jsonl", "*/*/*.jsonl")
#: Fields by which records of the first version, which did not say their kind, are known as heads.
_OF_HEADS = ("pooler", "task", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Source:
    """Records of one file.

    Attributes:
        name: The file's path within the folder.
        rows: Its records, without those that another file has.
    """

    name: str
    rows: Sequence[Row]

    def of_kind(self, *kinds: str) -> list[Row]:
        """Records of some kinds, in order."""
        return [row for row in self.rows if kind_of(row) in kinds]

    @property
    def kinds(self) -> list[str]:
        """Kinds of its records, in order of appearance."""
        return list(dict.fromkeys(map(kind_of, self.rows)))


@dataclasses.dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        name: Of the folder, or of the file.
        sources: Files with records.
        remarks: What was left out, a line each.
    """

    name: str
    sources: Sequence[Source]
    remarks: Sequence[str]


def kind_of(row: Row) -> str:
    """The kind of a record; of the first version's, which did not say it, that of heads."""
    return str(row.get("kind", "head"))


def read_sources(path: epath.PathLike) -> Found:
    """All records below a folder, or those of a file.

    A record that stands in several files counts once, where it says most.

    Raises:
        ValueError: if there is no record; ``DamagedFileError``, if no file can be read.
    """
    folder = absolute_path(path)
    files = _files(folder, path)
    known: dict[str, Records] = {}
    remarks, refused = [], None
    for name, file in files.items():
        try:
            records = Records.read(file, warns=False)
        except DamagedFileError as error:
            refused = error
            remarks.append(f"Left out: {one_line(error)}")
            continue
        if records.cut_off is not None:
            remarks.append(f"{name}: line {records.cut_off} is cut off, and left out.")
        strange = sum(not _is_record(row) for row in records)
        if strange:
            remarks.append(f"{name}: {strange} lines are no records of poolax, and left out.")
        known[name] = Records(row for row in records if _is_record(row))
    sources = [Source(name, rows) for name, rows in _once(known).items() if rows]
    if not sources and refused is not None:
        raise refused
    if not sources:
        raise ValueError(f"{os.fspath(path)}: expected records of poolax, got files without any")
    return Found(folder.name, sources, remarks)


def _files(folder: epath.Path, path: epath.PathLike) -> dict[str, epath.Path]:
    given = os.fspath(path)
    if folder.is_file():
        return {folder.name: folder}
    if not folder.is_dir():
        raise ValueError(f"{given}: expected a folder with records, got none of that name")
    files = {
        os.fspath(file.relative_to(folder)): file
        for pattern in _PATTERNS
        for file in sorted(folder.glob(pattern), key=os.fspath)
    }
    if not files:
        raise ValueError(f"{given}: expected a folder with records (*.jsonl), got one without")
    return files


def _is_record(row: Row) -> bool:
    kind = row.get("kind")
    return isinstance(kind, str) or (kind is None and all(name in row for name in _OF_HEADS))


def _once(known: Mapping[str, Iterable[Row]]) -> dict[str, list[Row]]:
    """Records of each file, without those that another file has with more in them."""
    best: dict[tuple[str, str], tuple[int, str]] = {}
    for name, rows in known.items():
        for row in rows:
            if isinstance(row.get("id"), str):
                key = (kind_of(row), row["id"])
                best[key] = max(best.get(key, (-1, "")), (len(row), name))
    return {
        name: [
            row for row in rows if best.get((kind_of(row), str(row.get("id"))), (0, name))[1] == name
        ]
        for name, rows in known.items()
    }
