"""Tables of records."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from poolax.reporting._table import Cell, Table

_FIXED = ("first", "last", "avg", "sum", "max")


def summarize_scores(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds of every pooler on every task.

    Where several learning rates were tried, the one with the best mean validation score is reported,
    by its test score. Diverged heads count in ``num_diverged`` and not in the mean.

    Args:
        records: Head records of a sweep.

    Returns:
        One dictionary for each backbone, data set, task and pooler, in order of appearance.
    """
    groups: dict[tuple, dict[float, list]] = {}
    for row in records:
        key = (row.get("backbone", ""), row.get("dataset", ""), row["task"], row["pooler"])
        groups.setdefault(key, {}).setdefault(row["learning_rate"], []).append(row)
    summary = []
    for (backbone, dataset, task, pooler), by_rate in groups.items():
        sign = 1 if next(iter(by_rate.values()))[0]["higher_is_better"] else -1

        def validation(rows, sign=sign):
            scores = [sign * row["validation"] for row in rows if not row["diverged"]]
            return float(np.mean(scores)) if scores else -np.inf

        rate = max(by_rate, key=lambda rate: validation(by_rate[rate]))
        rows = by_rate[rate]
        scores = [row["test"] for row in rows if not row["diverged"]]
        summary.append(
            {
                "backbone": backbone,
                "dataset": dataset,
                "task": task,
                "metric": rows[0]["metric"],
                "higher_is_better": rows[0]["higher_is_better"],
                "pooler": pooler,
                "resolved": rows[0]["resolved"]["name"],
                "learning_rate": rate,
                "num_learning_rates": len(by_rate),
                "mean": float(np.mean(scores)) if scores else None,
                "std": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
                "num_seeds": len(scores),
                "num_diverged": len(rows) - len(scores),
                "baseline": rows[0]["baseline"],
            }
        )
    return summary


def score_table(records: Iterable[Mapping[str, Any]], *, title: str = "Scores") -> Table:
    """Scores of all poolers, a column each: best bold, best fixed pooler underlined.

    Args:
        records: Head records of a sweep.
        title: Above the table.

    Returns:
        The table.

    Raises:
        ValueError: if there is no record.
    """
    summary = summarize_scores(records)
    if not summary:
        raise ValueError("records: expected at least one head record, got none")
    poolers = list(dict.fromkeys(entry["pooler"] for entry in summary))
    places = dict.fromkeys(
        (entry["backbone"], entry["dataset"], entry["task"], entry["metric"]) for entry in summary
    )
    rows = []
    for place in places:
        entries = {
            entry["pooler"]: entry
            for entry in summary
            if (entry["backbone"], entry["dataset"], entry["task"], entry["metric"]) == place
        }
        best = _best(entries.values())
        best_fixed = _best(entry for entry in entries.values() if entry["resolved"] in _FIXED)
        baseline = next(iter(entries.values()))["baseline"]
        name = ", ".join(part for part in place[:3] if part)
        cells = [Cell(f"{name} ({_unit(place[3])})"), Cell(_value(baseline, place[3]))]
        for pooler in poolers:
            entry = entries.get(pooler)
            cells.append(Cell(_mean_and_std(entry), pooler == best, pooler == best_fixed))
        rows.append(cells)
    return Table(
        title=title,
        columns=["task", "baseline", *poolers],
        rows=rows,
        notes=_score_notes(summary),
        tidy=[{**entry, "std": "" if entry["std"] is None else entry["std"]} for entry in summary],
    )


def _best(entries):
    entries = [entry for entry in entries if entry["mean"] is not None]
    if not entries:
        return None
    sign = 1 if entries[0]["higher_is_better"] else -1
    return max(entries, key=lambda entry: sign * entry["mean"])["pooler"]


def _is_share(metric):
    return metric.endswith("accuracy")


def _unit(metric):
    return f"{metric} in %" if _is_share(metric) else metric


def _value(value, metric):
    return f"{100 * value:.2f}" if _is_share(metric) else f"{value:.4f}"


def _mean_and_std(entry):
    if entry is None:
        return "–"
    if entry["mean"] is None:
        return "diverged"
    text = _value(entry["mean"], entry["metric"])
    return text if entry["std"] is None else f"{text} ± {_value(entry['std'], entry['metric'])}"


def _score_notes(summary):
    seeds = sorted({entry["num_seeds"] for entry in summary})
    notes = [
        f"Test scores, mean ± standard deviation over "
        f"{' to '.join(map(str, seeds))} seeds; bold: best; underlined: best fixed pooler; baseline: "
        "the best prediction that does not look at the input."
    ]
    if any(entry["num_learning_rates"] > 1 for entry in summary):
        notes.append(
            "The learning rate of each pooler was chosen by mean validation score; reported "
            "is its test score."
        )
    renamed = {e["pooler"]: e["resolved"] for e in summary if e["pooler"] != e["resolved"]}
    notes += [
        f"{pooler} is the {resolved} token here."
        for pooler, resolved in renamed.items()
        if pooler == "last" and resolved == "first"
    ]
    diverged = sum(entry["num_diverged"] for entry in summary)
    if diverged:
        notes.append(f"{diverged} diverged heads are left out.")
    return notes


def sensitivity_table(records: Iterable[Mapping[str, Any]], *, title: str = "Sensitivity") -> Table:
    """Measured Lipschitz constants beside their bounds.

    Args:
        records: Records of kind ``"lipschitz"``.
        title: Above the table.

    Returns:
        The table.

    Raises:
        ValueError: if there is no record.
    """
    records = list(records)
    if not records:
        raise ValueError("records: expected at least one lipschitz record, got none")
    values = ("measured_real", "measured_adversarial", "sharp", "published")
    rows, tidy = [], []
    for row in records:
        largest = max(row["measured_real"], row["measured_adversarial"])
        ratio = None if row["sharp"] is None else row["sharp"] / largest
        cells = [Cell(row["attention"]), Cell(row["pooler"])]
        cells += [Cell(_number(row[name])) for name in values]
        cells.append(Cell(_number(ratio)))
        rows.append(cells)
        fields = ("attention", "pooler", *values, "num_tokens", "width", "radius", "metric", "test")
        tidy.append({name: row[name] for name in fields} | {"sharp_over_measured": ratio})
    first = records[0]
    return Table(
        title=title,
        columns=[
            "attention",
            "pooler",
            "real",
            "search",
            "sharp",
            "published",
            "ratio",
        ],
        rows=rows,
        notes=[
            f"Lipschitz constants of trained one-block models, n = {first['num_tokens']}, "
            f"d = {first['width']}, on the ball of radius {first['radius']:.2f}. real: largest exact "
            f"Jacobian norm at {first['num_inputs']} test inputs; search: largest found by adversarial "
            "search in the ball; ratio: sharp over the larger of both.",
            "A dash: no such bound was published for this pooler.",
        ],
        tidy=tidy,
    )


def _number(value):
    if value is None:
        return "–"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.1e}"
