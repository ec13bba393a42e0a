"""Rows of bounds: one record a model."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from poolax import attention, pooling
from poolax.blocks import TBM
from poolax.bounds import METHODS, Domain, TokenRange
from poolax.measure import log10_of


def describe_block(model: TBM, variables: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of a one-block model."""
    return {
        "attention": attention.to_config(model.attention)["name"],
        "pooler": pooling.to_config(model.pooler)["name"],
        "dim": variables["params"]["ffn"]["kernel"].shape[0],
        "num_heads": model.num_heads,
    }


def describe_domain(
    num_tokens: TokenRange, domain: Domain, geometry: str = "frobenius"
) -> dict[str, Any]:
    """What a record says of the inputs that a bound holds for, and of the norm of their changes."""
    return {
        "geometry": geometry,
        "num_tokens": np.asarray([num_tokens.low, num_tokens.high]).tolist(),
        "radius": float(domain.radius),
        "spread": float(domain.spread),
    }


def describe_local(logs: Sequence[float | None], source: str, epsilon: float) -> dict[str, Any]:
    """What a record says of bounds at inputs, or on balls around them: by their decimal logarithms."""
    row = {"inputs": source, "num_inputs": len(logs), "log10_local": list(logs)}
    return row | ({} if epsilon == 0 else {"local_epsilon": epsilon})


def expressivity(row: Mapping[str, Any], epsilon: float, sigma: float) -> dict[str, Any]:
    """What the smallest bound of a row says of changes of size ``epsilon``; of no bound, nothing.

    Where there are bounds on balls around inputs, how many of these they certify.
    """
    log10 = -math.inf
    if epsilon > 0:
        log10 = min(log10_of(row, name) for name in METHODS) + math.log10(epsilon) - math.log10(sigma)
    certified: dict[str, Any] = {}
    if "local_epsilon" in row:
        limit = math.log10(sigma) - math.log10(row["local_epsilon"])
        certified["certified_inputs"] = sum(
            log10 <= 0 or (log is not None and log <= limit) for log in row["log10_local"]
        )
    return certified | {
        "epsilon": epsilon,
        "sigma": sigma,
        "gamma": 10**log10 if log10 < 300 else None,
        "log10_gamma": log10 if math.isfinite(log10) else None,
        "certified_zero": log10 <= 0,
    }
