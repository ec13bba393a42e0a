"""What training for certificates does to a model: accuracy, constants, and what is certified."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from poolax._text import one_line
from poolax.reporting._canvas import PathOrPaths, legend_below, new_figure, save_figure, styled
from poolax.reporting._ladder import attention_name
from poolax.reporting._looks import COLOURS
from poolax.reporting._numbers import number_text
from poolax.reporting._table import Cell, Table

_KIND = "regularize"
#: Radius, in grey levels, at which shares stand in the table.
_LEVELS = 0.5
_SHARES = {
    "validation_accuracy": "validation accuracy (%)",
    "accuracy": "test accuracy (%)",
    "share_certified": "certified by the constant (%)",
    "share_around": "certified (%)",
    "share_left": "not attacked (%)",
}
_NUMBERS = {
    "measured_real": "constant at test images",
    "measured_adversarial": "constant found",
    "sharp": "sharp bound",
    "median_radius": "median radius by the constant",
}
_COLUMNS = (
    "validation_accuracy",
    "accuracy",
    "measured_adversarial",
    "sharp",
    "median_radius",
    "share_certified",
    "share_around",
    "share_left",
)
_WAYS = {
    "plain": "plain loss",
    "penalised": "+ strength · log L",
    "capped": "capped",
    "margin": "capped, with a margin",
}
_TIDY = (*_COLUMNS, "measured_real")
_ABOUT = (
    "{seeds}; radii are Euclidean, in grey levels, shares at half "
    "a grey level. The loss is cross entropy; + strength * log L, where L is the sharp bound of the "
    "map from images to logits; or with a cap, to which singular values of the block's kernels are cut "
    "after each step; a margin raises all other classes' logits by what a change of that length may "
    "do by L. Certified: the larger of what L and what bounds on balls around an image certify, of "
    "the first {images} test images, beside the share that an attack leaves; by the constant: of all "
    "test images.{chosen}"
)

_CHOSEN = (
    " Learning rate, strength, cap and margin of a way were chosen of at most {most} settings, with "
    "the first seed, by the mean radius that L certifies on validation images, of those that are at "
    "most 5 points less accurate there than the best of the way."
)


def regularized_table(records: Iterable[Mapping[str, Any]]) -> Table:
    """Accuracy, constants and certified shares of models by how they were trained.

    Args:
        records: Of kind ``"regularize"``, which ``experiments/examples/regularize.py`` writes.

    Returns:
        A row for each pooler, kind of attention and way of training: mean and standard deviation over
        seeds.

    Raises:
        ValueError: if there is no such record.
    """
    found = [_with_shares(row) for row in _records(records)]
    several = len({row["pooler"] for row in found}) > 1
    number = len(found[0]["sharp"])
    seeds = f"Mean ± standard deviation over {number} seeds" if number > 1 else "One seed"
    chosen = _CHOSEN.format(most=max(len(row.get("tried", ())) for row in found))
    chosen = chosen if all("tried" in row for row in found) else ""
    rows = [
        [
            Cell(_place(row, several)),
            Cell(_way(row)),
            *(Cell(_told(row[name], name in _SHARES)) for name in _COLUMNS),
        ]
        for row in found
    ]
    tidy = [
        {name: row[name] for name in ("pooler", "attention", "way", "strength", "cap", "margin")}
        | {"seed": seed}
        | {name: row[name][seed] for name in _TIDY}
        for row in found
        for seed in range(len(row["sharp"]))
    ]
    return Table(
        title="What training for certificates buys",
        columns=["attention", "loss", *((_SHARES | _NUMBERS)[name] for name in _COLUMNS)],
        rows=rows,
        notes=[_ABOUT.format(seeds=seeds, images=len(found[0]["certified"][0]), chosen=chosen)],
        tidy=tidy,
    )


@styled
def plot_regularized(records: Iterable[Mapping[str, Any]], path: PathOrPaths) -> None:
    """Share of test images that are certified, and that attacks leave, against the radius.

    A panel for each kind of attention (and pooler), a colour for each way of training. Solid lines are
    certified accuracies, dashed ones those under attack; the truth lies between the two.

    Args:
        records: As for :func:`regularized_table`.
        path: PNG, PDF or SVG to write, or several.

    Raises:
        ValueError: if there is no such record; for a path that ends otherwise.
    """
    found = _records(records)
    several = len({row["pooler"] for row in found}) > 1
    panels = list(dict.fromkeys(_place(row, several) for row in found))
    ways = list(dict.fromkeys(row["way"] for row in found))
    colours = {way: COLOURS[number % len(COLOURS)] for number, way in enumerate(ways)}
    # Beyond what is certified of nearly all there is nothing to compare.
    known = np.concatenate([_radii(row, "certified") for row in found])
    most = 1.6 * max(float(np.quantile(known, 0.99)), 1e-3)
    # One panel is as wide as the legend.
    width = max(2.9 * len(panels) + 0.4, 6.2)
    figure, all_axes = new_figure(width, 3.1, columns=len(panels))
    for axes, panel in zip(all_axes, panels, strict=True):
        for row in found:
            if _place(row, several) != panel:
                continue
            for name, line in (("certified", "-"), ("attacked", "--")):
                radii, shares = _curve(_radii(row, name), most)
                way = row["way"]
                label = _WAYS.get(way, one_line(way)) if name == "certified" else None
                axes.step(radii, shares, where="post", color=colours[way], linestyle=line, label=label)
        axes.set_title(panel, parse_math=False)
        axes.set(xlabel="ε (grey levels)", xlim=(0, most), ylim=(0, 102))
    all_axes[0].set_ylabel("certified (—), not attacked (- -) (%)")
    legend_below(figure, all_axes)
    save_figure(figure, path)


def _curve(radii, most):
    """Where the share of radii that are larger falls, in percent, from 0 to ``most``."""
    places = np.concatenate([[0.0], np.sort(radii[(radii > 0) & (radii < most)]), [most]])
    return places, [100 * float(np.mean(radii > place)) for place in places]


def _radii(row, name) -> np.ndarray:
    """Radii of all seeds together; infinite where there is none."""
    return np.asarray([np.inf if one is None else one for of in row[name] for one in of], float)


def _with_shares(row: Mapping[str, Any]) -> dict[str, Any]:
    """A record with shares of its radii, a number for each seed."""
    return {**row} | {
        field: [
            float(np.mean([one is None or one > _LEVELS for one in of_seed])) for of_seed in row[name]
        ]
        for field, name in (("share_around", "certified"), ("share_left", "attacked"))
    }


def _records(records):
    found = [row for row in records if row.get("kind") == _KIND]
    if not found:
        raise ValueError(f"records: expected some of kind {_KIND!r}, got none")
    return found


def _place(row, several) -> str:
    """The panel of a record."""
    name = attention_name(one_line(row["attention"]))
    return f"{name}, {one_line(row['pooler'])}" if several else name


def _way(row) -> str:
    """A way of training in words."""
    parts = [f"+ {row['strength']:g} log L"] if row["strength"] else []
    if row["cap"] is not None:
        parts.append(f"cap {row['cap']:g}")
    if row["margin"]:
        parts.append(f"margin {row['margin']:g}")
    return ", ".join(parts) or "plain loss"


def _told(values: Sequence[float], is_share: bool) -> str:
    numbers = [float(np.mean(values))]
    if len(values) > 1:
        numbers.append(float(np.std(values, ddof=1)))
    if is_share:
        return " ± ".join(f"{100 * one:.1f}" for one in numbers)
    return " ± ".join(map(number_text, numbers))
