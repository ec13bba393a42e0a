"""Records and tables that a page carries with it, to be saved from it."""

import base64
import collections
import dataclasses
import gzip
import json
import re
from collections.abc import Sequence

from poolax.reporting._page.grids import Grid
from poolax.reporting._page.sources import Row, Source

# What heads predict of each example: most of a file, and nothing that the page shows.
_LEFT_OUT = ("predictions", "test_scores")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclasses.dataclass(frozen=True)
class Download:
    """A file in a page.

    Attributes:
        name: Under which it is saved.
        words: What it is.
        href: Its content, as an address.
    """

    name: str
    words: str
    href: str

    @property
    def size(self) -> str:
        """How large the page is for it."""
        return f"{len(self.href) / 1e3:,.0f} kB"


def downloads_of(grids: Sequence[tuple[Source, Grid]], sources: Sequence[Source]) -> list[Download]:
    """Tables to sort, of whose files they are, as CSV, and the records of each file, compressed."""
    titles = collections.Counter(grid.title for _, grid in grids)
    tables = []
    for source, grid in grids:
        name, words = grid.title, grid.title
        if titles[grid.title] > 1:
            name, words = f"{source.name.removesuffix('.jsonl')}-{name}", f"{words} of {source.name}"
        tables.append(Download(file_name(name, ".csv"), words, _address(grid.csv.encode(), "text/csv")))
    return [*tables, *map(_records, sources)]


def fitting(downloads: Sequence[Download], room: int) -> tuple[list[Download], list[Download]]:
    """Those that fit in so many bytes, the small ones first, and the others."""
    kept: list[Download] = []
    for download in sorted(downloads, key=lambda one: len(one.href)):
        if sum(len(one.href) for one in kept) + len(download.href) <= room:
            kept.append(download)
    return [one for one in downloads if one in kept], [one for one in downloads if one not in kept]


def _records(source: Source) -> Download:
    lines = "".join(json.dumps(_told(row)) + "\n" for row in source.rows).encode()
    has_more = any(name in row for row in source.rows for name in _LEFT_OUT)
    words = f"{len(source.rows):,} records as JSON lines"
    words += ", without what heads predict of each example" if has_more else ""
    # No date, which would make each page another one.
    address = _address(gzip.compress(lines, mtime=0), "application/gzip")
    return Download(file_name(source.name, ".gz"), words, address)


def _told(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in _LEFT_OUT}


def _address(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def file_name(text: str, ending: str) -> str:
    """Letters, digits, dots and dashes alone, whatever a title or a folder is called."""
    return f"{_UNSAFE.sub('-', text).strip('-.')}{ending}"
