"""Records and tables of certificates.py."""

from typing import NotRequired, TypedDict

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
    most_tokens: NotRequired[int]
    num_tokens: NotRequired[list[int]]
    seconds: NotRequired[list[float]]
    cpu_seconds: NotRequired[list[float]]


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
    certified = records.where(kind="certified")
    found = {
        "radii": (_certified, certified),
        "backbones": (_backbones, [row for row in certified if "most_tokens" in row]),
        "cost": (_costs, records.where(kind="certify_cost")),
    }
    return {name: maker(rows) for name, (maker, rows) in found.items() if len(rows)}


def _certified(records):
    rows, tidy = [], []
    for row in records:
        known = [one for one in row["certified"] if one]
        median = float(np.median(known)) if known else None
        of = row["model"] if row["attention"] is None else f"{row['model']}, {row['attention']}"
        if "most_tokens" in row:
            of = f"{of}, up to {row['most_tokens']} tokens"
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


def _backbones(records):
    rows, tidy = [], []
    for row in records:
        names = ("num_tokens", "certified", "attacked", "log10_constant", "seconds", "cpu_seconds")
        for values in zip(*(row[name] for name in names), strict=True):
            tokens, *radii, log, seconds, cpu_seconds = values
            numbers = [*map(text, radii), text(None, log), text(seconds), text(cpu_seconds)]
            rows.append([row["model"], str(tokens), *numbers])
            tidy.append({"model": row["model"]} | dict(zip(names, values, strict=True)))
    columns = ["model", "tokens", "certified", "attacked", "by constant", "seconds", "of CPU"]
    return _table(
        "Certified radii of backbones, sentence by sentence",
        columns,
        rows,
        [
            "Embeddings move, all tokens together; what is asked is which of two sentences another is "
            "nearer to. by constant: what the tight ledger's constant certifies. Seconds of a "
            "certificate, once compiled."
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
