"""How poolers look in every figure: a colour, a marker and a line of its own for each of them."""

import itertools
import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

# Six of Okabe and Ito's, and two more that stay as far apart for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5A55D6", "#9A5B3C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h", "<", ">", "p", "*", "d", "8")
LINES = ("-", "--", "-.", ":")


class Look(NamedTuple):
    """What a pooler is drawn with.

    Attributes:
        colour: Of lines and markers.
        marker: In Matplotlib's letters.
        line: Style of lines.
    """

    colour: str
    marker: str
    line: str = "-"


_BLUE, _RED, _GREEN, _PINK, _ORANGE, _SKY, _VIOLET, _BROWN = COLOURS
#: The paper's poolers and those of the first figures have a colour of their own; the others share
#: colours and differ by their marker.
POOLERS: Mapping[str, Look] = {
    "last": Look(_BLUE, "o"),
    "avg": Look(_RED, "s"),
    "sum": Look(_GREEN, "^"),
    "max": Look(_PINK, "D"),
    "wavg": Look(_ORANGE, "v"),
    "attn": Look(_SKY, "P"),
    "map": Look(_VIOLET, "X"),
    "hybrid": Look(_BROWN, "h"),
    "first": Look(_BLUE, "<", "--"),
    "sqrt": Look(_GREEN, ">", "--"),
    "l2": Look(_PINK, "p", "--"),
    "lse": Look(_PINK, "*", "-."),
    "ep": Look(_VIOLET, "d", "--"),
    "abmil": Look(_SKY, "8", "--"),
    "multimax": Look(_PINK, "o", ":"),
    "rolling": Look(_RED, "^", "--"),
    "position": Look(_ORANGE, "D", "--"),
    "weightedmean": Look(_ORANGE, "P", "-."),
    "concat": Look(_BROWN, "X", "--"),
    "projected": Look(_BROWN, "o", "-."),
    "norm": Look(_GREEN, "s", "-."),
    "unit": Look(_RED, "p", "-."),
    "skip": Look(_VIOLET, "v", "-."),
    "layers": Look(_BLUE, "*", "-."),
}
_ALIASES = {"cls": "first"}
_KNOWN = {(look.colour, look.marker) for look in POOLERS.values()}
_OTHERS = [
    Look(colour, marker, LINES[number % len(LINES)])
    for number, (marker, colour) in enumerate(itertools.product(MARKERS, COLOURS))
    if (colour, marker) not in _KNOWN
]


def looks_of(names: Iterable[str]) -> dict[str, Look]:
    """What each of several poolers is drawn with.

    Those of this package look everywhere the same. Of others the name alone decides, so that they too
    look alike in all figures, unless two names of one figure would look the same.

    Args:
        names: Of poolers, as records call them.

    Returns:
        Looks that differ from each other in colour or marker, by name.

    Example:
        >>> looks_of(["avg", "mine"])["avg"]
        Look(colour='#D55E00', marker='s', line='-')
        >>> looks_of(["mine"]) == {"mine": looks_of(["sum", "mine", "yours"])["mine"]}
        True
    """
    found: dict[str, Look] = {}
    for name in dict.fromkeys(names):
        known = POOLERS.get(_ALIASES.get(name, name))
        if known is None or known in found.values():
            start = zlib.crc32(name.encode(errors="surrogatepass"))
            ring = (_OTHERS[(start + step) % len(_OTHERS)] for step in range(len(_OTHERS)))
            # Of more names than there are looks the last ones look like others.
            known = next((look for look in ring if look not in found.values()), _OTHERS[0])
        found[name] = known
    return found


def series_look(index: int) -> Look:
    """What the series of a figure that are no poolers are drawn with, such as runs and seeds."""
    return Look(
        COLOURS[index % len(COLOURS)],
        MARKERS[index % len(MARKERS)],
        LINES[index // len(COLOURS) % len(LINES)],
    )
