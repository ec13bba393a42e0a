"""The figures of the documentation, made from the records in results/ alone; written by summary.py."""

import pathlib
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import bounds_records

from poolax.records import Records, digest
from poolax.reporting import (
    plot_bounds_by_geometry,
    plot_bounds_by_tokens,
    plot_radar,
    plot_regularized,
    plot_scores,
)

#: Where they stand, from the folder above experiments/.
FOLDER = pathlib.Path("poolax", "docs", "figures")
_CREATOR = re.compile(r"<dc:title>(.*?)</dc:title>", re.DOTALL)
_DIGEST = re.compile(r"<!-- Of records ([0-9a-f]+) -->")


class Figure(NamedTuple):
    """A figure of some of the records.

    Attributes:
        records: File of them, below results/.
        draw: Function that draws them to a path.
        fields: What those that are drawn have in common.
        read: Reads the file.
    """

    records: str
    draw: Callable[[Sequence[Any], Any], None]
    fields: Mapping[str, Any]
    read: Callable[[pathlib.Path], Records] = Records.read


FIGURES = {
    "scores-digits.svg": Figure("vision.jsonl", plot_scores, {"dataset": "digits"}),
    "radar-language.svg": Figure("language.jsonl", plot_radar, {}),
    "regularize.svg": Figure("regularize/regularize.jsonl", plot_regularized, {}),
    "bounds-by-tokens.svg": Figure(
        # At the numbers of tokens of the random suite, with what its search found.
        "bounds/bounds.jsonl",
        plot_bounds_by_tokens,
        {"target": "avg", "dim": 16, "num_heads": 4, "scale": 1.0},
        bounds_records.read,
    ),
    "bounds-by-geometry.svg": Figure(
        "bounds/bounds.jsonl",
        plot_bounds_by_geometry,
        {"kind": "bounds_geometry"},
        bounds_records.read,
    ),
}


def drawings(results: pathlib.Path) -> dict[str, str]:
    """The figures for which there are records: SVG, by the names of their files.

    Args:
        results: Folder of the records.
    """
    found = {}
    for name, figure in FIGURES.items():
        path = results / figure.records
        rows = figure.read(path).where(**figure.fields) if path.exists() else ()
        if len(rows):
            found[name] = _svg(figure, rows)
    return found


def is_same(one: str, other: str) -> bool:
    """Whether two drawings are of the same records, and the same where one Matplotlib made both.

    Another version of it places labels in another way.
    """
    if _found(_CREATOR, one) != _found(_CREATOR, other):
        return _found(_DIGEST, one) == _found(_DIGEST, other)
    return one == other


def _svg(figure: Figure, rows: Records) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "figure.svg")
        figure.draw(rows, path)
        return f"{path.read_text()}<!-- Of records {digest(list(rows))} -->\n"


def _found(pattern, text):
    match = pattern.search(text)
    return match and match[1]
