"""Lipschitz constants of poolers in two norms: tokens share a budget of change, or each has its own."""

from collections.abc import Iterable, Mapping
from typing import Any

from poolax._text import one_line
from poolax.reporting._by_tokens import FIELDS
from poolax.reporting._canvas import INK, PathOrPaths, legend_below, new_figure, save_figure, styled
from poolax.reporting._ladder import RUNGS, attention_name, draw_rung

_ROWS = {"frobenius": "all together", "tokens": "each token"}


@styled
def plot_bounds_by_geometry(records: Iterable[Mapping[str, Any]], path: PathOrPaths) -> None:
    """What a search finds and bounds of poolers, a row of panels for each norm of changes.

    Args:
        records: Of kind ``"bounds_geometry"``, which ``experiments/bounds.py`` writes.
        path: PNG, PDF or SVG to write, or several.

    Raises:
        ValueError: if there are no such records; for a path that ends otherwise.
    """
    found = [row for row in records if row.get("kind") == "bounds_geometry"]
    if not found:
        raise ValueError("records: expected bounds by geometry, got none")
    kinds = list(dict.fromkeys(row["attention"] for row in found))
    poolers = list(dict.fromkeys(row["target"] for row in found))
    size = max(2.4, 0.42 * len(poolers) + 0.6) * len(kinds) + 0.6, 2.5 * len(_ROWS) + 0.5
    figure, axes = new_figure(*size, rows=len(_ROWS), columns=len(kinds), share="col")
    panels = iter(axes)
    for geometry, budget in _ROWS.items():
        for index, kind in enumerate(kinds):
            panel = next(panels)
            rows = [row for row in found if (row["geometry"], row["attention"]) == (geometry, kind)]
            _draw(panel, {row["target"]: row for row in rows}, poolers)
            panel.set_title(f"{one_line(attention_name(kind))}, {budget}", parse_math=False)
            if index == 0:
                panel.set_ylabel("Lipschitz constant")
    legend_below(figure, axes[:1], columns=4)
    save_figure(figure, path)


def _draw(panel, rows, poolers):
    for name, rung in RUNGS.items():
        field = FIELDS.get(name)
        points = [(k, rows[own][field]) for k, own in enumerate(poolers) if own in rows and field]
        points = [point for point in points if point[1]]
        if points:
            draw_rung(panel, rung, *zip(*points, strict=True))
    for place, own in enumerate(poolers):
        if own in rows:
            values = [rows[own][field] for field in FIELDS.values() if rows[own].get(field)]
            panel.vlines(place, min(values), max(values), color=INK, alpha=0.2, linewidth=1)
    panel.set_yscale("log")
    panel.set_xticks(range(len(poolers)), [one_line(name) for name in poolers], parse_math=False)
    panel.set_xlim(-0.6, len(poolers) - 0.4)
