"""Figures of noise and of changed sentences."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath

from poolax.reporting._expressivity import curve_of, medians_of, noise_of, slope_of
from poolax.reporting._figures import COLOURS, draw_noise_curves, legend_label, new_figure, save_figure
from poolax.reporting._separation import ALL, by_model, resampled


def plot_noise(records: Iterable[Mapping[str, Any]], path: epath.PathLike) -> None:
    """Noise curves on the left, their slopes beside measured constants and bounds on the right.

    A row for each model and data set; bands hold the intervals of all seeds.

    Args:
        records: As for :func:`expressivity_tables`.
        path: PNG to write.

    Raises:
        ValueError: if there is no record of noise.
    """
    panels = noise_of(records)
    if not panels:
        raise ValueError("records: expected some of noise, got none")
    figure, axes = new_figure(9.0, 3.4 * len(panels), rows=len(panels), columns=2, share="none")
    for index, (key, (curves, constants)) in enumerate(panels.items()):
        left, right = axes[2 * index : 2 * index + 2]
        drawn = {pooler: curve_of(rows) for pooler, rows in curves.items()}
        draw_noise_curves(left, [{"pooler": name, **curve} for name, curve in drawn.items()])
        left.set_xlabel("root mean square norm of the noise, ε")
        left.set_ylabel("mean distance of pooled vectors")
        left.set_title(", ".join(key), fontsize=9, parse_math=False)
        _draw_constants(right, drawn, constants)
    save_figure(figure, path)


def _draw_constants(axes, curves, constants):
    """Slopes and constants by pooler."""
    places = range(len(curves))
    known = [medians_of(constants.get(pooler)) for pooler in curves]
    series = {
        "slope of the curve": ([slope_of(curve) for curve in curves.values()], "o", COLOURS[0]),
        "measured": ([own["measured"] for own in known], "^", COLOURS[4]),
        "local bound": ([_power(own["log10_local"]) for own in known], "_", COLOURS[2]),
        "tight bound": ([_power(own["log10_tight"]) for own in known], "_", COLOURS[1]),
    }
    for label, (values, marker, colour) in series.items():
        points = [(place, value) for place, value in zip(places, values, strict=True) if value]
        if points:
            size = 200 if marker == "_" else 30
            axes.scatter(*zip(*points, strict=True), marker=marker, color=colour, s=size, label=label)
    axes.set_yscale("log")
    axes.set_xticks(places, list(curves), parse_math=False)
    axes.set_ylabel("distance by size of the noise")
    axes.legend(frameon=False, fontsize=7)


def _power(logarithm):
    return None if logarithm is None else 10.0 ** min(logarithm, 300.0)


def plot_sentences(records: Iterable[Mapping[str, Any]], path: epath.PathLike) -> None:
    """How far similar and other sentences move, on the left; the AUC by kind of change, on the right.

    A row for each model. Distances are by the mean of both, so that poolers of other lengths compare.

    Args:
        records: As for :func:`expressivity_tables`.
        path: PNG to write.

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
        left.set_title(", ".join(key), fontsize=9, parse_math=False)
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
        axes.bar(places, values, 0.38, yerr=bars, capsize=2, color=COLOURS[number], label=label)
    axes.set_xticks(range(len(variants)), list(variants), parse_math=False)
    axes.set_ylabel("distance by the mean of both")
    axes.set_ylim(0, 2.3)  # of which they are at most 2: the legend has the rest
    axes.legend(frameon=False, fontsize=8, loc="upper center", ncols=2)


def _draw_areas(axes, variants):
    """The AUC by kind of change, a line for each pooler."""
    kinds = [ALL, *next(iter(variants.values()))[0].kinds_by_role()]
    for index, (name, own) in enumerate(variants.items()):
        shift = 0.12 * (index - (len(variants) - 1) / 2)
        ends = [resampled({name: [one.auc(kind) for one in own]}).interval(name) for kind in kinds]
        values = [one.value for one in ends]
        bars = [[one.value - one.low for one in ends], [one.high - one.value for one in ends]]
        axes.errorbar(
            np.arange(len(kinds)) + shift, values, yerr=bars, fmt="o", markersize=4, capsize=2,
            color=COLOURS[index % len(COLOURS)], label=legend_label(name),
        )  # fmt: skip
    axes.axhline(0.5, color="#777777", linestyle=":", linewidth=1)
    axes.set_xticks(range(len(kinds)), kinds, rotation=30, ha="right", parse_math=False)
    axes.set_ylabel("AUC of cosines")
    axes.set_ylim(-0.02, 1.25)
    axes.legend(frameon=False, fontsize=7, ncols=4, loc="upper center")
