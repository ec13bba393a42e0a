"""Norms of pooled outputs and their bounds over training: what is kept of runs, and their table."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from comparison import portable_command
from etils import epath

from poolax.records import Records
from poolax.reporting import Cell, Table

_COLUMNS = ("run", "step", "loss held out", "measured", "local bound", "tight bound")


def norms_of(folder: epath.PathLike) -> list[dict[str, Any]]:
    """Records of a run's evaluations with norms, as they are kept in results/; none if there are none.

    Args:
        folder: The ``--out`` of a run; its last part is the run's ``name`` in the records.
    """
    path = epath.Path(folder)
    return [
        {**row, "name": path.name, "command": portable_command(row["command"])}
        for row in Records.read(path / "records.jsonl").where(kind="pretraining")
        if "lipschitz" in row.get("observed", {})
    ]


def norms_by_run(records: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Records of :func:`norms_of` by run, in the order of steps."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(records, key=lambda row: (row["name"], row["step"])):
        found.setdefault(row["name"], []).append(row)
    return found


def norms_table(records: Iterable[Mapping[str, Any]]) -> Table:
    """First and last evaluation of each run: the largest norm over the inputs beside its bounds.

    Args:
        records: As :func:`norms_of` gives them.

    Raises:
        ValueError: if there is none.
    """
    runs = norms_by_run(records)
    if not runs:
        raise ValueError("records: expected norms of pooled outputs over training, got none")
    tidy = [_row(name, row) for name, rows in runs.items() for row in (rows[0], rows[-1])]
    cells = [[Cell(row[column]) for column in _COLUMNS] for row in tidy]
    every = [row["observed"]["lipschitz"] for rows in runs.values() for row in rows]
    notes = [
        "measured: the largest Jacobian norm of averaged states at inputs that are held out; local "
        "bound: the largest at these inputs; tight bound: on the smallest domain that holds them.",
        f"Of {sum(len(found['measured']) for found in every)} norms in {len(every)} evaluations "
        f"{_above(every)} {'is' if _above(every) == 1 else 'are'} above a bound.",
    ]
    return Table("Norms of pooled outputs over training", _COLUMNS, cells, notes, tidy)


def _row(name: str, row: Mapping[str, Any]) -> dict[str, str]:
    found = row["observed"]["lipschitz"]
    local = [log for log in found["log10_local"] if log is not None]
    loss = row.get("evaluation_loss")
    return {
        "run": name,
        "step": f"{row['step']:,}",
        "loss held out": "–" if loss is None else f"{loss:.3f}",
        "measured": f"{max(found['measured']):.3g}",
        "local bound": f"10^{max(local):.1f}" if local else "–",
        "tight bound": f"10^{found['log10_tight']:.1f}",
    }


def _above(every: Sequence[Mapping[str, Any]]) -> int:
    """How many norms are above the local bound at their input, or above the tight one."""
    return sum(
        math.log10(norm) > min(bound for bound in (local, found["log10_tight"]) if bound is not None)
        for found in every
        for norm, local in zip(found["measured"], found["log10_local"], strict=True)
        if norm > 0
    )
