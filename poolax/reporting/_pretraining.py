"""Curves of pretraining, from records."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from poolax.reporting._figures import COLOURS, legend_label, new_figure, save_figure

_AXES = {"step": "optimizer step", "tokens": "tokens"}


def plot_pretraining(
    runs: Mapping[str, Iterable[Mapping[str, Any]]], path: epath.PathLike, *, against: str = "step"
) -> None:
    """Losses of runs of pretraining, side by side: of training as a line, held out as points.

    Args:
        runs: Records of kind ``"pretraining"`` of each run, by what the legend calls it.
        path: PNG to write.
        against: What runs along: ``"step"`` or ``"tokens"``.

    Raises:
        ValueError: if a run has no losses, or for something else to run along.
    """
    along = _axis(against)
    figure, (axes,) = new_figure(6.4, 4.0)
    for index, (name, records) in enumerate(runs.items()):
        rows = sorted(records, key=lambda row: row["step"])
        colour = COLOURS[index % len(COLOURS)]
        found = False
        for field, look in (("loss", "-"), ("evaluation_loss", "o")):
            points = [(row[against], row[field]) for row in rows if row.get(field) is not None]
            if not points:
                continue
            label = name if field == "loss" else f"{name}, held out"
            axes.plot(
                *zip(*points, strict=True), look, color=colour, markersize=4, label=legend_label(label)
            )
            found = True
        if not found:
            raise ValueError(f"runs: expected losses among the records of {name!r}, got none")
    axes.set_xlabel(along)
    axes.set_ylabel("loss")
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def plot_training_lipschitz(
    runs: Mapping[str, Iterable[Mapping[str, Any]]], path: epath.PathLike, *, against: str = "step"
) -> None:
    """Norms of pooled outputs over training beside the bounds of the local and the tight ledger.

    A colour for each run: what is measured as a line with points, the local bound dashed, the tight one
    dotted; of norms and local bounds the largest over the inputs. The axis is logarithmic.

    Args:
        runs: Records of kind ``"pretraining"`` of each run, with what
            :func:`poolax.measure.along_training` observed in some of them, by what the legend calls it.
        path: PNG to write.
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
                    color=COLOURS[index % len(COLOURS)],
                    markersize=4,
                    label=legend_label(f"{name}, {label}"),
                )
    axes.set_xlabel(along)
    axes.set_ylabel("Lipschitz constant of pooled outputs")
    # Logarithms are drawn, for bounds may be beyond the range of numbers.
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_formatter(lambda log, _: f"$10^{{{log:g}}}$")
    figure.legend(frameon=False, fontsize=8, ncols=2, loc="outside lower center")
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
