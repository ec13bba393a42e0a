"""What was found, in sentences whose numbers and directions are those of records and verdicts."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from poolax.reporting import Table, claims_tables

Row = Mapping[str, Any]

#: Sentences at most, and the claims that they are of, where these are tested.
MOST = 10
CLAIMS = ("A", "Ab", "4a", "3a", "5a", "6", "7a", "8a", "8b", "9a", "1", "2b", "11", "9c", "10a")
_DECIDED = ("supported", "contradicted")
_SOLVERS = {"adam": "Adam", "converged": "converged"}


def sentences(tables: Sequence[Table], verdicts: Sequence[Row], counts: str = "") -> list[str]:
    """At most ten sentences; what has no records says nothing.

    Args:
        tables: Of comparisons.
        verdicts: On claims.
        counts: How many of the paper's values stand beside ours, in a sentence.
    """
    of_scores = [text for text in (chosen(tables), gained(tables)) if text]
    room = MOST - len(of_scores) - bool(counts)
    return [*of_scores, *claimed(verdicts)[:room], *([counts] if counts else [])]


def chosen(tables: Sequence[Table]) -> str:
    """Which poolers validation chose, by protocol."""
    by_protocol: dict[str, collections.Counter] = {}
    for row in (row for table in tables for row in table.tidy):
        if row["chosen"]:
            by_protocol.setdefault(row["protocol"], collections.Counter())[row["pooler"]] += 1
    told = []
    for protocol, count in by_protocol.items():
        listed = ", ".join(f"{name} {number}" for name, number in count.most_common())
        told.append(f"{protocol}: {listed} (of {count.total()})")
    if not told:
        return ""
    return f"What validation chose, over backbones, data and tasks, by protocol: {'; '.join(told)}."


def gained(tables: Sequence[Table]) -> str:
    """What training to the end adds to the paper's protocol, by pooler, in points of accuracy."""
    gains: dict[str, list[float]] = {}
    for table in tables:
        means: dict[str, dict[str, float]] = {}
        for row in table.tidy:
            if row["metric"] == "accuracy" and row["mean"] is not None:
                means.setdefault(row["pooler"], {})[row["protocol"]] = row["mean"]
        for name, by_protocol in means.items():
            if set(_SOLVERS.values()) <= set(by_protocol):
                gains.setdefault(name, []).append(by_protocol["converged"] - by_protocol["Adam"])
    if not gains:
        return ""
    medians = {name: 100 * float(np.median(values)) for name, values in gains.items()}
    order = sorted(medians, key=lambda name: medians[name], reverse=True)
    listed = ", ".join(f"{name} {medians[name]:+.2f}" for name in order)
    most = max(map(len, gains.values()))
    return (
        "Training to the end changes accuracy by so many points beside the paper's protocol, in the "
        f"median over up to {most} classifications: {listed}."
    )


def claimed(verdicts: Sequence[Row]) -> list[str]:
    """A sentence for each tested claim, those that are decided anywhere before those that are not."""
    found = []
    for name in CLAIMS:
        rows = [row for row in verdicts if row["claim"] == name and row["p_for"] is not None]
        if rows:
            found.append((not any(row["verdict"] in _DECIDED for row in rows), _sentence(rows)))
    return [text for _, text in sorted(found, key=lambda one: one[0])]


def _sentence(rows: Sequence[Row]) -> str:
    """What became of a claim, with the comparison that is clearest."""
    where: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        by_backbone = where.setdefault(row["verdict"], {})
        by_backbone.setdefault(row["backbone"], []).append(_SOLVERS[row["solver"]])
    every = {_SOLVERS[row["solver"]] for row in rows}
    told = []
    for verdict in (*_DECIDED, "undecided"):
        # Where all protocols say the same, none is named.
        known = [
            name if set(how) == every else f"{name} ({', '.join(how)})"
            for name, how in where.get(verdict, {}).items()
        ]
        if known:
            told.append(f"{verdict} with {_listed(known)}")
    decided = [row for row in rows if row["verdict"] in _DECIDED]
    shown = ""
    if decided:
        clearest = min(decided, key=lambda row: row["adjusted"])
        # What has no records stands with the verdicts.
        cells = [cell.text for cell in claims_tables([{**clearest, "left_out": ""}])[0].rows[0]]
        source = "" if cells[7] == "–" else f", where the paper has {cells[7]}"
        shown = f" Most clearly with {clearest['backbone']}: {cells[4]}, {cells[5]}{source}."
    whose = "claim of the paper" if rows[0]["source"] == "paper" else "claim of ours"
    text = rows[0]["text"].removesuffix(".")
    return f"**{text}** ({whose}, {rows[0]['claim']}): {'; '.join(told)}.{shown}"


def _listed(names: Sequence[str]) -> str:
    """Names in words.

    Example:
        >>> _listed(["a", "b", "c"])
        'a, b and c'
    """
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
