"""Pooled vectors of poolers that have nothing to learn: d numbers an example, made once."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from poolax.pooling import FirstPool
from poolax.training.engine import leave_out
from poolax.training.features import FeaturePass
from poolax.training.sources import TokenSource, check_finite_states
from poolax.training.step import Mapper, Progress
from poolax.training.token_head import TokenHead

_POOL_BATCH = 1024


def is_fixed(pooler: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a pooler has no parameters, for token states of a shape ``(N, *parts, n, d)``."""
    if isinstance(pooler, TokenHead):
        return False
    example = jax.ShapeDtypeStruct((1, *shape[1:]), jnp.float32)
    variables = jax.eval_shape(pooler.init, jax.random.key(0), example)
    return not jax.tree.leaves(variables)


def prefix_of(pooler: nn.Module, num_prefix: int, *, include_prefix: bool) -> int:
    """Real tokens in front that a pooler does not see.

    A token head stands for patches alone, and the first token is the prefix, whatever enters the other
    poolers.
    """
    if isinstance(pooler, FirstPool):
        return 0
    return num_prefix if isinstance(pooler, TokenHead) or not include_prefix else 0


def pool(
    poolers: Mapping[str, nn.Module], prefixes: Mapping[str, int], source: TokenSource
) -> dict[str, np.ndarray]:
    """Vectors of poolers without parameters, of all examples in one pass; shape (N, *parts, d)."""
    if not poolers:
        return {}

    def fetch(start, stop):
        tokens = source.fetch(np.arange(start, stop))
        batch = {"states": tokens.states}
        return batch if tokens.mask is None else {**batch, "mask": tokens.mask}

    mapper = Mapper(_pool_all(poolers, prefixes), _POOL_BATCH)
    pieces = list(mapper.batches((), fetch, source.shape[0]))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)


def pool_features(
    poolers: Mapping[str, nn.Module],
    prefixes: Mapping[str, int],
    features: FeaturePass,
    progress: Progress,
) -> dict[str, np.ndarray]:
    """The same from the backbone as it runs, so that token states are never kept."""
    mapper = Mapper(_pool_all(poolers, prefixes), _POOL_BATCH)
    out = {}
    for positions, tokens in features.batches(progress):
        check_finite_states(tokens.states, tokens.mask)
        batch = {"states": tokens.states}
        pooled = mapper((), batch if tokens.mask is None else {**batch, "mask": tokens.mask})
        for label, vectors in pooled.items():
            if label not in out:
                out[label] = np.zeros((features.num_examples, *vectors.shape[1:]), vectors.dtype)
            out[label][positions] = vectors
    return out


def _pool_all(poolers, prefixes):
    def pool_all(_, batch):
        pooled = {}
        for label, pooler in poolers.items():
            num_prefix = prefixes[label]
            states, mask = leave_out(batch["states"], batch.get("mask"), num_prefix)
            pooled[label] = pooler.apply({}, states, mask)
        return pooled

    return pool_all
