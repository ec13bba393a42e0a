"""Tables of records."""

from collections.abc import Iterable, Mapping
from typing import Any

from poolax.reporting._constants import constants_of
from poolax.reporting._numbers import number_text
from poolax.reporting._table import Cell, Table


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
    columns = {"measured_real": "real", "measured_adversarial": "search"}
    columns |= {"local": "local", "local_around": "around"}
    columns |= {"tight": "tight", "sharp": "sharp", "published": "published"}
    # Earlier records have fewer bounds.
    values = [
        name
        for name in columns
        if name not in ("local", "local_around", "tight") or any(row[name] is not None for row in found)
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
        cells += [Cell(number_text(row[name])) for name in values]
        cells.append(Cell(number_text(ratios[f"{best}_over_measured"])))
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
    around = known = ""
    if "local_around" in values:
        known = " or is known"
        shown = next(row for row in found if row["local_around"] is not None)
        around = f"around: the largest on balls of radius {number_text(shown['epsilon'])} around the "
        around += f"{shown['num_around']} inputs where local is largest; "
    return [
        f"Lipschitz constants, {where}. real: largest Jacobian norm at {inputs}; search: largest found "
        f"by adversarial search in the ball; {local}{around}ratio: {best} over the larger of both.",
        f"A dash: no such bound was published{known} for this pooler, or no search was made.",
    ]
