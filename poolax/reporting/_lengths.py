"""Scores by the length of texts: cut to so many tokens, and learned on short ones or long ones."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from poolax._text import one_line
from poolax.reporting._canvas import PathOrPaths, new_figure, save_figure, styled
from poolax.reporting._looks import looks_of
from poolax.reporting._marks import axis_label, mean_and_std_of, unit
from poolax.reporting._paper.cells import paper_results
from poolax.reporting._spreads import draw_spread
from poolax.reporting._table import Cell, Table

_KIND = "length_score"
_NAMED = ("model", "dataset", "task", "metric")
_PAPER = 9
#: Trained on, tested on.
_PAIRS = (("short", "short"), ("long", "short"), ("long", "long"), ("short", "long"))
_CUT = (
    "test: mean ± standard deviation over seeds; every text cut to so many tokens, special ones "
    "included."
)
_ACROSS = (
    "short and long: at most, and above, {threshold} tokens an example, about the median; both train "
    "on {train} examples, and are tested on {short} short and {long} long ones."
)


def length_tables(records: Iterable[Mapping[str, Any]]) -> list[Table]:
    """Test scores by the number of tokens, and across lengths; then what the paper published.

    Args:
        records: Records of kind ``"length_score"``.

    Returns:
        For each model and task a table by the number of tokens and, where there are such records, one
        of heads that were trained on short or long texts; last the paper's Table 9.

    Raises:
        ValueError: if there is no such record.
    """
    tables = []
    for place, rows in _by_place(records).items():
        name = ", ".join(place[:3])
        shown = f"{name} ({unit(place[3])})"
        whole = [row for row in rows if row["trained_on"] == "all"]
        across = [row for row in rows if row["trained_on"] != "all"]
        if whole:
            tables.append(_cut_table(shown, whole))
        if across:
            tables.append(_across_table(shown, across))
    return [*tables, _paper_table()]


@styled
def plot_lengths(records: Iterable[Mapping[str, Any]], path: PathOrPaths) -> None:
    """Test scores against the number of tokens, a line for each pooler, a panel for each solver.

    Bars are the standard deviation over seeds, small points single seeds.

    Args:
        records: As for :func:`length_tables`; some of them of all texts.
        path: PNG, PDF or SVG to write, or several.

    Raises:
        ValueError: if there is no such record.
    """
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for place, rows in _by_place(records).items():
        for row in rows:
            if row["trained_on"] == "all":
                panels.setdefault(f"{', '.join(place[:3])}, {row['solver']}", []).append(row)
    if not panels:
        raise ValueError("records: expected some of heads that were trained on all texts, got none")
    figure, all_axes = new_figure(6.4, 3.6 * len(panels), rows=len(panels), share="none")
    for axes, (name, rows) in zip(all_axes, panels.items(), strict=True):
        looks = looks_of(row["pooler"] for row in rows)
        for pooler, own in _grouped(rows, "pooler").items():
            curve = _grouped(own, "max_tokens")
            found = {n: [row["score"] for row in same] for n, same in sorted(curve.items())}
            draw_spread(axes, found, rows[0]["metric"], pooler, looks[pooler])
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({row["max_tokens"] for row in rows}))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_title(one_line(name), parse_math=False)
        axes.set_xlabel("tokens that texts are cut to")
        axes.set_ylabel(axis_label("test", rows[0]["metric"]), parse_math=False)
        axes.legend(ncols=2)
    save_figure(figure, path)


def _cut_table(title, rows):
    columns = sorted({(row["solver"], row["max_tokens"]) for row in rows})
    shown, tidy = _scores(rows, columns, ("solver", "max_tokens"))
    measured = {row["max_tokens"]: row["lengths"] for row in rows}
    told = [
        f"{n}: {found['mean']:.1f} on average, {100 * found['filled']:.0f} % of the texts fill them"
        for n, found in sorted(measured.items())
    ]
    return Table(
        title=title,
        columns=["pooler", *(f"{solver}, {n} tokens" for solver, n in columns)],
        rows=shown,
        notes=[_CUT, f"Tokens of a text cut to {'; '.join(told)}."],
        tidy=tidy,
    )


def _across_table(title, rows):
    solvers = sorted({row["solver"] for row in rows})
    columns = [(solver, *pair) for solver in solvers for pair in _PAIRS]
    shown, tidy = _scores(rows, columns, ("solver", "trained_on", "tested_on"))
    sizes = {row["tested_on"]: row["num_examples"]["test"] for row in rows}
    note = _ACROSS.format(
        threshold=rows[0]["threshold"],
        train=rows[0]["num_examples"]["train"],
        short=sizes["short"],
        long=sizes["long"],
    )
    return Table(
        title=f"Across lengths: {title}",
        columns=["pooler", *(f"{solver}, {one} → {other}" for solver, one, other in columns)],
        rows=shown,
        notes=[note],
        tidy=tidy,
    )


def _scores(rows, columns, fields):
    """Cells and tidy rows of each pooler, a column for each combination of the fields."""
    metric, shown, tidy = rows[0]["metric"], [], []
    for pooler, own in _grouped(rows, "pooler").items():
        cells = [Cell(pooler)]
        for column in columns:
            matching = [row for row in own if tuple(row[name] for name in fields) == column]
            values = [row["score"] for row in matching if row["score"] is not None]
            cells.append(Cell(mean_and_std_of(values, metric)))
            if values:
                about = {name: matching[0][name] for name in _NAMED}
                about |= {"pooler": pooler, **dict(zip(fields, column, strict=True))}
                spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
                tidy.append(
                    about | {"test": float(np.mean(values)), "std": spread, "seeds": len(values)}
                )
        shown.append(cells)
    return shown, tidy


def _paper_table():
    cells = [cell for cell in paper_results() if cell.table == _PAPER]
    conditions = list(dict.fromkeys(cell.condition for cell in cells))
    found = {(cell.pooling, cell.condition): cell for cell in cells}
    poolers = dict.fromkeys(cell.pooling for cell in cells)
    rows = [
        [Cell(pooler), *(Cell(_printed(found[pooler, condition])) for condition in conditions)]
        for pooler in poolers
    ]
    first = cells[0]
    return Table(
        title=f"The paper's Table {_PAPER}: {first.model}, {first.dataset} ({unit(first.metric)})",
        columns=["pooler", *(condition.replace("seq_len=", "tokens: ") for condition in conditions)],
        rows=rows,
        notes=[
            f"{cells[0].model}: no record without its weights, which --backbone takes as a folder or "
            "hub id; rows of another model say nothing of it."
        ],
        tidy=[],
    )


def _printed(cell):
    return f"{cell.mean:.3f} ± {cell.std:.3f}"


def _by_place(records):
    rows = [row for row in records if row.get("kind") == _KIND]
    if not rows:
        raise ValueError(f"records: expected some of kind {_KIND!r}, got none")
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in _NAMED), []).append(row)
    return found


def _grouped(rows, field):
    found: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row[field], []).append(row)
    return found
