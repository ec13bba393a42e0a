"""Advice on poolers: a table and a figure, from its record alone."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from poolax._text import one_line
from poolax.reporting._figures import draw_noise_curves, new_figure, save_figure
from poolax.reporting._table import Cell, Table


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
            f"{record['validation'][name]:.4g}",
            f"{test['value']:.4g} [{test['low']:.4g}, {test['high']:.4g}]",
            "–" if found is None else signed(found),
            "–" if found is None else f"{found['adjusted']:.2g}",
            str(cost["num_parameters"][name]),
            _factor(cost["lipschitz_factor"][name]),
            f"{cost['heads_seconds'][name]:.3g}",
        ]
        rows.append([Cell(text, bold=is_taken) for text in cells])
        tidy.append({"pooler": name, "recommended": is_taken, **test})
    columns = (
        "pooler",
        f"validation {record['metric']}",
        "test",
        f"less {best}",
        "adjusted p",
        "parameters",
        "Lipschitz factor",
        "seconds",
    )
    title = one_line(record["sentence"])
    return Table(title=title, columns=columns, rows=rows, notes=record["reasons"], tidy=tidy)


def signed(found: Mapping[str, Any]) -> str:
    """A difference with its interval, signs before all numbers."""
    return f"{found['value']:+.3g} [{found['low']:+.3g}, {found['high']:+.3g}]"


def _factor(value: float | None) -> str:
    return "–" if value is None or value == float("inf") else f"{value:.3g}"


def plot_advice(record: Mapping[str, Any], path: epath.PathLike) -> None:
    """Test scores with intervals, and how far noise moves the vectors of the leading poolers.

    Args:
        record: Of kind ``"advice"``.
        path: PNG to write.
    """
    sign = 1 if record["higher_is_better"] else -1
    order = sorted(record["validation"], key=lambda name: -sign * record["validation"][name])
    figure, (left, right) = new_figure(10.0, 3.8, columns=2, share="none")
    for place, name in enumerate(reversed(order)):
        test, validation = record["test"][name], record["validation"][name]
        colour = "#D55E00" if name == record["recommended"] else "#0072B2"
        left.plot([test["low"], test["high"]], [place, place], color=colour, linewidth=2)
        left.plot(test["value"], place, marker="o", color=colour, linestyle="none")
        left.plot(validation, place, marker="|", color="#555555", markersize=12, linestyle="none")
    labels = [one_line(name) for name in reversed(order)]
    left.set_yticks(range(len(order)), labels, parse_math=False)
    left.set_xlabel(
        one_line(f"test {record['metric']} with its 95 % interval; bar: validation"),
        parse_math=False,
    )
    left.set_title(f"recommended: {one_line(record['recommended'])}", fontsize=10, parse_math=False)
    draw_noise_curves(right, [{"pooler": name, **curve} for name, curve in record["curves"].items()])
    right.set_xlabel("noise on token states, in units of their spread")
    right.set_ylabel("distance of vectors, in units of their spread")
    right.legend(frameon=False, fontsize=8, loc="upper left")
    save_figure(figure, path)
