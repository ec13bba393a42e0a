"""What attacks leave of a classification: accuracy by budget, beside constants of the theory."""

import fractions
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from poolax._text import one_line
from poolax.reporting._canvas import INK, PathOrPaths, legend_label, new_figure, save_figure, styled
from poolax.reporting._looks import looks_of
from poolax.reporting._marks import mean_and_std_of
from poolax.reporting._numbers import number_text
from poolax.reporting._paper.cells import paper_results
from poolax.reporting._table import Cell, Table

_KIND = "robustness"
_NAMED = ("model", "dataset", "task", "solver")
_PAPER = 10
_ACCURACY = "accuracy"
_LINES = {"fgsm": "--", "pgd": "-"}
#: What the drop of accuracy is ranked beside, with words for it.
_CONSTANTS = {
    "factor": "the pooler's Lipschitz factor",
    "norm": "the logits' Jacobian by pixels",
    "relative": "the same by the mean margin",
}
_SHARES = (
    "clean and attacked: accuracy in %, mean ± standard deviation over seeds; in brackets the share of "
    "the images that were right and no longer are. All poolers: the same {num} test images of "
    "{shape} values, each changed by at most the budget, in units of the range of pixels before "
    "the model normalises them."
)
_EFFORT = (
    "FGSM climbs the cross-entropy, whose gradient vanishes where a head is very sure{unmoved}; PGD "
    "climbs the margin, which does not: {steps} steps, {restarts} start{s}, the first from the edge of "
    "the ball."
)
_RANKS = (
    "Spearman's correlation over poolers, of means over seeds: of what attacks take from the accuracy "
    "with each constant, and with how many poolers. A pooler without a bound is left out. With so few "
    "poolers a correlation below about 0.7 may be chance."
)
_FEWEST = 4
#: Share of images that is worth a word.
_LEAST_UNMOVED = 0.01


def robustness_tables(records: Iterable[Mapping[str, Any]]) -> list[Table]:
    """Accuracy before and after attacks, correlations with constants, and what the paper published.

    Args:
        records: Records of kind ``"robustness"``.

    Returns:
        For each model, data set and solver a table of accuracies; one of correlations; last the paper's
        Table 10.

    Raises:
        ValueError: if there is no such record.
    """
    places = _by_place(records)
    tables = [_accuracies(name, rows) for name, rows in places.items()]
    return [*tables, _correlations(places), _paper_table()]


@styled
def plot_robustness(records: Iterable[Mapping[str, Any]], path: PathOrPaths) -> None:
    """Accuracy against the budget of attacks, a colour for each pooler, a panel for each solver.

    Dashed lines are FGSM's, solid ones PGD's.

    Args:
        records: As for :func:`robustness_tables`.
        path: PNG, PDF or SVG to write, or several.

    Raises:
        ValueError: if there is no such record.
    """
    places = _by_place(records)
    figure, all_axes = new_figure(7.6, 3.6 * len(places), rows=len(places), share="none")
    for axes, (name, rows) in zip(all_axes, places.items(), strict=True):
        looks = looks_of(row["pooler"] for row in rows)
        for pooler, own in _by_pooler(rows).items():
            clean = float(np.mean([row["clean"] for row in own]))
            kinds = list(dict.fromkeys(attack["name"] for attack in own[0]["attacks"]))
            for kind in kinds:
                found = {
                    attack["radius"]: float(np.mean([row["attacks"][n]["accuracy"] for row in own]))
                    for n, attack in enumerate(own[0]["attacks"])
                    if attack["name"] == kind
                }
                budgets = [0.0, *sorted(found)]
                values = [clean, *(found[radius] for radius in budgets[1:])]
                axes.plot(
                    [255 * budget for budget in budgets], [100 * value for value in values],
                    color=looks[pooler].colour, linestyle=_LINES[kind],
                    marker=looks[pooler].marker, markersize=4,
                    label=legend_label(pooler) if kind == kinds[-1] else None,
                )  # fmt: skip
        for kind in dict.fromkeys(attack["name"] for row in rows for attack in row["attacks"]):
            axes.plot([], [], color=INK, linestyle=_LINES[kind], label=kind.upper())
        axes.set_title(one_line(", ".join(name)), parse_math=False)
        axes.set_xlabel("budget of the attack (1/255 of the range of pixels)")
        axes.set_ylabel("accuracy (%)")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(figure, path)


def _accuracies(name, rows):
    attacks = rows[0]["attacks"]
    shown, tidy = [], []
    for pooler, own in _by_pooler(rows).items():
        cells = [Cell(pooler), Cell(mean_and_std_of([row["clean"] for row in own], _ACCURACY))]
        for n, attack in enumerate(attacks):
            found = {
                field: [row["attacks"][n][field] for row in own if row["attacks"][n][field] is not None]
                for field in ("accuracy", "success")
            }
            success = f" ({100 * np.mean(found['success']):.1f})" if found["success"] else ""
            cells.append(Cell(mean_and_std_of(found["accuracy"], _ACCURACY) + success))
            about = dict(zip(_NAMED, name, strict=True)) | {"pooler": pooler, "attack": attack["name"]}
            about |= {"budget": attack["radius"], "seeds": len(own)}
            about |= {"clean": float(np.mean([row["clean"] for row in own]))}
            means = {
                field: float(np.mean(values)) if values else None for field, values in found.items()
            }
            tidy.append(about | means)
        shown.append([*cells, *map(Cell, _constants_of(own))])
    shape = " × ".join(map(str, rows[0]["image_shape"]))
    efforts = dict.fromkeys((a["steps"], a["restarts"]) for a in attacks if a["name"] == "pgd")
    return Table(
        title=f"{', '.join(name)} ({_ACCURACY} in %)",
        columns=["pooler", "clean", *map(_named, attacks), "factor", "Jacobian", "margin"],
        rows=shown,
        notes=[
            _SHARES.format(num=rows[0]["num_inputs"], shape=shape),
            *(
                _EFFORT.format(
                    steps=steps, restarts=restarts, s="s" * (restarts > 1), unmoved=_unmoved(rows)
                )
                for steps, restarts in efforts
            ),
            "factor: bound of the pooler's Lipschitz constant, in the Frobenius norm of the tokens; "
            "Jacobian: its mean norm, of the logits by the pixels; margin: the logits' mean margin.",
        ],
        tidy=tidy,
    )


def _unmoved(rows):
    """Of which poolers FGSM leaves images as they are, in words."""
    found = {}
    for pooler, own in _by_pooler(rows).items():
        shares = [
            attack["unmoved"] for row in own for attack in row["attacks"] if attack["name"] == "fgsm"
        ]
        if shares and np.mean(shares) > _LEAST_UNMOVED:
            found[pooler] = f"{pooler} {100 * np.mean(shares):.0f} %"
    return f" (images that it leaves as they are: {', '.join(found.values())})" if found else ""


def _constants_of(rows):
    values = [_mean(rows, name) for name in ("factor", "norm", "margin")]
    return [number_text(value) for value in values]


def _correlations(places):
    from scipy.stats import spearmanr

    shown, tidy = [], []
    for name, rows in places.items():
        poolers = _by_pooler(rows)
        for n, attack in enumerate(rows[0]["attacks"]):
            cells = [Cell(", ".join(name)), Cell(_named(attack))]
            for constant in _CONSTANTS:
                pairs = []
                for own in poolers.values():
                    value = _constant(own, constant)
                    drop = np.mean([row["clean"] - row["attacks"][n]["accuracy"] for row in own])
                    if value is not None:
                        pairs.append((value, float(drop)))
                found = None
                values, drops = [one for one, _ in pairs], [drop for _, drop in pairs]
                if len(pairs) >= _FEWEST and len(set(values)) > 1 and len(set(drops)) > 1:
                    found = float(np.asarray(spearmanr(values, drops))[0])
                cells.append(Cell("–" if found is None else f"{found:+.2f} ({len(pairs)})"))
                about = dict(zip(_NAMED, name, strict=True)) | {"attack": attack["name"]}
                about |= {"budget": attack["radius"], "constant": constant, "poolers": len(pairs)}
                tidy.append(about | {"spearman": found})
            shown.append(cells)
    return Table(
        title="What attacks take, beside constants",
        columns=["heads", "attack", *_CONSTANTS.values()],
        rows=shown,
        notes=[_RANKS],
        tidy=tidy,
    )


def _constant(rows, name):
    if name != "relative":
        return _mean(rows, name)
    norm, margin = _mean(rows, "norm"), _mean(rows, "margin")
    # A mean margin below zero is that of heads that are mostly wrong.
    return None if norm is None or margin is None or margin <= 0 else norm / margin


def _mean(rows, name):
    values = [row[name] for row in rows if row.get(name) is not None]
    return float(np.mean(values)) if values else None


def _paper_table():
    cells = [cell for cell in paper_results() if cell.table == _PAPER]
    columns = list(dict.fromkeys((cell.dataset, cell.condition) for cell in cells))
    found = {(cell.pooling, cell.dataset, cell.condition): cell for cell in cells}
    poolers = dict.fromkeys(cell.pooling for cell in cells)
    rows = [
        [Cell(pooler), *(Cell(f"{found[pooler, *column].mean:.2f}") for column in columns)]
        for pooler in poolers
    ]
    return Table(
        title=f"The paper's Table {_PAPER}: {cells[0].model}, share of attacks that succeed, in %",
        columns=["pooler", *(f"{data}, {condition[4:]}" for data, condition in columns)],
        rows=rows,
        notes=[
            f"FGSM. {cells[0].model}: which checkpoint it was the paper does not say; --backbone takes "
            "one as a folder or hub id. CIFAR-100: no record without its files. Rows of another model "
            "or data say nothing of these."
        ],
        tidy=[],
    )


def _named(attack):
    """An attack with its budget, in 255ths where it is a whole number of them."""
    steps = fractions.Fraction(attack["radius"] * 255).limit_denominator(100)
    is_known = math.isclose(steps, attack["radius"] * 255, rel_tol=1e-9)
    budget = f"{float(steps):g}/255" if is_known else f"{attack['radius']:g}"
    return f"{attack['name'].upper()} {budget}"


def _by_place(records):
    rows = [row for row in records if row.get("kind") == _KIND]
    if not rows:
        raise ValueError(f"records: expected some of kind {_KIND!r}, got none")
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in _NAMED), []).append(row)
    return found


def _by_pooler(rows):
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["pooler"], []).append(row)
    return found
