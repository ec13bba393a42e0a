"""Relative positions as T5 has them: a bias of the logits by distance, in buckets."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree


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


def relative_bias(params: PyTree, config: Any, num_tokens: int) -> Float[Array, "*layers H n n"]:
    """Bias by head, query and key; one for each block where each has a table of its own.

    Args:
        params: Parameters of the encoder, with ``relative_bias (*layers, buckets, H)``.
        config: Has ``num_buckets`` and ``max_distance``.
        num_tokens: Number of tokens ``n``.

    Returns:
        Shape ``(*layers, H, n, n)``.
    """
    buckets = relative_buckets(num_tokens, config.num_buckets, config.max_distance)
    return jnp.moveaxis(params["relative_bias"][..., buckets, :], -1, -3)


def with_relative_bias(model: Any, key: Array, *, by_block: bool = False) -> dict[str, PyTree]:
    """Parameters of a model's encoder with random biases, common to all blocks or one table each."""
    config = model.config
    shape = (config.num_layers,) * by_block + (config.num_buckets, config.num_heads)
    table = config.width**-0.5 * jax.random.normal(key, shape)
    return {**model.params["encoder"], "relative_bias": table}
