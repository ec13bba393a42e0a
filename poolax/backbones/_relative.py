"""Relative positions as T5 has them: a bias of the logits by distance, in buckets."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from poolax.backbones._layers import block_name


def relative_buckets(num_tokens: int, num_buckets: int, max_distance: int) -> Int[np.ndarray, "n n"]:
    """Number of the bucket that the distance from query (row) to key (column) falls into.

    Keys on the right take the upper half of the buckets. In each half, the first half of the buckets
    holds one distance each, and the others grow by a common ratio up to ``max_distance``.
    """
    index = np.arange(num_tokens)
    offset = index[None, :] - index[:, None]
    per_side = num_buckets // 2
    exact = per_side // 2
    distance = np.abs(offset)
    # In float32 as in the release: where the ratio is a power, rounding decides on the bucket.
    growth = np.log(np.maximum(distance, exact).astype(np.float32) / np.float32(exact))
    growth = growth / np.float32(math.log(max_distance / exact)) * np.float32(per_side - exact)
    far = np.minimum(exact + growth.astype(int), per_side - 1)
    return np.where(offset > 0, per_side, 0) + np.where(distance < exact, distance, far)


def relative_bias(
    tables: Float[Array, "*layers buckets H"], config: Any, num_tokens: int
) -> Float[Array, "*layers H n n"]:
    """Bias by head, query and key; one for each block where each has a table of its own.

    Args:
        tables: The biases by bucket and head, one table or one for each block.
        config: Has ``num_buckets`` and ``max_distance``.
        num_tokens: Number of tokens ``n``.

    Returns:
        Shape ``(*layers, H, n, n)``.
    """
    buckets = relative_buckets(num_tokens, config.num_buckets, config.max_distance)
    return jnp.moveaxis(tables[..., buckets, :], -1, -3)


def with_relative_bias(model: Any, key: Array, *, by_block: bool = False) -> dict[str, PyTree]:
    """Parameters of a model's encoder with random biases: one table, or one in each block."""
    config, encoder = model.config, model.params["encoder"]
    shape = (config.num_buckets, config.num_heads)
    size = config.width**-0.5
    if not by_block:
        return {**encoder, "relative_bias": size * jax.random.normal(key, shape)}
    tables = size * jax.random.normal(key, (config.num_layers, *shape))
    blocks = {
        name: {**encoder[name], "relative_bias": table}
        for name, table in zip(map(block_name, range(config.num_layers)), tables, strict=True)
    }
    return {**encoder, **blocks}
