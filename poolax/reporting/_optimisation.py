"""How fast heads get where they get: curves, steps and seconds, from records of sweeps."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from poolax._text import one_line
from poolax.reporting._canvas import INK, PathOrPaths, legend_label, new_figure, save_figure, styled
from poolax.reporting._looks import looks_of
from poolax.reporting._marks import axis_label, score, shown, unit
from poolax.reporting._numbers import number_text
from poolax.reporting._places import Comparison, Place, comparisons_of
from poolax.reporting._table import Cell, Table

#: Where a converged head ends.
_END: Mapping[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 0.9}
_NOTES = (
    "95 %: median step of the epoch in which validation reached 95 % of its last score, of the steps "
    "that were made. gap: converged less Adam's mean test score. seconds: of the program that a head "
    "was trained in, with all that were trained in it, without the backbone's pass."
)


def optimisation_tables(records: Iterable[Mapping[str, Any]]) -> list[Table]:
    """Steps, seconds and what is left to gain, a table for each model and task.

    Args:
        records: Head records of sweeps by Adam, to the end, or both.

    Returns:
        The tables, in order of appearance.

    Raises:
        ValueError: if there is no record, or one that is none of a head.
    """
    found = comparisons_of(records)
    if not found:
        raise ValueError("records: expected at least one head record, got none")
    return [_table(comparison) for comparison in found]


@styled
def plot_training_curves(records: Iterable[Mapping[str, Any]], path: PathOrPaths) -> None:
    """Validation score by epoch, a line for each pooler and a panel for each model and task.

    Lines are means over seeds of heads by Adam; dashes of the same colour are where the converged head
    of the pooler ends.

    Args:
        records: Head records of sweeps, with curves.
        path: PNG, PDF or SVG to write, or several.

    Raises:
        ValueError: if no record has a curve.
    """
    panels = [(one, *_protocols(one)) for one in comparisons_of(records)]
    panels = [(one, adam, solved) for one, adam, solved in panels if adam and _curves(adam)]
    if not panels:
        raise ValueError("records: expected heads with curves of validation, got none")
    figure, all_axes = new_figure(7.6, 3.6 * len(panels), rows=len(panels), share="none")
    for axes, (comparison, adam, solved) in zip(all_axes, panels, strict=True):
        metric, curves = adam.example["metric"], _curves(adam)
        looks = looks_of(curves)
        for index, (pooler, curve) in enumerate(curves.items()):
            look = looks[pooler]
            epochs = np.arange(1, len(curve) + 1)
            axes.plot(
                epochs,
                [shown(value, metric) for value in curve],
                color=look.colour,
                marker=look.marker,
                linestyle=look.line,
                # Markers of lines that run into each other stand beside each other.
                markevery=(index % 4, 4),
                label=legend_label(pooler),
            )
            end = solved.entrants[pooler].validation if solved and pooler in solved.entrants else None
            if end is not None:
                axes.axhline(shown(end, metric), color=look.colour, **_END)
        axes.set_title(one_line(comparison.name), parse_math=False)
        axes.set_xlabel("epoch")
        axes.set_ylabel(axis_label("validation", metric), parse_math=False)
        axes.plot(
            [],
            [],
            color=INK,
            linestyle=(0, (4, 2)),
            linewidth=0.9,
            label="where the converged head ends",
        )
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(figure, path)


def _protocols(comparison: Comparison) -> tuple[Place | None, Place | None]:
    """Heads by Adam, and converged ones, where there are any."""
    places = list(comparison.protocols.values())
    adam = [place for place in places if not place.example.get("solver")]
    solved = [place for place in places if place.example.get("solver")]
    return (adam or [None])[0], (solved or [None])[0]


def _curves(place: Place) -> dict[str, np.ndarray]:
    """Mean validation score after each epoch, of each pooler that has one."""
    found = {}
    for pooler, entrant in place.entrants.items():
        curves = [row["validation_score"] for row in entrant.sound if row.get("validation_score")]
        if curves:
            found[pooler] = np.mean(np.array(curves, np.float64), axis=0)
    return found


def _table(comparison: Comparison) -> Table:
    adam, solved = _protocols(comparison)
    example = next(place for place in (adam, solved) if place is not None).example
    metric = example["metric"]
    poolers = dict.fromkeys(name for place in (adam, solved) if place for name in place.entrants)
    rows, tidy = [], []
    for pooler in poolers:
        fast, slow = _sound(adam, pooler), _sound(solved, pooler)
        means = [_mean([row["test"] for row in found]) for found in (fast, slow)]
        start, end = means
        gap = None if start is None or end is None else end - start
        steps, total = _steps(fast)
        solving = _mean([count for row in slow if (count := _steps_to_the_end(row)) is not None])
        seconds = [_mean([row["wall_s"] for row in found if "wall_s" in row]) for found in (fast, slow)]
        cells = [pooler, score(means[0], metric), _of(steps, total), number_text(seconds[0])]
        cells += [score(means[1], metric), _of(solving, None), number_text(seconds[1])]
        rows.append([Cell(text) for text in [*cells, score(gap, metric, sign="+")]])
        tidy.append(
            {
                "comparison": comparison.name,
                "pooler": pooler,
                "metric": metric,
                "adam_test": means[0],
                "adam_steps_to_95_percent": steps,
                "adam_steps": total,
                "adam_seconds": seconds[0],
                "converged_test": means[1],
                "converged_steps": solving,
                "converged_seconds": seconds[1],
                "gap": gap,
            }
        )
    return Table(
        title=f"{comparison.name} ({unit(metric)})",
        columns=[
            *("pooler", "Adam, test", "Adam, 95 % at step", "Adam, seconds", "converged, test"),
            *("converged, steps", "converged, seconds", "gap"),
        ],
        rows=rows,
        notes=[_NOTES],
        tidy=tidy,
    )


def _sound(place: Place | None, pooler: str) -> list[Mapping[str, Any]]:
    return [] if place is None or pooler not in place.entrants else place.entrants[pooler].sound


def _steps(rows: Sequence[Mapping[str, Any]]) -> tuple[float | None, int | None]:
    """Median step at 95 %, and the steps that were made."""
    known = [row["steps_to_95_percent"] for row in rows if row.get("steps_to_95_percent") is not None]
    epoch = _steps_of_an_epoch(rows[0]) if rows else None
    made = None if epoch is None else epoch * rows[0]["epochs"]
    return (float(np.median(known)) if known else None), made


def _steps_of_an_epoch(row: Mapping[str, Any]) -> int | None:
    return -(-row["num_examples"]["train"] // row["batch_size"]) if "num_examples" in row else None


def _steps_to_the_end(row: Mapping[str, Any]) -> int | None:
    """Steps of the solver, or of Adam where a head has more than a linear layer."""
    if row.get("num_steps") is not None:
        return row["num_steps"]
    epoch = _steps_of_an_epoch(row)
    return None if epoch is None or "epochs_trained" not in row else epoch * row["epochs_trained"]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _of(steps: float | None, total: int | None) -> str:
    if steps is None:
        return "–"
    return f"{steps:.0f}" if total is None else f"{steps:.0f} of {total}"
