"""The ledger of a backbone: its records."""

from collections.abc import Mapping
from typing import Any

from poolax.bounds import Ledger
from poolax.measure import Constant, constant_fields


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
