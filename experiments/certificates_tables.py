"""Records and tables of certificates.py."""

from typing import TypedDict

import numpy as np

from poolax.records import Records, record_kind
from poolax.reporting import Cell, Table
from poolax.reporting import number_text as text


class _Measured(TypedDict):
    id: str
    wall_s: float
    command: str


@record_kind("certified")
class Certified(_Measured):
    """Certified and attacked radii of a classifier; ``None`` where no attack succeeded."""

    model: str
    attention: str | None
    pooler: str
    geometry: str
    dataset: str
    num_inputs: int
    accuracy: float | None
    certified: list[float]
    attacked: list[float | None] | None
    certified_over_attacked: float | None
    log10_constant: list[float] | None
    log10_gain: float | None


@record_kind("certify_cost")
class CostOfCertificates(_Measured):
    """Seconds that certificates of many examples take, once compiled."""

    pooler: str
    geometry: str
    shape: list[int]
    seconds: float
    cpu_seconds: float


_NORMS = {"frobenius": "all tokens together", "tokens": "each token"}


def tables(records: Records) -> dict[str, Table]:
    """All tables for which there are records."""
    makers = {"certified": (_certified, "radii"), "certify_cost": (_costs, "cost")}
    found = {name: (maker, records.where(kind=kind)) for kind, (maker, name) in makers.items()}
    return {name: maker(rows) for name, (maker, rows) in found.items() if len(rows)}


def _certified(records):
    rows, tidy = [], []
    for row in records:
        known = [one for one in row["certified"] if one]
        median = float(np.median(known)) if known else None
        of = row["model"] if row["attention"] is None else f"{row['model']}, {row['attention']}"
        share, gain = row["certified_over_attacked"], row["log10_gain"]
        counted = f"{len(known)} / {len(row['certified'])}"
        numbers = ["–" if one is None else text(one) for one in (median, share)]
        numbers.append("–" if gain is None else text(None, gain))
        rows.append([of, row["pooler"], _NORMS[row["geometry"]], counted, *numbers])
        fields = ("model", "attention", "pooler", "geometry", "accuracy")
        fields += ("certified_over_attacked", "log10_gain")
        tidy.append({name: row[name] for name in fields} | {"certified": median})
    columns = ["model", "pooler", "norm", "inputs", "certified", "certified / attacked"]
    return _table(
        "Certified radii at real inputs",
        [*columns, "certified / by constant"],
        rows,
        [
            "inputs: those that are classified as labelled and have a radius, of all that were tried; "
            "medians are over these. Heads and one-block models have learned scikit-learn's digits, "
            "whose patches are tokens; backbones tell two sentences apart, and their embeddings move. "
            "attacked: the smallest change that was found to alter the class. by constant: what the "
            "tight constant certifies, on the domain that holds the certified ball."
        ],
        tidy,
    )


def _costs(records):
    rows = []
    for row in records:
        shape = " × ".join(map(str, row["shape"]))
        numbers = text(row["seconds"]), text(row["cpu_seconds"])
        rows.append([row["pooler"], _NORMS[row["geometry"]], shape, *numbers])
    fields = ("pooler", "geometry", "shape", "seconds", "cpu_seconds")
    return _table(
        "Seconds of certificates of heads, once compiled",
        ["pooler", "norm", "examples × n × d", "seconds", "of CPU"],
        rows,
        ["Random inputs and parameters, two classes."],
        [{name: row[name] for name in fields} for row in records],
    )


def _table(title, columns, rows, notes, tidy):
    cells = [[Cell(entry) for entry in row] for row in rows]
    return Table(title=title, columns=columns, rows=cells, notes=notes, tidy=tidy)
