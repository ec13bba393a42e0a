"""Several backbones on one data set: a table, from its record alone."""

from collections.abc import Mapping
from typing import Any

from poolax._text import one_line
from poolax.reporting._advice import interval_text, signed
from poolax.reporting._marks import metric_name
from poolax.reporting._table import Cell, Table


def comparison_table(record: Mapping[str, Any]) -> Table:
    """Backbones below each other, poolers side by side.

    Args:
        record: Of kind ``"comparison"``.

    Returns:
        For each backbone the test score of each pooler with its interval, that of the pooler that
        validation chose in bold, and the difference of that score to the one of the backbone that
        validates best, with interval and adjusted p-value; the best by validation comes first. A dash
        stands where a pooler was left out. Notes say what is recommended on each backbone, and why.
    """
    advice, sign = record["advice"], 1 if record["higher_is_better"] else -1
    chosen = {name: found["validation"][found["best"]] for name, found in advice.items()}
    order = sorted(advice, key=lambda name: (name != record["best"], -sign * chosen[name]))
    poolers = list(dict.fromkeys(label for found in advice.values() for label in found["validation"]))
    rows, tidy = [], []
    for name in order:
        own, found = advice[name], record["comparisons"].get(name)
        cells = [Cell(name, bold=name == record["recommended"])]
        for label in poolers:
            test = own["test"].get(label)
            is_best = label == own["best"]
            cells.append(Cell("–" if test is None else interval_text(test), bold=is_best))
            if test is not None:
                validation = own["validation"][label]
                facts = {"validation": validation, "chosen": is_best, **test}
                tidy.append({"model": name, "pooler": label, **facts})
        difference = ("–", "–") if found is None else (signed(found), f"{found['adjusted']:.2g}")
        size = f"{record['num_parameters'][name] / 1e6:.3g}"
        rows.append([*cells, *map(Cell, difference), Cell(size)])
    apart = f"best: difference to {record['best']}'s"
    columns = ("model", *poolers, apart, "adjusted p", "million parameters")
    metric = metric_name(record["metric"])
    notes = [f"Test {metric} with its 95 % interval; bold: the pooler that validation chose."]
    if any(label not in own["validation"] for own in advice.values() for label in poolers):
        notes.append("A dash: left out, for the time was over.")
    for name in order:
        own = advice[name]
        reasons = "; ".join(own["reasons"][:1])
        notes.append(one_line(f"{name}: {own['sentence']} {reasons[:1].upper()}{reasons[1:]}."))
    title = one_line(record["sentence"])
    return Table(title=title, columns=columns, rows=rows, notes=notes, tidy=tidy)
