"""Figures of noise and of changed sentences."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from poolax._text import one_line
from poolax.reporting._canvas import INK, PathOrPaths, legend_label, new_figure, save_figure, styled
from poolax.reporting._expressivity import curve_of, medians_of, noise_of, slope_of
from poolax.reporting._ladder import RUNGS
from poolax.reporting._looks import COLOURS, looks_of
from poolax.reporting._noise_figures import (
    DISTANCE,
    NOISE,
    RELATIVE,
    draw_noise_curves,
    relative_curves,
)
from poolax.reporting._separation import ALL, by_model, resampled


@styled
def plot_noise(records: Iterable[Mapping[str, Any]], path: PathOrPaths) -> None:
    """Noise curves as they are and by the vectors' length; slopes beside measured constants and bounds.

    A row for each model and data set; bands hold the intervals of all seeds.

    Args:
        records: As for :func:`expressivity_tables`.
        path: PNG, PDF or SVG to write, or several.

    Raises:
        ValueError: if there is no record of noise.
    """
    panels = noise_of(records)
    if not panels:
        raise ValueError("records: expected some of noise, got none")
    figure, axes = new_figure(11.4, 3.2 * len(panels), rows=len(panels), columns=3, share="none")
    for index, (key, (curves, constants)) in enumerate(panels.items()):
        left, middle, right = axes[3 * index : 3 * index + 3]
        drawn = {pooler: curve_of(rows) for pooler, rows in curves.items()}
        lengths = {name: np.mean([row["length"] for row in rows]) for name, rows in curves.items()}
        rows = [{"pooler": name, "length": lengths[name], **curve} for name, curve in drawn.items()]
        draw_noise_curves(left, rows)
        left.set(xlabel=NOISE, ylabel=DISTANCE)
        left.set_title(one_line(", ".join(key)), parse_math=False)
        draw_noise_curves(middle, relative_curves(rows), legend=False)
        middle.set(xlabel=NOISE, ylabel=RELATIVE)
        _draw_constants(right, drawn, constants)
    save_figure(figure, path)


def _draw_constants(axes, curves, constants):
    """Slopes and constants by pooler."""
    places = range(len(curves))
    known = [medians_of(constants.get(pooler)) for pooler in curves]
    series = {
        "slope of the curve": ([slope_of(curve) for curve in curves.values()], "D", COLOURS[3]),
        "measured": ([own["measured"] for own in known], *RUNGS["measured_real"][1:3]),
        "local bound": ([_power(own["log10_local"]) for own in known], *RUNGS["local"][1:3]),
        "tight bound": ([_power(own["log10_tight"]) for own in known], *RUNGS["tight"][1:3]),
    }
    for label, (values, marker, colour) in series.items():
        points = [(place, value) for place, value in zip(places, values, strict=True) if value]
        if points:
            size = 200 if marker == "_" else 30
            axes.scatter(*zip(*points, strict=True), marker=marker, color=colour, s=size, label=label)
    axes.set_yscale("log")
    axes.set_xticks(places, list(curves), parse_math=False)
    axes.set_ylabel("distance by size of the noise")
    axes.legend()


def _power(logarithm):
    return None if logarithm is None else 10.0 ** min(logarithm, 300.0)


@styled
def plot_sentences(records: Iterable[Mapping[str, Any]], path: PathOrPaths) -> None:
    """How far similar and other sentences move, on the left; the AUC by kind of change, on the right.

    A row for each model. Distances are by the mean of both, so that poolers of other lengths compare.

    Args:
        records: As for :func:`expressivity_tables`.
        path: PNG, PDF or SVG to write, or several.

    Raises:
        ValueError: if there is no record of sentences.
    """
    panels = by_model(records)
    if not panels:
        raise ValueError("records: expected some of sentences, got none")
    figure, axes = new_figure(10.0, 3.6 * len(panels), rows=len(panels), columns=2, share="none")
    for index, (key, variants) in enumerate(panels.items()):
        left, right = axes[2 * index : 2 * index + 2]
        _draw_distances(left, variants)
        left.set_title(one_line(", ".join(key)), parse_math=False)
        _draw_areas(right, variants)
    save_figure(figure, path)


def _draw_distances(axes, variants):
    """Mean distances of similar and other variants by pooler."""
    for number, similar in enumerate((True, False)):
        found = resampled(
            {name: [one.moved()[number] for one in own] for name, own in variants.items()}
        )
        ends = [found.interval(name) for name in variants]
        values = [one.value for one in ends]
        bars = [[one.value - one.low for one in ends], [one.high - one.value for one in ends]]
        places = np.arange(len(variants)) + (0.4 * number - 0.2)
        label = "meaning stays" if similar else "meaning changes"
        axes.bar(places, values, 0.38, yerr=bars, color=COLOURS[number], ecolor=INK, label=label)
    axes.set_xticks(range(len(variants)), list(variants), parse_math=False)
    axes.set_ylabel("distance by the mean of both")
    axes.set_ylim(0, 2.3)  # of which they are at most 2: the legend has the rest
    axes.legend(loc="upper center", ncols=2)


def _draw_areas(axes, variants):
    """The AUC by kind of change, a line for each pooler."""
    kinds = [ALL, *next(iter(variants.values()))[0].kinds_by_role()]
    looks = looks_of(variants)
    for index, (name, own) in enumerate(variants.items()):
        shift = 0.12 * (index - (len(variants) - 1) / 2)
        ends = [resampled({name: [one.auc(kind) for one in own]}).interval(name) for kind in kinds]
        values = [one.value for one in ends]
        bars = [[one.value - one.low for one in ends], [one.high - one.value for one in ends]]
        axes.errorbar(
            np.arange(len(kinds)) + shift, values, yerr=bars, fmt=looks[name].marker, markersize=4,
            color=looks[name].colour, label=legend_label(name),
        )  # fmt: skip
    axes.axhline(0.5, color=INK, alpha=0.5, linestyle=":", linewidth=1)
    axes.set_xticks(range(len(kinds)), kinds, rotation=30, ha="right", parse_math=False)
    axes.set_ylabel("AUC of cosines")
    axes.set_ylim(-0.02, 1.25)
    axes.legend(ncols=4, loc="upper center")
