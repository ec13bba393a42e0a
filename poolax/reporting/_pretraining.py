"""Curves of pretraining, from records."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from poolax.reporting._canvas import PathOrPaths, legend_label, new_figure, save_figure, styled
from poolax.reporting._looks import series_look

_AXES = {"step": "optimizer step", "tokens": "tokens"}


@styled
def plot_pretraining(
    runs: Mapping[str, Iterable[Mapping[str, Any]]], path: PathOrPaths, *, against: str = "step"
) -> None:
    """Losses of runs of pretraining, side by side: of training as a line, held out as points.

    Args:
        runs: Records of kind ``"pretraining"`` of each run, by what the legend calls it.
        path: PNG, PDF or SVG to write, or several.
        against: What runs along: ``"step"`` or ``"tokens"``.

    Raises:
        ValueError: if a run has no losses, or for something else to run along.
    """
    along = _axis(against)
    figure, (axes,) = new_figure(6.4, 4.0)
    for index, (name, records) in enumerate(runs.items()):
        rows = sorted(records, key=lambda row: row["step"])
        own = series_look(index)
        found = False
        for field, look in (("loss", own.line), ("evaluation_loss", own.marker)):
            points = [(row[against], row[field]) for row in rows if row.get(field) is not None]
            if not points:
                continue
            label = name if field == "loss" else f"{name}, held out"
            axes.plot(
                *zip(*points, strict=True),
                look,
                color=own.colour,
                markersize=4,
                label=legend_label(label),
            )
            found = True
        if not found:
            raise ValueError(f"runs: expected losses among the records of {name!r}, got none")
    axes.set_xlabel(along)
    axes.set_ylabel("loss (nats)")
    axes.legend()
    save_figure(figure, path)


@styled
def plot_training_lipschitz(
    runs: Mapping[str, Iterable[Mapping[str, Any]]], path: PathOrPaths, *, against: str = "step"
) -> None:
    """Norms of pooled outputs over training beside the bounds of the local and the tight ledger.

    A colour for each run: what is measured as a line with points, the local bound dashed, the tight one
    dotted; of norms and local bounds the largest over the inputs. The axis is logarithmic.

    Args:
        runs: Records of kind ``"pretraining"`` of each run, with what
            :func:`poolax.measure.along_training` observed in some of them, by what the legend calls it.
        path: PNG, PDF or SVG to write, or several.
        against: What runs along: ``"step"`` or ``"tokens"``.

    Raises:
        ValueError: if nothing was observed of a run, or for something else to run along.
    """
    along = _axis(against)
    figure, (axes,) = new_figure(6.4, 4.4)
    for index, (name, records) in enumerate(runs.items()):
        rows = sorted(records, key=lambda row: row["step"])
        found = [
            (row[against], row["observed"]["lipschitz"])
            for row in rows
            if "lipschitz" in row.get("observed", {})
        ]
        if not found:
            raise ValueError(f"runs: expected norms observed of {name!r}, got none")
        for label, look, log10 in _SERIES:
            points = [(at, log10(row)) for at, row in found]
            points = [(at, log) for at, log in points if log is not None]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    look,
                    color=series_look(index).colour,
                    markersize=4,
                    label=legend_label(f"{name}, {label}"),
                )
    axes.set_xlabel(along)
    axes.set_ylabel("Lipschitz constant of pooled outputs")
    # Logarithms are drawn, for bounds may be beyond the range of numbers.
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_formatter(lambda log, _: f"$10^{{{log:g}}}$")
    figure.legend(ncols=2, loc="outside lower center")
    save_figure(figure, path)


@styled
def plot_losses_by_size(models: Mapping[str, Iterable[Mapping[str, Any]]], path: PathOrPaths) -> None:
    """Losses on what is held out by the number of parameters: a point for each run, means joined.

    Args:
        models: Of each kind of model, by what the legend calls it, a mapping for each run with
            ``num_parameters`` and ``evaluation_loss``; those without a loss are passed over.
        path: PNG, PDF or SVG to write, or several.

    Raises:
        ValueError: if a kind of model has no losses.
    """
    figure, (axes,) = new_figure(6.4, 4.0)
    for index, (name, rows) in enumerate(models.items()):
        losses: dict[int, list[float]] = {}
        for row in rows:
            if row.get("evaluation_loss") is not None:
                losses.setdefault(row["num_parameters"], []).append(row["evaluation_loss"])
        if not losses:
            raise ValueError(f"models: expected losses among the records of {name!r}, got none")
        own = series_look(index)
        points = [(size, loss) for size, of_size in losses.items() for loss in of_size]
        axes.plot(*zip(*points, strict=True), own.marker, color=own.colour, markersize=4, alpha=0.6)
        means = [(size, float(np.mean(losses[size]))) for size in sorted(losses)]
        axes.plot(*zip(*means, strict=True), own.line, color=own.colour, label=legend_label(name))
    axes.set_xscale("log")
    axes.set_xlabel("parameters")
    axes.set_ylabel("loss held out (nats)")
    axes.legend()
    save_figure(figure, path)


def _axis(against):
    """What stands below the horizontal axis."""
    if against not in _AXES:
        raise ValueError(f"against: expected 'step' or 'tokens', got {against!r}")
    return _AXES[against]


def _log10_measured(row):
    largest = max(row["measured"])
    return math.log10(largest) if largest > 0 else None


def _log10_local(row):
    logs = [log for log in row["log10_local"] if log is not None]
    return max(logs, default=None)


_SERIES = (
    ("measured", "o-", _log10_measured),
    ("local bound", "--", _log10_local),
    ("tight bound", ":", lambda row: row["log10_tight"]),
)
