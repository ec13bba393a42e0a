"""How far noise moves pooled vectors, as a figure: as it is, and by the vectors' own length."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from poolax.reporting._canvas import PathOrPaths, legend_label, new_figure, save_figure, styled
from poolax.reporting._looks import looks_of

NOISE = "root mean square norm of the noise, ε"
DISTANCE = "mean distance of pooled vectors"
RELATIVE = "mean distance by mean length"
_FIELDS = ("mean", "low", "high")


@styled
def plot_noise_curves(records: Iterable[Mapping[str, Any]], path: PathOrPaths) -> None:
    """Mean distance of pooled vectors against the size of noise on the input, a line each pooler.

    A sum is n times an average, and so is its distance: a second panel has distances by the mean length
    of the pooled vectors, of poolers whose records hold it.

    Args:
        records: Records of kind ``"noise_curve"``.
        path: PNG, PDF or SVG to write, or several.

    Raises:
        ValueError: for a path that ends otherwise.
    """
    rows = list(records)
    relative = relative_curves(rows)
    figure, axes = new_figure(8.4 if relative else 5.2, 3.6, columns=1 + bool(relative), share="none")
    draw_noise_curves(axes[0], rows)
    axes[0].set(xlabel=NOISE, ylabel=DISTANCE, title="as they are" if relative else "")
    if relative:
        draw_noise_curves(axes[1], relative, legend=False)
        axes[1].set(xlabel=NOISE, ylabel=RELATIVE, title="by the length of the vectors")
    save_figure(figure, path)


def relative_curves(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Curves by the mean length of the vectors without noise, of those whose length is known."""
    return [
        {**row, **{name: (np.asarray(row[name]) / row["length"]).tolist() for name in _FIELDS}}
        for row in rows
        if row.get("length")
    ]


def draw_noise_curves(axes: Any, records: Iterable[Mapping[str, Any]], *, legend: bool = True) -> None:
    """A line for each pooler with the band of its interval."""
    rows = list(records)
    looks = looks_of(row["pooler"] for row in rows)
    for row in rows:
        look = looks[row["pooler"]]
        shown = [k for k, epsilon in enumerate(row["epsilon"]) if epsilon > 0]
        epsilon, mean, low, high = ([row[name][k] for k in shown] for name in ("epsilon", *_FIELDS))
        axes.plot(
            epsilon,
            mean,
            marker=look.marker,
            color=look.colour,
            linestyle=look.line,
            label=legend_label(row["pooler"]),
        )
        axes.fill_between(epsilon, low, high, color=look.colour, alpha=0.18, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    if legend:
        axes.legend()
