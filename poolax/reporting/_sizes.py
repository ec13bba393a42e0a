"""Scores by the number of training examples, from records."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from poolax._text import one_line
from poolax.reporting._canvas import PathOrPaths, new_figure, save_figure, styled
from poolax.reporting._looks import looks_of
from poolax.reporting._marks import axis_label, mean_and_std_of, unit
from poolax.reporting._places import about as about_place
from poolax.reporting._places import place_of, places_of
from poolax.reporting._spreads import draw_spread
from poolax.reporting._table import Cell, Table

#: Of the best score with all examples.
_SHARE = 0.95
_NOTE = (
    "test: mean ± standard deviation over draws of the training examples, all heads trained to the "
    "end; examples to 95 %: the fewest with which the mean reaches 95 % of the best pooler's with all "
    "of them, a dash where none does."
)


def size_tables(records: Iterable[Mapping[str, Any]]) -> list[Table]:
    """Test scores by the number of training examples, a table for each model and task.

    Args:
        records: Converged head records, of :func:`poolax.training.few_shot` and, for all examples, of
            :func:`poolax.training.sweep`.

    Returns:
        The tables.

    Raises:
        ValueError: if there is no record, or one that is none of a head.
    """
    tables = []
    for name, (metric, found) in _curves(records).items():
        sizes = sorted({size for curve in found.values() for size in curve})
        most = max(sizes)
        ends = [np.mean(curve[most]) for curve in found.values() if most in curve]
        rows, tidy = [], []
        for pooler, curve in found.items():
            means = {size: float(np.mean(values)) for size, values in curve.items()}
            enough = [size for size in sorted(means) if means[size] >= _SHARE * max(ends)]
            cells = [mean_and_std_of(curve.get(size), metric) for size in sizes]
            cells.append(str(enough[0]) if enough else "–")
            rows.append([Cell(text) for text in [pooler, *cells]])
            for size, values in curve.items():
                spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
                about = {"comparison": name, "pooler": pooler, "metric": metric, "train": size}
                tidy.append(about | {"test": means[size], "std": spread, "draws": len(values)})
        tables.append(
            Table(
                title=f"{name} ({unit(metric)})",
                columns=["pooler", *(f"{size} examples" for size in sizes), "examples to 95 %"],
                rows=rows,
                notes=[_NOTE],
                tidy=tidy,
            )
        )
    if not tables:
        raise ValueError("records: expected at least one head record, got none")
    return tables


@styled
def plot_sizes(records: Iterable[Mapping[str, Any]], path: PathOrPaths) -> None:
    """Test scores against the number of training examples, a line for each pooler.

    Bars are the standard deviation over draws, small points single draws.

    Args:
        records: As for :func:`size_tables`.
        path: PNG, PDF or SVG to write, or several.

    Raises:
        ValueError: as :func:`size_tables`.
    """
    panels = _curves(records)
    if not panels:
        raise ValueError("records: expected at least one head record, got none")
    figure, all_axes = new_figure(6.4, 3.6 * len(panels), rows=len(panels), share="none")
    for axes, (name, (metric, found)) in zip(all_axes, panels.items(), strict=True):
        looks = looks_of(found)
        for pooler, curve in found.items():
            ordered = {size: curve[size] for size in sorted(curve)}
            draw_spread(axes, ordered, metric, pooler, looks[pooler])
        axes.set_xscale("log")
        axes.set_xticks(sorted({size for curve in found.values() for size in curve}))
        axes.minorticks_off()
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_title(one_line(name), parse_math=False)
        axes.set_xlabel("training examples")
        axes.set_ylabel(axis_label("test", metric), parse_math=False)
        axes.legend(ncols=2)
    save_figure(figure, path)


def _curves(
    records: Iterable[Mapping[str, Any]],
) -> dict[str, tuple[str, dict[str, dict[int, list[float]]]]]:
    """Of each model and task the metric, and of each pooler the test scores by number of examples."""
    found: dict[str, tuple[str, dict[str, dict[int, list[float]]]]] = {}
    for place in places_of(records):
        row = place.example
        _, curves = found.setdefault(place_of(about_place(row, "")), (row["metric"], {}))
        for pooler, entrant in place.entrants.items():
            scores = [head["test"] for head in entrant.sound]
            if scores:
                curves.setdefault(pooler, {})[_size(row)] = scores
    return found


def _size(row: Mapping[str, Any]) -> int:
    """Number of training examples of a head."""
    if "shots" in row:
        return row["shots"] * row["task_options"]["num_classes"]
    if "num_examples" not in row:
        raise ValueError("records: expected the number of training examples of each head, got none")
    return row["num_examples"]["train"]
