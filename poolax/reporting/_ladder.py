"""The ladder of Lipschitz constants: measured, local, tight, sharp, published."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from poolax._text import one_line
from poolax.reporting._canvas import INK, PathOrPaths, legend_below, new_figure, save_figure, styled
from poolax.reporting._constants import constants_of
from poolax.reporting._looks import COLOURS

_KINDS = {"dot": "dot-product", "dot product": "dot-product", "l2": "L2", "cosine": "scaled cosine"}


class Rung(NamedTuple):
    """A kind of constant.

    Attributes:
        label: In the legend.
        marker: In Matplotlib's letters; measured ones are points, bounds are bars.
        colour: Of both.
        line: Of lines that join them.
    """

    label: str
    marker: str
    colour: str
    line: str


#: From below to above, the same in every figure.
RUNGS: Mapping[str, Rung] = {
    "measured_real": Rung("measured at inputs", "o", COLOURS[0], "-"),
    "measured_adversarial": Rung("measured by search", "^", COLOURS[5], "-"),
    "local": Rung("local bound at the inputs", "_", COLOURS[2], "-."),
    "local_around": Rung("local bound around inputs", "_", COLOURS[3], "-."),
    "tight": Rung("tight bound", "_", COLOURS[4], "-"),
    "sharp": Rung("sharp bound", "_", COLOURS[1], "--"),
    "published": Rung("published bound", "_", INK, ":"),
}


@styled
def plot_sensitivity(records: Iterable[Mapping[str, Any]], path: PathOrPaths) -> None:
    """Measured Lipschitz constants and their bounds, a panel for each kind of attention.

    Args:
        records: Records of kind ``"lipschitz"`` or ``"lipschitz_at_inputs"``.
        path: PNG, PDF or SVG to write, or several.

    Raises:
        ValueError: if there is no record, or one of another kind; for a path that ends otherwise.
    """
    found = constants_of(records)
    kinds = list(dict.fromkeys(row["attention"] for row in found))
    widths = [max(2.6, 0.42 * sum(row["attention"] == kind for row in found)) for kind in kinds]
    figure, panels = new_figure(sum(widths) + 0.6, 3.6, columns=len(kinds), width_ratios=widths)
    series = {name: rung for name, rung in RUNGS.items() if any(row[name] is not None for row in found)}
    for axes, kind in zip(panels, kinds, strict=True):
        rows = [row for row in found if row["attention"] == kind]
        for place, row in enumerate(rows):
            values = [row[name] for name in series if row[name]]
            if values:
                axes.vlines(place, min(values), max(values), color=INK, alpha=0.2, linewidth=1)
        for name, rung in series.items():
            points = [(k, row[name]) for k, row in enumerate(rows) if row[name]]
            draw_rung(axes, rung, *(zip(*points, strict=True) if points else ([], [])))
        axes.set_yscale("log")
        labels = [one_line(row["pooler"]) for row in rows]
        axes.set_xticks(range(len(rows)), labels, parse_math=False)
        axes.set_xlim(-0.6, len(rows) - 0.4)
        axes.set_title(f"{one_line(attention_name(kind))} attention", parse_math=False)
    panels[0].set_ylabel("Lipschitz constant")
    legend_below(figure, panels[:1], columns=3)
    save_figure(figure, path)


def attention_name(kind: str) -> str:
    """A kind of attention in words, as titles have it."""
    return _KINDS.get(kind, kind)


def draw_rung(axes: Any, rung: Rung, places: Iterable[float], values: Iterable[float]) -> None:
    """Draw a kind of constant in a panel: points, or bars for bounds."""
    is_bound = rung.marker == "_"
    axes.plot(
        places,
        values,
        rung.marker,
        color=rung.colour,
        markersize=13 if is_bound else 5,
        markeredgewidth=2.4 if is_bound else 0.8,
        label=rung.label,
        zorder=2 if is_bound else 3,
    )
