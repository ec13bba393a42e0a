"""Scores along an axis of numbers: a line of means, bars, and a point for each seed or draw."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from poolax.reporting._canvas import legend_label
from poolax.reporting._looks import Look
from poolax.reporting._marks import shown


def draw_spread(
    axes: Any, scores: Mapping[Any, Sequence[float]], metric: str, label: str, look: Look
) -> None:
    """Means with their standard deviation, and all that they are means of.

    Args:
        axes: Panel of Matplotlib.
        scores: Of each place on the horizontal axis, in order.
        metric: Of the scores.
        label: In the legend.
        look: Colour, marker and line.
    """
    found = {place: [shown(value, metric) for value in values] for place, values in scores.items()}
    single = [(place, value) for place, values in found.items() if len(values) > 1 for value in values]
    if single:
        axes.plot(*zip(*single, strict=True), ".", color=look.colour, markersize=3, alpha=0.4)
    axes.errorbar(
        list(found),
        [float(np.mean(values)) for values in found.values()],
        yerr=[float(np.std(v, ddof=1)) if len(v) > 1 else 0.0 for v in found.values()],
        marker=look.marker,
        color=look.colour,
        linestyle=look.line,
        label=legend_label(label),
    )
