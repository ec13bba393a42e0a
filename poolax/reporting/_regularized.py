"""What a bound in the loss does to a model: accuracy, constants, and what is certified."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from poolax.reporting._canvas import PathOrPaths, legend_label, new_figure, save_figure, styled
from poolax.reporting._ladder import RUNGS
from poolax.reporting._looks import Look, looks_of
from poolax.reporting._numbers import number_text
from poolax.reporting._table import Cell, Table

_KIND = "regularize"
_SHARES = {
    "validation_accuracy": "validation accuracy (%)",
    "accuracy": "test accuracy (%)",
    "share_certified": "certified against half a grey level (%)",
}
_NUMBERS = {
    "measured_real": "constant measured at test images",
    "measured_adversarial": "constant found by search",
    "sharp": "sharp bound",
    "median_radius": "median certified radius (grey levels)",
}
_ROWS = ("validation_accuracy", "accuracy", *_NUMBERS, "share_certified")
_CONSTANTS = ("measured_adversarial", "sharp")


def regularized_table(records: Iterable[Mapping[str, Any]]) -> Table:
    """Accuracy, constants and certified radii of models, without a bound in the loss and with it.

    Args:
        records: Of kind ``"regularize"``, which ``experiments/examples/regularize.py`` writes.

    Returns:
        A column for each pooler and strength: mean and standard deviation over seeds.

    Raises:
        ValueError: if there is no such record.
    """
    found = _records(records)
    rows = [
        [Cell(_SHARES.get(name) or _NUMBERS[name]), *(Cell(_told(row[name], name)) for row in found)]
        for name in _ROWS
    ]
    tidy = [
        {"pooler": row["pooler"], "strength": row["strength"], "seed": seed}
        | {name: row[name][seed] for name in _ROWS}
        for row in found
        for seed in range(len(row["sharp"]))
    ]
    return Table(
        title="A Lipschitz bound as a regulariser",
        columns=["", *(f"{row['pooler']}, {_strength(row)}" for row in found)],
        rows=rows,
        notes=[
            "The loss is cross entropy + strength * log L, where L is the sharp bound of the map from "
            f"images to logits. Mean ± standard deviation over {len(found[0]['sharp'])} seeds."
        ],
        tidy=tidy,
    )


@styled
def plot_regularized(records: Iterable[Mapping[str, Any]], path: PathOrPaths) -> None:
    """Accuracy, constants and share of certified images, without a bound in the loss and with it.

    Large points are means, small ones single seeds; the axis of constants is logarithmic.

    Args:
        records: As for :func:`regularized_table`.
        path: PNG, PDF or SVG to write, or several.

    Raises:
        ValueError: if there is no such record; for a path that ends otherwise.
    """
    found = _records(records)
    figure, (left, middle, right) = new_figure(8.4, 2.9, columns=3, share="none")
    poolers = list(dict.fromkeys(row["pooler"] for row in found))
    looks = looks_of(poolers)
    for pooler in poolers:
        own = sorted((row for row in found if row["pooler"] == pooler), key=lambda row: row["strength"])
        label = pooler if len(poolers) > 1 else None
        _draw(left, own, "accuracy", looks[pooler], label, scale=100)
        _draw(right, own, "share_certified", looks[pooler], label, scale=100)
        for name in _CONSTANTS:
            rung = RUNGS[name]
            marker = "s" if rung.marker == "_" else rung.marker
            words = rung.label if pooler == poolers[0] else None
            _draw(middle, own, name, Look(rung.colour, marker), words)
    middle.set_yscale("log")
    seeds = len(found[0]["sharp"])
    left.set(title="test accuracy (%)")
    middle.set(title="Lipschitz constant (logits by pixels)")
    right.set(title="certified within half a grey level (%)", ylim=(-4, None))
    right.set_xlabel(f"small points: {seeds} seeds", loc="right")
    strengths = sorted({row["strength"] for row in found})
    words = ["plain loss" if value == 0 else f"+ {value:g} log L" for value in strengths]
    for axes in (left, middle, right):
        axes.set_xticks(range(len(strengths)), words)
        axes.set_xlim(-0.4, len(strengths) - 0.6)
    middle.legend()
    if len(poolers) > 1:
        left.legend()
    save_figure(figure, path)


def _draw(axes, rows: Sequence[Mapping[str, Any]], name, look: Look, label, *, scale=1):
    """A line from the mean without the bound to that with it."""
    for place, row in enumerate(rows):
        single = [scale * value for value in row[name]]
        axes.plot([place] * len(single), single, ".", color=look.colour, alpha=0.45, markersize=4)
    means = [scale * float(np.mean(row[name])) for row in rows]
    axes.plot(
        range(len(rows)),
        means,
        marker=look.marker,
        color=look.colour,
        label=None if label is None else legend_label(label),
    )
    for place, value in enumerate(means):
        side = "right" if place == 0 else "left"
        text = f"{value:.1f}" if scale == 100 else number_text(value)
        axes.annotate(
            text,
            (place, value),
            xytext=(-6 if side == "right" else 6, 0),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=8,
        )


def _records(records):
    found = [row for row in records if row.get("kind") == _KIND]
    if not found:
        raise ValueError(f"records: expected some of kind {_KIND!r}, got none")
    return found


def _strength(row):
    return "plain loss" if row["strength"] == 0 else f"strength {row['strength']:g}"


def _told(values: Sequence[float], name: str) -> str:
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
    if name in _SHARES:
        told = [f"{100 * mean:.1f}", None if spread is None else f"{100 * spread:.1f}"]
    else:
        told = [number_text(mean), None if spread is None else number_text(spread)]
    return " ± ".join(text for text in told if text is not None)
