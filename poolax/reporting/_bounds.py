"""Tables of bounds: of blocks by pooler and attention, and of backbones layer by layer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from poolax.bounds import METHODS, PROVED
from poolax.measure import log10_of
from poolax.reporting._numbers import number_text
from poolax.reporting._table import Cell, Table

# A constant of a million moves a vector further by rounding errors than by what it means.
_SAYING_NOTHING = 6


def constant_text(row: Mapping[str, Any], name: str) -> str:
    """What a table says of a constant of a record.

    Args:
        row: With the fields of :func:`poolax.measure.constant_fields`.
        name: Of the constant.

    Example:
        >>> constant_text({"tight": 12.345, "log10_tight": 1.0915}, "tight")
        '12.3'
    """
    return number_text(row[name], row[f"log10_{name}"])


def bounds_table(records: Sequence[Mapping[str, Any]], title: str) -> Table:
    """The table of ``poolax bounds``: blocks by attention and pooler.

    Args:
        records: Of kind ``"bounds"``, with an attention each.
        title: Above the table.

    Returns:
        The table; the least of the bounds that are proved is bold.
    """
    first = records[0]
    with_gamma = "gamma" in first
    has_local = any(_local_of(row) is not None for row in records)
    columns = ["attention", "pooler", *(["local"] if has_local else []), *METHODS]
    columns += ["gamma", "verdict"] if with_gamma else []
    rows = []
    for row in records:
        cells = [Cell(row["attention"]), Cell(row["pooler"])]
        if has_local:
            cells.append(Cell(number_text(None, _local_of(row))))
        best = min(PROVED, key=lambda name, row=row: log10_of(row, name))
        cells += [Cell(constant_text(row, name), bold=name == best) for name in METHODS]
        if with_gamma:
            cells += [Cell(constant_text(row, "gamma")), Cell(_verdict(row))]
        rows.append(cells)
    local = next((row for row in records if "log10_local" in row), None)
    notes = [*_notes(first), *(_local_notes(local, True) if has_local else []), *_counted(records)]
    return Table(title=title, columns=columns, rows=rows, notes=notes, tidy=list(records))


def _notes(row):
    notes = [
        f"Lipschitz constants for {_tokens_text(row)} of width {row['dim']}, norms up to "
        f"{row['radius']:.4g} and distances up to {2 * row['spread']:.4g}; a dash: nothing was "
        "published, or no finite number.",
        *geometry_notes(row),
    ]
    if "gamma" in row:
        notes.append(
            f"gamma: smallest bound times epsilon / sigma = {row['epsilon']:g} / {row['sigma']:g}. "
            "certified: no such change moves the pooled vector by more than sigma; at some inputs: the "
            "local bound says so of these alone; vacuous: no bound can tell."
        )
    return notes


def _counted(records):
    """How many are certified, and what it would take where none is."""
    if "gamma" not in records[0]:
        return []
    count = sum(row["certified_zero"] for row in records)
    if count:
        return [f"{count} of {len(records)} are certified."]
    least = min(min(log10_of(row, name) for name in PROVED) for row in records)
    largest = number_text(None, math.log10(records[0]["sigma"]) - least)
    return [
        f"None of {len(records)} is certified; by the least of these bounds a change of epsilon up to "
        f"{largest} would be."
    ]


def geometry_notes(row: Mapping[str, Any]) -> list[str]:
    """What a table says of the norm of changes, where that is not Frobenius's.

    Args:
        row: A record that may have a ``geometry``.

    Example:
        >>> geometry_notes({"geometry": "frobenius"})
        []
    """
    if row.get("geometry", "frobenius") == "frobenius":
        return []
    return ["The norm of a change is the largest of a token's: each token may change by that much."]


def ledger_table(records: Sequence[Mapping[str, Any]], title: str) -> Table:
    """What each layer of a backbone multiplies the tight bound with.

    Args:
        records: Of kind ``"layer"``, of one backbone, by the methods ``"tight"`` and ``"sharp"``.
        title: Above the table.

    Returns:
        The table, a row for each layer.
    """
    shown = [record for record in records if record["method"] == "tight"]
    sharp = {row["layer"]: row for row in records if row["method"] == "sharp"}
    rows = []
    for row in shown:
        texts = [constant_text(row, name) for name in ("branch", "norm", "factor")]
        texts += [constant_text(sharp[row["layer"]], "factor"), number_text(row["radius_in"])]
        rows.append([Cell(row["layer"]), *map(Cell, texts)])
    return Table(
        title=title,
        columns=["layer", "branch", "norms", "tight", "sharp", "radius"],
        rows=rows,
        notes=[
            "Lipschitz constants of the branch alone and of the norms around it (tight), and of the "
            "layer with its residual connection; the bound of the backbone is the product of the "
            "layers'. radius: largest norm of a token that comes in."
        ],
        tidy=list(records),
    )


def pooled_table(records: Sequence[Mapping[str, Any]], title: str, source: str = "") -> Table:
    """Bounds of a whole backbone by pooler.

    Args:
        records: Of kind ``"bounds"``, of one backbone.
        title: Above the table.
        source: Whose tokens they are about, in words.

    Returns:
        The table, a row for each pooler.
    """
    first = records[0]
    with_gamma = "gamma" in first
    whose = f" ({source})" if source else ""
    has_local = any(_local_of(row) is not None for row in records)
    # What says most of the model stands first.
    names = [*reversed(PROVED)] if has_local else [*PROVED]
    rows = []
    for row in records:
        cells = [Cell(row["pooler"])]
        if has_local:
            cells.append(Cell(number_text(None, _local_of(row))))
        cells += [Cell(constant_text(row, name)) for name in names]
        if with_gamma:
            cells += [Cell(constant_text(row, "gamma")), Cell(_verdict(row))]
        rows.append(cells)
    return Table(
        title=title,
        columns=[
            "pooler",
            *(["local"] if has_local else []),
            *names,
            *(["gamma", "verdict"] if with_gamma else []),
        ],
        rows=rows,
        notes=[
            *_local_notes(first, has_local),
            f"From embeddings to the pooled vector, for {_tokens_text(first)} with norms up to "
            f"{first['radius']:.4g} and distances up to {2 * first['spread']:.4g}{whose}.",
            *geometry_notes(first),
            *_vacuous(records, has_local),
            *(_counted(records) if with_gamma else []),
        ],
        tidy=list(records),
    )


def _verdict(row):
    """What the bounds of a record say of a change: of all inputs, of some, or nothing."""
    if row["certified_zero"]:
        return "certified"
    number = row.get("certified_inputs", 0)
    return f"at {number} of {row['num_inputs']} inputs" if number else "vacuous"


def _local_of(row):
    """The logarithm of the largest of the local bounds of a record; ``None`` where one is not known."""
    logs = row.get("log10_local")
    return max(logs) if logs and None not in logs else None


def _local_notes(row, has_local):
    if has_local:
        inputs = f"{row['num_inputs']} inputs ({row['inputs']})" if "inputs" in row else "the inputs"
        where = "for small changes of each alone"
        if "local_epsilon" in row:
            where = f"on the ball of radius {row['local_epsilon']:g} around each"
        return [f"local: the largest of the bounds at {inputs}, {where}."]
    return (
        ["No local bound is known for layers of these kinds, or for states beyond the precision."]
        if "log10_local" in row
        else []
    )


def _vacuous(records, has_local):
    """What bounds are worth that are a product of the worst of many layers."""
    least = min(log10_of(row, name) for row in records for name in PROVED)
    if least < _SAYING_NOTHING:
        return []
    instead = "Read the local ones; poolax" if has_local else "The command poolax"
    return [
        f"All products over the layers (tight, sharp) are {number_text(None, float(least))} or more: "
        "they are true and say nothing about this model (vacuous), for no input is the worst of every "
        f"layer at once. {instead} lipschitz measures what happens at inputs."
    ]


def _tokens_text(row: Mapping[str, Any]) -> str:
    """How many tokens a record is about, in words."""
    low, high = row["num_tokens"]
    return f"{low} tokens" if low == high else f"{low} to {high} tokens"
