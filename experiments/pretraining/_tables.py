"""The table of what pretrained models are worth."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from poolax.reporting import Cell, Table

_COLUMNS = (
    "preset",
    "seeds",
    "parameters",
    "held out",
    "beside",
    "head on",
    "trained",
    "random",
    "raw",
)


def summary_table(records: Iterable[Mapping[str, Any]]) -> Table:
    """A row for each preset and data set of a head, means over seeds.

    Args:
        records: Records of kind ``"pretrained"``.

    Raises:
        ValueError: if there is none.
    """
    by_preset: dict[tuple[str, int, tuple[str, ...]], list[Mapping[str, Any]]] = {}
    for row in records:
        key = (row["preset"], row["steps"], tuple(row["data"]))
        by_preset.setdefault(key, []).append(row)
    if not by_preset:
        raise ValueError("records: expected at least one of kind 'pretrained', got none")
    tidy = [row for rows in by_preset.values() for row in _rows_of(rows)]
    cells = [[Cell(_text(row[name])) for name in _COLUMNS] for row in tidy]
    notes = [
        "held out: loss in the unit that is named; beside: what rules and models that learn little "
        "come to on the same examples.",
        "trained, random, raw: test accuracy in % of a linear head, trained to the end, on averaged "
        "states of the trained model, of the same model with random weights, and on raw inputs "
        "(pixels, steps, counts of tokens); ± is the standard deviation over seeds of pretraining.",
    ]
    return Table("What pretrained models are worth", _COLUMNS, cells, notes, tidy)


def _rows_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    first = rows[0]
    beside = {
        name: np.mean([row["beside"][name] for row in rows if name in row["beside"]])
        for name in first["beside"]
    }
    scores = [row["score"] for row in rows if row["score"] is not None]
    common = {
        "preset": first["preset"],
        "seeds": len({row["seed"] for row in rows}),
        "parameters": first["num_parameters"],
        "held out": f"{_spread(scores, '{:.3f}')} {first['unit']}",
        "beside": ", ".join(f"{name} {value:.3f}" for name, value in beside.items()),
    }
    heads = [
        {
            **common,
            "head on": name,
            **{
                kind: _spread([100 * row["heads"][name][kind] for row in rows], "{:.1f}")
                for kind in ("trained", "random", "raw")
            },
        }
        for name in first["heads"]
    ]
    return heads or [{**common, **dict.fromkeys(("head on", "trained", "random", "raw"), "")}]


def _spread(values, form):
    if not values:
        return "–"
    mean = form.format(np.mean(values))
    return mean if len(values) == 1 else f"{mean} ± {form.format(np.std(values, ddof=1))}"


def _text(value):
    return f"{value:,}" if isinstance(value, int) else str(value)
