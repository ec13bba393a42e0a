"""Rows of bounds: one record a model, and the tables that are made of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from poolax import attention, pooling
from poolax.blocks import TBM
from poolax.bounds import METHODS, PROVED, Domain, TokenRange
from poolax.cli._console import number
from poolax.measure import log10_of
from poolax.reporting import Cell, Table


def describe_block(model: TBM, variables: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of a one-block model."""
    return {
        "attention": attention.to_config(model.attention)["name"],
        "pooler": pooling.to_config(model.pooler)["name"],
        "dim": variables["params"]["ffn"]["kernel"].shape[0],
        "num_heads": model.num_heads,
    }


def describe_domain(num_tokens: TokenRange, domain: Domain) -> dict[str, Any]:
    """What a record says of the inputs that a bound holds for."""
    return {
        "num_tokens": np.asarray([num_tokens.low, num_tokens.high]).tolist(),
        "radius": float(domain.radius),
        "spread": float(domain.spread),
    }


def constant_text(row: Mapping[str, Any], name: str) -> str:
    """What a table says of a constant."""
    return number(row[name], row[f"log10_{name}"])


def expressivity(row: Mapping[str, Any], epsilon: float, sigma: float) -> dict[str, Any]:
    """What the smallest bound of a row says of changes of size ``epsilon``; of no bound, nothing."""
    log10 = -math.inf
    if epsilon > 0:
        log10 = min(log10_of(row, name) for name in METHODS) + math.log10(epsilon) - math.log10(sigma)
    return {
        "epsilon": epsilon,
        "sigma": sigma,
        "gamma": 10**log10 if log10 < 300 else None,
        "log10_gamma": log10 if math.isfinite(log10) else None,
        "certified_zero": log10 <= 0,
    }


def bounds_table(records: Sequence[Mapping[str, Any]], title: str) -> Table:
    """The table of ``poolax bounds``."""
    first = records[0]
    with_gamma = "gamma" in first
    columns = ["attention", "pooler", *METHODS, *(["gamma", "verdict"] if with_gamma else [])]
    rows = []
    for row in records:
        cells = [Cell(row["attention"]), Cell(row["pooler"])]
        best = min(PROVED, key=lambda name, row=row: log10_of(row, name))
        cells += [Cell(constant_text(row, name), bold=name == best) for name in METHODS]
        if with_gamma:
            verdict = "certified" if row["certified_zero"] else "vacuous"
            cells += [Cell(constant_text(row, "gamma")), Cell(verdict)]
        rows.append(cells)
    return Table(title=title, columns=columns, rows=rows, notes=_notes(first), tidy=list(records))


def tokens_text(row: Mapping[str, Any]) -> str:
    """How many tokens a record is about, in words."""
    low, high = row["num_tokens"]
    return f"{low} tokens" if low == high else f"{low} to {high} tokens"


def _notes(row):
    notes = [
        f"Lipschitz constants for {tokens_text(row)} of width {row['dim']}, norms up to "
        f"{row['radius']:.4g} and distances up to {2 * row['spread']:.4g}; a dash: nothing was "
        "published, or no finite number."
    ]
    if "gamma" in row:
        notes.append(
            f"gamma: smallest bound times epsilon / sigma = {row['epsilon']:g} / {row['sigma']:g}. "
            "certified: no such change moves the pooled vector by more than sigma; vacuous: the bound "
            "cannot tell."
        )
    return notes
