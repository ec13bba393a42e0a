"""Advice on poolers: a table and a figure, from its record alone."""

import textwrap
from collections.abc import Mapping
from typing import Any

from poolax._text import one_line
from poolax.reporting._canvas import INK, PathOrPaths, new_figure, save_figure, styled
from poolax.reporting._looks import looks_of
from poolax.reporting._marks import axis_label, is_share, metric_name, shown
from poolax.reporting._noise_figures import draw_noise_curves
from poolax.reporting._numbers import number_text, signed_texts
from poolax.reporting._table import Cell, Table

# Noise as large as the states moves vectors by their spread, not by millions of it; that far it does
# where a head reads entries of the states that hardly vary, in units of their spread.
_MOST_DISTANCE = 1e6
_NOT_DEFINED = (
    "How far noise moves the vectors of {names} is not defined: the head reads entries of the token "
    "states that hardly vary."
)


def advice_table(record: Mapping[str, Any]) -> Table:
    """The poolers of an advice, the best by validation first.

    Args:
        record: Of kind ``"advice"``.

    Returns:
        For each pooler its validation score, its test score with the interval, the difference to the
        best by validation with interval and adjusted p-value, and what it costs. Bold is what is
        recommended; the reasons are notes.
    """
    cost, best = record["cost"], record["best"]
    sign = 1 if record["higher_is_better"] else -1
    order = sorted(record["validation"], key=lambda name: -sign * record["validation"][name])
    rows, tidy = [], []
    for name in order:
        test, found = record["test"][name], record["comparisons"].get(name)
        is_taken = name == record["recommended"]
        cells = [
            name,
            number_text(record["validation"][name]),
            interval_text(test),
            "–" if found is None else signed(found),
            "–" if found is None else f"{found['adjusted']:.2g}",
            str(cost["num_parameters"][name]),
            number_text(cost["lipschitz_factor"][name]),
            number_text(cost["heads_seconds"][name]),
        ]
        rows.append([Cell(text, bold=is_taken) for text in cells])
        tidy.append({"pooler": name, "recommended": is_taken, **test})
    columns = (
        "pooler",
        f"validation {metric_name(record['metric'])}",
        "test",
        f"difference to {best}",
        "adjusted p",
        "parameters",
        "Lipschitz factor",
        "seconds",
    )
    title = one_line(record["sentence"])
    notes = [*record["reasons"], *_not_defined(record)]
    return Table(title=title, columns=columns, rows=rows, notes=notes, tidy=tidy)


def _defined_curves(record):
    """Noise curves that say something."""
    curves = record.get("curves") or {}
    return {name: curve for name, curve in curves.items() if max(curve["mean"]) < _MOST_DISTANCE}


def _not_defined(record):
    """Of which poolers no noise curve is defined, in words; nothing where all are."""
    left_out = [name for name in record.get("curves") or {} if name not in _defined_curves(record)]
    return [_NOT_DEFINED.format(names=", ".join(left_out))] if left_out else []


def interval_text(found: Mapping[str, Any]) -> str:
    """A score with its interval, in three digits."""
    return f"{number_text(found['value'])} [{number_text(found['low'])}, {number_text(found['high'])}]"


def signed(found: Mapping[str, Any]) -> str:
    """A difference with its interval, signs before all numbers."""
    value, low, high = signed_texts(found["value"], found["low"], found["high"])
    return f"{value} [{low}, {high}]"


def _draw_interval(axes, found, row, look, metric):
    value, low, high = (shown(found[name], metric) for name in ("value", "low", "high"))
    ends = [[max(value - low, 0.0)], [max(high - value, 0.0)]]
    axes.errorbar(value, row, xerr=ends, marker=look.marker, color=look.colour)


@styled
def plot_advice(record: Mapping[str, Any], path: PathOrPaths) -> None:
    """Test scores and differences to the best, with intervals; how far noise moves the leading vectors.

    Args:
        record: Of kind ``"advice"``.
        path: PNG, PDF or SVG to write, or several.
    """
    sign = 1 if record["higher_is_better"] else -1
    order = sorted(record["validation"], key=lambda name: -sign * record["validation"][name])
    size = 1.1 + 0.27 * len(order)
    figure, panels = new_figure(11.4, max(size, 3.2), columns=3, share="none", width_ratios=[3, 2, 2.6])
    left, middle, right = panels
    looks, metric = looks_of(order), record["metric"]
    for axes in (left, middle):
        axes.grid(visible=False, axis="y")
        axes.grid(axis="x")
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
    middle.axvline(0, color=INK, alpha=0.5, linewidth=1)
    for row, name in enumerate(order):
        test, look = record["test"][name], looks[name]
        _draw_interval(left, test, row, look, metric)
        left.plot(shown(record["validation"][name], metric), row, "|", color=INK, markersize=9)
        if name in record["comparisons"]:
            _draw_interval(middle, record["comparisons"][name], row, look, metric)
    left.plot([], [], "|", color=INK, markersize=9, label="validation")
    left.legend(loc="best")
    left.set_yticks(range(len(order)), map(one_line, order), parse_math=False)
    middle.set_yticks(range(len(order)), [""] * len(order))
    count = record["test"][order[0]].get("num_examples")
    counted = f"; n = {count}" if count else ""
    left.set_xlabel(f"{axis_label('test', metric)}, 95 % interval{counted}", parse_math=False)
    left.set_title(f"recommended: {one_line(record['recommended'])}", parse_math=False)
    points = " (percentage points)" if is_share(metric) else ""
    middle.set_xlabel(f"difference to {one_line(record['best'])}{points}", parse_math=False)
    _draw_noise(right, record)
    save_figure(figure, path)


def _draw_noise(axes, record):
    curves = _defined_curves(record)
    if not curves:
        axes.set_axis_off()
        words = textwrap.fill(one_line(" ".join(_not_defined(record)) or "No noise curves."), 36)
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", parse_math=False)
        return
    draw_noise_curves(axes, [{"pooler": name, **curve} for name, curve in curves.items()])
    axes.set_xlabel("noise on token states, in units of their spread")
    axes.set_ylabel("distance of vectors, in units of their spread")
