"""The table of what pretrained models are worth."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from poolax.reporting import Cell, Table
from pretraining._presets import PRESETS

_HEADS = ("head on", "trained", "random", "raw")
_COLUMNS = (
    *("preset", "seeds", "parameters", "loss", "held out", "beside"),
    *_HEADS,
    *("seconds", "tokens/s"),
)
# In points of accuracy: by so much a trained model should be above random weights and raw inputs.
_WORTH = 3.0


def summary_table(records: Iterable[Mapping[str, Any]]) -> Table:
    """A row for each preset and data set of a head, means over seeds.

    Args:
        records: Records of kind ``"pretrained"``.

    Raises:
        ValueError: if there is none.
    """
    by_preset: dict[tuple[str, int, tuple[str, ...]], list[Mapping[str, Any]]] = {}
    order = {name: place for place, name in enumerate(PRESETS)}
    for row in sorted(records, key=lambda row: (order.get(row["preset"], len(order)), row["seed"])):
        key = (row["preset"], row["steps"], tuple(row["data"]))
        by_preset.setdefault(key, []).append(row)
    if not by_preset:
        raise ValueError("records: expected at least one of kind 'pretrained', got none")
    tidy = [row for rows in by_preset.values() for row in _rows_of(rows)]
    cells = [[Cell(_text(row[name])) for name in _COLUMNS] for row in tidy]
    notes = [
        "loss: on the examples held out, its range over seeds; held out: the same in the unit that is "
        "named; beside: what rules and models that learn little come to on the same examples.",
        "trained, random, raw: test accuracy in % of a linear head, trained to the end, on averaged "
        "states of the trained model, of the same model with random weights, and on raw inputs "
        "(pixels, steps, counts of tokens); ± is the standard deviation over seeds of pretraining.",
        "seconds: of training, evaluations and compilation left out, on the devices of the records, of "
        "the fastest seed; other work beside, which no record tells of, makes them more.",
        _points_missed(list(by_preset.values())),
        _losses_missed(list(by_preset.values())),
    ]
    return Table("What pretrained models are worth", _COLUMNS, cells, notes, tidy)


def _rows_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    first = rows[0]
    beside = _beside(rows)
    common = {
        "preset": first["preset"],
        "seeds": len({row["seed"] for row in rows}),
        "parameters": first["num_parameters"],
        "loss": _range([row["evaluation_loss"] for row in rows if row["evaluation_loss"] is not None]),
        "held out": f"{_spread(_scores(rows), '{:.3f}')} {first['unit']}",
        "beside": ", ".join(f"{name} {value:.3f}" for name, value in beside.items()),
        "seconds": _best(rows, "seconds", min),
        "tokens/s": _best(rows, "tokens_per_second", max),
    }
    heads = [
        {
            **common,
            "head on": name,
            **{
                kind: _spread([100 * row["heads"][name][kind] for row in rows], "{:.1f}")
                for kind in _HEADS[1:]
            },
        }
        for name in first["heads"]
    ]
    return heads or [{**common, **dict.fromkeys(_HEADS, "")}]


def _points_missed(presets: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """The sentence that says where pretraining is worth less than it should be."""
    missed, number = [], 0
    for rows in presets:
        for name in rows[0]["heads"]:
            number += 1
            means = {
                kind: 100 * np.mean([row["heads"][name][kind] for row in rows]) for kind in _HEADS[1:]
            }
            gains = {kind: means["trained"] - means[kind] for kind in ("random", "raw")}
            least = min(gains, key=lambda kind: gains[kind])
            if gains[least] < _WORTH:
                what = {"random": "random weights", "raw": "raw inputs"}[least]
                missed.append(f"{rows[0]['preset']} on {name} ({gains[least]:+.1f} to {what})")
    if not missed:
        return (
            f"The trained model is {_WORTH:g} points or more above both others in all {number} heads."
        )
    return (
        f"The trained model is less than {_WORTH:g} points above the better of both others in "
        f"{len(missed)} of {number} heads: {', '.join(missed)}."
    )


def _losses_missed(presets: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """The sentence that says where a model is not better than what stands beside it."""
    missed = []
    for rows in presets:
        scores, beside = _scores(rows), _beside(rows)
        if scores and beside and np.mean(scores) >= min(beside.values()):
            name = min(beside, key=lambda name: beside[name])
            missed.append(f"{rows[0]['preset']} ({np.mean(scores):.3f}; {name} {beside[name]:.3f})")
    if not missed:
        return "Every model is better on what is held out than what stands beside it."
    return f"Not better on what is held out than what stands beside it: {', '.join(missed)}."


def _scores(rows):
    return [row["score"] for row in rows if row["score"] is not None]


def _beside(rows):
    return {
        name: float(np.mean([row["beside"][name] for row in rows if name in row["beside"]]))
        for name in rows[0]["beside"]
    }


def _best(rows, name, best):
    found = [row[name] for row in rows if row.get(name) is not None]
    return f"{best(found):,.0f}" if found else "–"


def _range(values):
    if not values:
        return "–"
    return " to ".join(dict.fromkeys(f"{value:.3f}" for value in (min(values), max(values))))


def _spread(values, form):
    if not values:
        return "–"
    mean = form.format(np.mean(values))
    return mean if len(values) == 1 else f"{mean} ± {form.format(np.std(values, ddof=1))}"


def _text(value):
    return f"{value:,}" if isinstance(value, int) else str(value)
