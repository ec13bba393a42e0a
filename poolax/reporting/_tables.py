"""Tables of records."""

from collections.abc import Iterable, Mapping
from typing import Any

from poolax.pooling import FIXED_POOLERS
from poolax.reporting._constants import constants_of
from poolax.reporting._scores import place_of, scores_by_place
from poolax.reporting._table import Cell, Table


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
    groups = scores_by_place(records)
    summary = [entry for group in groups for entry in group]
    if not summary:
        raise ValueError("records: expected at least one head record, got none")
    poolers = list(dict.fromkeys(entry["pooler"] for entry in summary))
    # Older records do not hold it.
    has_best = any(entry["best_constant"] is not None for entry in summary)
    rows = []
    for group in groups:
        name, metric = place_of(group[0]), group[0]["metric"]
        entries = {entry["pooler"]: entry for entry in group}
        best, best_fixed = _best(group), _best(e for e in group if e["resolved"] in FIXED_POOLERS)
        cells = [Cell(f"{name} ({_unit(metric)})"), Cell(_value(group[0]["baseline"], metric))]
        if has_best:
            cells.append(Cell(_value(group[0]["best_constant"], metric)))
        for pooler in poolers:
            entry = entries.get(pooler)
            cells.append(Cell(_mean_and_std(entry), pooler == best, pooler == best_fixed))
        rows.append(cells)
    return Table(
        title=title,
        columns=["task", "baseline", *(["best constant"] if has_best else []), *poolers],
        rows=rows,
        notes=_score_notes(summary, has_best=has_best),
        tidy=summary,
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
    if value is None:
        return "–"
    return f"{100 * value:.2f}" if _is_share(metric) else f"{value:.4f}"


def _mean_and_std(entry):
    if entry is None:
        return "–"
    if entry["mean"] is None:
        return "diverged"
    text = _value(entry["mean"], entry["metric"])
    return text if entry["std"] is None else f"{text} ± {_value(entry['std'], entry['metric'])}"


def _score_notes(summary, *, has_best):
    seeds = sorted({entry["num_seeds"] for entry in summary})
    best = "; best constant: that of the test split itself, which no constant exceeds" * has_best
    notes = [
        f"Test scores, mean ± standard deviation over "
        f"{' to '.join(map(str, seeds))} seeds; bold: best; underlined: best fixed pooler; baseline: "
        f"the training split's best constant prediction{best}."
    ]
    copied = {place_of(e): e["test_in_train"] for e in summary if e["test_in_train"]}
    notes += [
        f"{place}: {count} test examples stand in the training split as well."
        for place, count in copied.items()
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
    if any(entry["learning_rate"] is None for entry in summary):
        notes.append("A head of one seed that was solved is the same for every seed.")
    diverged = sum(entry["num_diverged"] for entry in summary)
    if diverged:
        notes.append(f"{diverged} diverged heads are left out.")
    return notes


def sensitivity_table(records: Iterable[Mapping[str, Any]], *, title: str = "Sensitivity") -> Table:
    """Measured Lipschitz constants beside their bounds.

    Args:
        records: Records of kind ``"lipschitz"``, which the quickstart writes, or
            ``"lipschitz_at_inputs"``, which ``poolax lipschitz --json`` prints.
        title: Above the table.

    Returns:
        The table.

    Raises:
        ValueError: if there is no record, or one of another kind.
    """
    found = constants_of(records)
    columns = {"measured_real": "real", "measured_adversarial": "search", "local": "local"}
    columns |= {"tight": "tight", "sharp": "sharp", "published": "published"}
    # Records of the first version have neither local nor tight bounds.
    values = [
        name
        for name in columns
        if name not in ("local", "tight") or any(row[name] is not None for row in found)
    ]
    best = "tight" if "tight" in values else "sharp"
    rows, tidy = [], []
    for row in found:
        measured = (row["measured_real"], row["measured_adversarial"])
        largest = max(value for value in measured if value is not None)
        ratios = {
            f"{name}_over_measured": None if row[name] is None or largest == 0 else row[name] / largest
            for name in dict.fromkeys(("sharp", best))
        }
        cells = [Cell(row["attention"]), Cell(row["pooler"])]
        cells += [Cell(_number(row[name])) for name in values]
        cells.append(Cell(_number(ratios[f"{best}_over_measured"])))
        rows.append(cells)
        fields = ("attention", "pooler", *values, "num_tokens", "width", "radius", "metric", "test")
        tidy.append({name: row[name] for name in fields} | ratios)
    return Table(
        title=title,
        columns=["attention", "pooler", *(columns[name] for name in values), "ratio"],
        rows=rows,
        notes=_sensitivity_notes(found, values, best),
        tidy=tidy,
    )


def _sensitivity_notes(found, values, best):
    first = found[0]
    places = {(row["num_tokens"], row["width"], row["radius"], row["num_inputs"]) for row in found}
    where = "tokens, widths and radii as in the CSV file"
    inputs = "the inputs"
    if len(places) == 1:
        where = f"n = {first['num_tokens']}, d = {first['width']}, on the ball of radius "
        where += f"{first['radius']:.2f}"
        inputs = f"{first['num_inputs']} inputs"
    local = "local: largest of the bounds at these inputs; " if "local" in values else ""
    return [
        f"Lipschitz constants, {where}. real: largest Jacobian norm at {inputs}; search: largest found "
        f"by adversarial search in the ball; {local}ratio: {best} over the larger of both.",
        "A dash: no such bound was published for this pooler, or no search was made.",
    ]


def _number(value):
    if value is None:
        return "–"
    if 1e3 <= abs(value) < 1e5:
        return f"{value:.0f}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.1e}"
