"""Texts as documents, piece by piece, so that none has to fit in memory."""

import codecs
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator

from etils import epath

# Characters of a piece: what is held of one document at a time.
PIECE = 1 << 20

Piece = tuple[str, bool]
"""A part of a document, and whether the document ends with it."""


@dataclasses.dataclass(frozen=True)
class Documents:
    """Documents that are read anew, one after another, whenever they are asked for.

    A document longer than a megabyte comes in pieces of about that length, cut behind a line where
    there is one.

    Attributes:
        pieces: Reads all of them: parts of documents, each with whether its document ends there.
        unit: What a document is: ``"file"``, ``"paragraph"``, ``"line"``, ``"row"``, ``"example"``, or
            what stands behind each.
        sources: Where they come from.
        size: Bytes that are read, which progress is counted in.
        notes: What was decided where the source leaves a choice.
        version: A digest that another content has another one of: of texts, or of names, lengths and
            times of files, which need not be read for it; empty where nobody said.

    Example:
        >>> texts = Documents.of(["one", "two"])
        >>> list(texts.pieces()), list(texts)
        ([('one', True), ('two', True)], ['one', 'two'])
    """

    pieces: Callable[[], Iterator[Piece]]
    unit: str
    sources: tuple[str, ...]
    size: int
    notes: tuple[str, ...] = ()
    version: str = ""

    @classmethod
    def of(cls, texts: Iterable[str], *, unit: str = "example", source: str = "texts") -> "Documents":
        """Documents of a sequence of texts, those of nothing but white space left out."""
        kept = [text for text in texts if text.strip()]
        digest, size = hashlib.sha256(), 0
        for text in kept:
            content = text.encode()
            size += len(content)
            digest.update(f"{len(content)} ".encode() + content)
        version = digest.hexdigest()
        return cls(lambda: joined((text, True) for text in kept), unit, (source,), size, (), version)

    def __iter__(self) -> Iterator[str]:
        """Whole documents, one by one."""
        parts: list[str] = []
        for text, ends in self.pieces():
            parts.append(text)
            if ends:
                yield "".join(parts)
                parts = []


def joined(parts: Iterable[Piece]) -> Iterator[Piece]:
    r"""Parts of documents as pieces of bounded length; documents of white space alone are left out.

    Line ends at the beginning and at the end of a document are no part of it.

    Args:
        parts: Parts in order; the last of all has to end its document.

    Returns:
        The pieces.

    Example:
        >>> list(joined([("\na\n", False), ("b\n", True), ("  ", True), ("c", True)]))
        [('a\nb', True), ('c', True)]
    """
    held: list[str] = []
    size, has_begun = 0, False
    for text, ends in parts:
        for start in range(0, len(text), PIECE):
            held.append(text[start : start + PIECE])
            size += len(held[-1])
            if size < PIECE:
                continue
            whole = "".join(held) if has_begun else "".join(held).lstrip("\r\n")
            # Whether line ends are the last of a document shows only later.
            piece = whole.rstrip("\r\n")
            if piece:
                yield piece, False
                has_begun = True
            held, size = [whole[len(piece) :]], len(whole) - len(piece)
        if ends:
            last = "".join(held).rstrip("\r\n")
            last = last if has_begun else last.lstrip("\r\n")
            if has_begun or last.strip():
                yield last, True
            held, size, has_begun = [], 0, False


def lines_of(path: epath.Path) -> Iterator[str]:
    """Lines of a UTF-8 file with their ends, one longer than a piece in parts; no byte order mark.

    Raises:
        ValueError: for other bytes; the error names file and line.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    number, is_first = 1, True
    with path.open("rb") as file:
        while True:
            chunk = file.readline(PIECE)
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: expected text in UTF-8, got {error.reason} "
                    f"(byte 0x{error.object[error.start]:02x})"
                ) from None
            if not chunk:
                return
            number += chunk.endswith(b"\n")
            if is_first:
                text, is_first = text.removeprefix("\ufeff"), False
            if text:
                yield text


def by_file(lines: Iterable[str]) -> Iterator[Piece]:
    """All lines as one document."""
    yield from ((line, False) for line in lines)
    yield "", True


def by_line(lines: Iterable[str]) -> Iterator[Piece]:
    """Each line as a document."""
    yield from ((line, line.endswith("\n")) for line in lines)
    yield "", True


def by_paragraph(lines: Iterable[str]) -> Iterator[Piece]:
    """Lines between blank ones as a document."""
    for line in lines:
        yield (line, False) if line.strip() else ("", True)
    yield "", True


def by_separator(lines: Iterable[str], separator: str) -> Iterator[Piece]:
    """What stands between separators, which hold no line end, as a document."""
    rest = ""
    for line in lines:
        *whole, rest = (rest + line).split(separator)
        yield from ((text, True) for text in whole)
        # Where a long line was cut, a separator can have begun in its last characters.
        kept = 0 if rest.endswith("\n") else min(len(separator) - 1, len(rest))
        yield rest[: len(rest) - kept], False
        rest = rest[len(rest) - kept :]
    yield rest, True
