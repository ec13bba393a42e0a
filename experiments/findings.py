"""What was found, in sentences whose numbers and directions are those of records and verdicts."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from poolax.reporting import Table, claims_tables

Row = Mapping[str, Any]

#: Sentences at most, and the claims that they are of, where these are tested.
MOST = 10
CLAIMS = ("A", "4a", "3a", "5a", "6", "7a", "8a", "8b", "9a", "1", "2b", "11", "9c", "10a")
_DECIDED = ("supported", "contradicted")
_SOLVERS = {"adam": "Adam", "converged": "converged"}


def sentences(tables: Sequence[Table], verdicts: Sequence[Row], counts: str = "") -> list[str]:
    """At most ten sentences; what has no records says nothing.

    Args:
        tables: Of comparisons.
        verdicts: On claims.
        counts: How many of the paper's values stand beside ours, in a sentence.
    """
    tidy = [row for table in tables for row in table.tidy]
    of_scores = [text for text in (chosen(tidy), gained(tidy)) if text]
    room = MOST - len(of_scores) - bool(counts)
    return [*of_scores, *claimed(verdicts)[:room], *([counts] if counts else [])]


def chosen(tidy: Sequence[Row]) -> str:
    """Which poolers validation chose, by protocol."""
    by_protocol: dict[str, collections.Counter] = {}
    for row in tidy:
        if row["chosen"]:
            by_protocol.setdefault(row["protocol"], collections.Counter())[row["pooler"]] += 1
    told = []
    for protocol, count in by_protocol.items():
        listed = ", ".join(f"{name} {number}" for name, number in count.most_common())
        told.append(f"{protocol}: {listed} (of {count.total()})")
    if not told:
        return ""
    return f"What validation chose, over backbones, data and tasks, by protocol: {'; '.join(told)}."


def gained(tidy: Sequence[Row]) -> str:
    """What training to the end adds to the paper's protocol, by pooler, in points of accuracy."""
    means: dict[tuple, dict[str, float]] = {}
    for row in tidy:
        if row["metric"] == "accuracy" and row["mean"] is not None:
            key = tuple(row[name] for name in ("backbone", "dataset", "task", "variant", "pooler"))
            means.setdefault(key, {})[row["protocol"]] = row["mean"]
    gains: dict[str, list[float]] = {}
    for key, by_protocol in means.items():
        if {"Adam", "converged"} <= set(by_protocol):
            gains.setdefault(key[-1], []).append(by_protocol["converged"] - by_protocol["Adam"])
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
    told = []
    for verdict in (*_DECIDED, "undecided"):
        known = [f"{name} ({', '.join(how)})" for name, how in where.get(verdict, {}).items()]
        if known:
            told.append(f"**{verdict}** with {', '.join(known)}")
    decided = [row for row in rows if row["verdict"] in _DECIDED]
    shown = ""
    if decided:
        clearest = min(decided, key=lambda row: row["adjusted"])
        cells = [cell.text for cell in claims_tables([clearest])[0].rows[0]]
        source = "" if cells[7] == "–" else f"; the paper: {cells[7]}"
        shown = f" Clearest with {clearest['backbone']}: {cells[4]}, {cells[5]}{source}."
    whose = "the paper" if rows[0]["source"] == "paper" else "ours"
    return f"*{rows[0]['text']}* ({whose}, {rows[0]['claim']}): {'; '.join(told)}.{shown}"
