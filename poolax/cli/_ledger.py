"""The ledger of a backbone: records and tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from poolax.bounds import PROVED, Ledger
from poolax.cli._console import number
from poolax.cli._rows import constant_text, tokens_text
from poolax.measure import Constant, constant_fields
from poolax.reporting import Cell, Table


def ledger_records(ledgers: Mapping[str, Ledger]) -> list[dict[str, Any]]:
    """One record for each layer and method; constants beside their decimal logarithms."""
    records = []
    for method, ledger in ledgers.items():
        for row in ledger.rows:
            logs = {name: float(getattr(row, f"log_{name}")) for name in ("branch", "norm", "factor")}
            constants = {name: Constant(log) for name, log in logs.items()}
            records.append(
                {
                    "kind": "layer",
                    "method": method,
                    "layer": row.name,
                    **constant_fields(constants),
                    **{name: float(getattr(row, name)) for name in ("radius_in", "radius_out")},
                    **{name: float(getattr(row, name)) for name in ("spread_in", "spread_out")},
                }
            )
    return records


def ledger_table(records: Sequence[Mapping[str, Any]], title: str) -> Table:
    """What each layer multiplies the tight bound with."""
    shown = [record for record in records if record["method"] == "tight"]
    sharp = {row["layer"]: row for row in records if row["method"] == "sharp"}
    rows = []
    for row in shown:
        texts = [constant_text(row, name) for name in ("branch", "norm", "factor")]
        texts += [constant_text(sharp[row["layer"]], "factor"), number(row["radius_in"])]
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


def pooled_table(records: Sequence[Mapping[str, Any]], title: str, source: str) -> Table:
    """Bounds of the whole backbone by pooler."""
    first = records[0]
    names = list(PROVED)
    with_gamma = "gamma" in first
    rows = []
    for row in records:
        cells = [Cell(row["pooler"]), *(Cell(constant_text(row, name)) for name in names)]
        if with_gamma:
            verdict = "certified" if row["certified_zero"] else "vacuous"
            cells += [Cell(constant_text(row, "gamma")), Cell(verdict)]
        rows.append(cells)
    return Table(
        title=title,
        columns=["pooler", *names, *(["gamma", "verdict"] if with_gamma else [])],
        rows=rows,
        notes=[
            f"From embeddings to the pooled vector, for {tokens_text(first)} with norms up to "
            f"{first['radius']:.4g} and distances up to {2 * first['spread']:.4g} ({source})."
        ],
        tidy=list(records),
    )
