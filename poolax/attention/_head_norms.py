"""Norms of queries and keys, and scales of theirs."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._norms import scale_from_one
from poolax._numerics import accumulation_dtype

NORMS = ("query_norm", "key_norm")


def query_gain(scale: Float[Array, " d_h"]) -> Float[Array, " d_h"]:
    """What each feature of a query is multiplied with: ``softplus(scale) / softplus(0)``."""
    scale = jnp.asarray(scale, accumulation_dtype(scale))
    return jax.nn.softplus(scale) / jnp.log(jnp.full((), 2.0, scale.dtype))


def plain_scales(attention: Any, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Parameters in which scales of queries and keys are what normalised rows are multiplied with.

    Args:
        attention: A ``MultiHeadAttention``.
        params: Its parameters.

    Returns:
        The same parameters, or others without what the scales were kept as.
    """
    if not (attention.query_key_from_one or attention.query_key_turned):
        return params
    found = {name: part for name, part in params.items() if name != "query_scale"}
    if attention.query_key_from_one:
        found |= {name: {"scale": scale_from_one(params[name]["scale"])} for name in NORMS}
    if attention.query_key_turned:
        gain = query_gain(params["query_scale"])
        found["query_norm"] = {"scale": gain * found["query_norm"]["scale"]}
    return found
