"""What a weighted average has learned: whose vectors its own are like, and its weights."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from poolax._text import one_line
from poolax.reporting._canvas import INK, PathOrPaths, new_figure, save_figure, styled
from poolax.reporting._looks import looks_of
from poolax.reporting._table import Cell, Table

_NOTES = (
    "cosine: of the two poolers' vectors of the same input, mean over inputs and seeds, and the mean "
    "5 % and 95 % quantiles over inputs.",
    "evenness: exp of the weights' entropy by the number of positions, 1 where all are equal; last: "
    "the last position's weight times their number; largest: position of the largest weight, from 1.",
)


def weight_tables(records: Iterable[Mapping[str, Any]]) -> list[Table]:
    """Cosines of the vectors with those of other poolers, and what the weights by position look like.

    Args:
        records: Records of kinds ``"agreement"`` and ``"position_weights"``.

    Returns:
        A table of cosines and one of weights.

    Raises:
        ValueError: if either kind is missing.
    """
    cosines, weights = _of_kinds(records)
    rows, tidy = [], []
    for key, own in cosines.items():
        found = {name: [row[name] for row in own] for name in ("mean", "low", "high")}
        mean, low, high = (float(np.mean(values)) for values in found.values())
        rows.append([Cell(text) for text in [*key, f"{mean:.3f}", f"[{low:.3f}, {high:.3f}]"]])
        about = dict(zip(("model", "dataset", "task", "other"), key, strict=True))
        tidy.append(about | {"cosine": mean, "low": low, "high": high, "num_seeds": len(own)})
    first = Table(
        title="Cosine of W-Avg's vectors with others'",
        columns=["model", "data", "task", "pooler", "cosine", "5 % to 95 %"],
        rows=rows,
        notes=[_NOTES[0]],
        tidy=tidy,
    )
    rows, tidy = [], []
    for key, own in weights.items():
        found = [_shape(row["weights"]) for row in own]
        even, last = (float(np.mean([one[name] for one in found])) for name in ("evenness", "last"))
        largest = ", ".join(str(one["largest"]) for one in found)
        num = len(own[0]["weights"])
        rows.append([Cell(text) for text in [*key, str(num), f"{even:.3f}", f"{last:.2f}", largest]])
        about = dict(zip(("model", "dataset", "task"), key, strict=True))
        tidy.append(about | {"positions": num, "evenness": even, "last": last, "largest": largest})
    second = Table(
        title="Learned weights by position",
        columns=["model", "data", "task", "positions", "evenness", "last", "largest"],
        rows=rows,
        notes=[_NOTES[1]],
        tidy=tidy,
    )
    return [first, second]


@styled
def plot_weights(records: Iterable[Mapping[str, Any]], path: PathOrPaths) -> None:
    """Cosines on the left, learned weights by position on the right, a row for each model and task.

    Weights are in units of the equal weight, a thin line for each seed and their mean.

    Args:
        records: As for :func:`weight_tables`.
        path: PNG, PDF or SVG to write, or several.

    Raises:
        ValueError: as :func:`weight_tables`.
    """
    cosines, weights = _of_kinds(records)
    figure, axes = new_figure(9.0, 3.2 * len(weights), rows=len(weights), columns=2, share="none")
    for index, (key, own) in enumerate(weights.items()):
        left, right = axes[2 * index : 2 * index + 2]
        others = {name[-1]: rows for name, rows in cosines.items() if name[:-1] == key}
        means = [float(np.mean([row["mean"] for row in rows])) for rows in others.values()]
        looks = looks_of(others)
        for place, (name, rows) in enumerate(others.items()):
            single = [row["mean"] for row in rows]
            left.plot([place] * len(single), single, ".", color=looks[name].colour, alpha=0.4)
            left.plot(place, means[place], looks[name].marker, color=looks[name].colour)
        left.set_xticks(range(len(others)), list(others), parse_math=False)
        left.set_xlim(-0.5, len(others) - 0.5)
        left.set_ylabel("cosine with W-Avg's vectors")
        left.set_title(one_line(", ".join(key)), parse_math=False)
        for row in own:
            values = np.array(row["weights"]) * len(row["weights"])
            place = np.arange(1, len(values) + 1)
            look = looks_of(["wavg"])["wavg"]
            right.plot(place, values, ".-", color=look.colour, linewidth=0.8, alpha=0.5, markersize=3)
        mean = np.mean([row["weights"] for row in own], axis=0) * len(own[0]["weights"])
        right.plot(np.arange(1, len(mean) + 1), mean, color=INK, label=f"mean of {len(own)} seeds")
        right.axhline(1, color=INK, alpha=0.5, linestyle=":", linewidth=1)
        right.set_xlabel("position")
        right.set_ylabel("weight (equal weights = 1)")
        right.legend()
    save_figure(figure, path)


def _of_kinds(
    records: Iterable[Mapping[str, Any]],
) -> tuple[dict[tuple, list[Mapping[str, Any]]], dict[tuple, list[Mapping[str, Any]]]]:
    """Agreements by model, data, task and other pooler; weights by model, data and task."""
    cosines: dict[tuple, list] = {}
    weights: dict[tuple, list] = {}
    for row in records:
        key = tuple(row.get(name, "") for name in ("model", "dataset", "task"))
        if row.get("kind") == "agreement":
            cosines.setdefault((*key, row["other"]), []).append(row)
        elif row.get("kind") == "position_weights":
            weights.setdefault(key, []).append(row)
    if not cosines or not weights:
        missing = "position_weights" if cosines else "agreement"
        raise ValueError(f"records: expected some of kind {missing!r}, got none")
    return cosines, weights


def _shape(weights: list[float]) -> dict[str, Any]:
    """How even weights are, that of the last position, and where the largest stands."""
    values = np.array(weights, np.float64)
    known = values[values > 0]
    entropy = -float(np.sum(known * np.log(known)))
    return {
        "evenness": float(np.exp(entropy)) / len(values),
        "last": float(values[-1]) * len(values),
        "largest": int(np.argmax(values)) + 1,
    }
