"""Text of data, such as names, labels and paths, made fit to be printed."""

import unicodedata

# They turn around what follows them, so that a reader sees another text than the one that is there.
_DIRECTIONS = frozenset(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]))
_KEPT = frozenset("\n\t")


def printable(text: str) -> str:
    r"""Text whose control characters are written out, but for line breaks and tabs.

    They would move a terminal's cursor, change its colours or its title; lone surrogates, as file names
    that are no UTF-8 have them, could not be printed at all.

    Example:
        >>> print(printable("\x1b[2Jred"))
        \x1b[2Jred
    """
    return "".join(_written_out(character) for character in text)


def one_line(text: object, *, longest: int | None = None) -> str:
    r"""Printable text on one line, cut off where it is long.

    Example:
        >>> one_line("two\n lines"), one_line("a" * 99, longest=9)
        ('two lines', 'aaaaaaa …')
    """
    line = " ".join(printable(str(text)).split())
    if longest is None or len(line) <= longest:
        return line
    return f"{line[: longest - 2].rstrip()} …"


def _written_out(character):
    controls = unicodedata.category(character) in ("Cc", "Cs") or character in _DIRECTIONS
    if character in _KEPT or not controls:
        return character
    return character.encode("unicode_escape").decode()
