"""Rows of bounds: one record a model, and the tables that are made of them."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from poolax import bounds
from poolax.attention import Kind
from poolax.blocks import TBM
from poolax.bounds import Domain, TokenRange
from poolax.cli._console import number
from poolax.pooling import to_config
from poolax.reporting import Cell, Table
from poolax.sensitivity import METHODS, constant, without_overflow
from poolax.training import Head

_ATTENTION = {"DotProduct": "dot product", "L2": "L2", "Cosine": "cosine"}


def attention_label(kind: Kind) -> str:
    """What tables call a kind of attention."""
    return _ATTENTION[type(kind).__name__]


def describe_block(model: TBM, variables: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of a one-block model."""
    return {
        "attention": attention_label(model.attention),
        "pooler": to_config(model.pooler)["name"],
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


def head_bounds(head: Head, num_tokens: TokenRange, domain: Domain) -> dict[str, Any]:
    """Bounds from token states to the outputs of a head, as a record holds them."""
    pooler: Any = head.pooler

    def lipschitz(params, method):
        kernel = params["output"]["kernel"]
        sizes = {"num_tokens": num_tokens, "dim": kernel.shape[0], "spread": domain.spread}
        variables = {"params": params.get("pooler", {})}
        reads = bounds.pooler(pooler, variables, **sizes, method=method)
        return bounds.spectral_norm(kernel) * reads.l2

    row = constant("published")
    for method in ("sharp", "tight"):
        found = without_overflow(functools.partial(lipschitz, method=method), head.variables["params"])
        row |= constant(method, np.log(found) if found > 0 else -math.inf, found)
    return row


def constant_text(row: Mapping[str, Any], name: str) -> str:
    """What a table says of a constant."""
    return number(row[name], row[f"log10_{name}"])


def _log10(row: Mapping[str, Any], name: str) -> float:
    """Decimal logarithm of a constant: of zero minus infinity, of one that is not known infinity."""
    if row[f"log10_{name}"] is not None:
        return row[f"log10_{name}"]
    return -math.inf if row[name] == 0 else math.inf


def expressivity(row: Mapping[str, Any], epsilon: float, sigma: float) -> dict[str, Any]:
    """What the smallest bound of a row says of changes of size ``epsilon``; of no bound, nothing."""
    log10 = -math.inf
    if epsilon > 0:
        log10 = min(_log10(row, name) for name in METHODS) + math.log10(epsilon) - math.log10(sigma)
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
        best = min(METHODS[1:], key=lambda name, row=row: _log10(row, name))
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
