"""Prefix tokens, such as CLS, that a pooler does or does not see."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from poolax.pooling import FirstPool
from poolax.training.token_head import TokenHead


def prefix_of(pooler: nn.Module, num_prefix: int, *, include_prefix: bool, prompt: int = 0) -> int:
    """Real tokens in front that a pooler does not see.

    A token head stands for patches alone, and the first token is the prefix, whatever enters the other
    poolers. Nor do they see the ``prompt`` tokens in front of a text that are not to be pooled.
    """
    if isinstance(pooler, FirstPool):
        return 0
    prefix = num_prefix if isinstance(pooler, TokenHead) or not include_prefix else 0
    return max(prefix, prompt)


def leave_out(states: Array, mask: Array | None, num_prefix: int) -> tuple[Array, Array | None]:
    """Token states without the first real tokens, which padding on the left puts anywhere."""
    if num_prefix == 0:
        return states, mask
    if mask is None:
        return states[..., num_prefix:, :], None
    return states, mask & (jnp.cumsum(mask, axis=-1) > num_prefix)
