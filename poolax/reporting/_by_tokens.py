"""Lipschitz bounds against the number of tokens: where they grow with it, and where they do not."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from poolax._text import one_line
from poolax.reporting._canvas import PathOrPaths, legend_below, new_figure, save_figure, styled
from poolax.reporting._ladder import RUNGS, attention_name

_KINDS = ("bounds", "bounds_inputs", "bounds_lengths")
#: What is drawn of a record, by rung.
FIELDS = {
    "measured_adversarial": "found",
    "local": "local",
    "tight": "tight",
    "sharp": "sharp",
    "published": "published",
}
_MOST_COLUMNS = 3


@styled
def plot_bounds_by_tokens(records: Iterable[Mapping[str, Any]], path: PathOrPaths) -> None:
    """Published, sharp and tight bounds against the number of tokens, and what a search finds.

    A panel for each kind of attention and pooler, or whatever else was bounded. Of several records with
    one number of tokens, as of other weights, it is the geometric mean.

    Args:
        records: Of kind ``"bounds"``, which ``poolax bounds --json`` prints, a call for each number of
            tokens; or of kinds ``"bounds_lengths"`` and, with the largest norm that a search found,
            ``"bounds_inputs"``, which ``experiments/bounds.py`` writes. Where a bound is for a range of
            lengths, it stands at the largest of them.
        path: PNG, PDF or SVG to write, or several.

    Raises:
        ValueError: if there are no such records of two numbers of tokens or more; for a path that ends
            otherwise.
    """
    panels: dict[tuple[str, str], dict[str, dict[int, list[float]]]] = {}
    for row in records:
        # Those of backbones have no kind of attention.
        if row.get("kind") in _KINDS and "attention" in row:
            num_tokens, target = row["num_tokens"], row.get("target") or row.get("pooler", "")
            longest = num_tokens if isinstance(num_tokens, int) else num_tokens[-1]
            curves = panels.setdefault((row["attention"], target), {})
            for name, field in FIELDS.items():
                if row.get(field):
                    curves.setdefault(name, {}).setdefault(longest, []).append(row[field])
    sizes = {size for curves in panels.values() for curve in curves.values() for size in curve}
    if len(sizes) < 2:
        raise ValueError(f"records: expected bounds for several numbers of tokens, got {len(sizes)}")
    columns = min(len(panels), _MOST_COLUMNS)
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(2.9 * columns + 0.4, 2.9 * rows + 0.5, rows=rows, columns=columns)
    for panel, ((kind, target), curves) in zip(axes, panels.items(), strict=False):
        _draw(panel, curves)
        title = ", ".join(filter(None, (f"{attention_name(kind)} attention", target)))
        panel.set_title(one_line(title), parse_math=False)
        panel.set_xticks(sorted(sizes))
        panel.minorticks_off()
        panel.xaxis.set_major_formatter("{x:.0f}")
        panel.set_xlabel("tokens, n")
    for panel in axes[len(panels) :]:
        panel.set_axis_off()
    for panel in axes[::columns]:
        panel.set_ylabel("Lipschitz constant")
    legend_below(figure, axes[: len(panels)])
    save_figure(figure, path)


def _draw(panel, curves):
    for name, rung in RUNGS.items():
        if name in curves:
            means = {size: np.exp(np.mean(np.log(own))) for size, own in sorted(curves[name].items())}
            panel.plot(
                list(means),
                list(means.values()),
                linestyle=rung.line,
                marker="o" if rung.marker == "_" else rung.marker,
                markersize=3.5,
                color=rung.colour,
                label=rung.label,
            )
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
