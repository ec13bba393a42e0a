"""Poolers that are fixed linear functions of the tokens."""

from poolax.pooling import (
    AveragePool,
    ConcatPool,
    FirstPool,
    HybridPool,
    LastPool,
    LayerMixPool,
    Pooler,
    PositionPool,
    ProjectedPool,
    SkipPool,
    SqrtPool,
    SumPool,
    WeightedAveragePool,
    parts_of,
)

#: Fixed sums of tokens, which move as far in the operator norm as in the Frobenius norm.
LINEAR = (
    FirstPool,
    LastPool,
    AveragePool,
    SumPool,
    SqrtPool,
    PositionPool,
    WeightedAveragePool,
)
# Linear where what they are made of is.
_LINEAR_AROUND = (HybridPool, ConcatPool, SkipPool, LayerMixPool)


def is_linear(pooler: Pooler) -> bool:
    """Whether what is pooled is a fixed linear function of the tokens, up to a constant."""
    if isinstance(pooler, LINEAR):
        return True
    around = isinstance(pooler, _LINEAR_AROUND)
    if isinstance(pooler, ProjectedPool):
        around = pooler.activation is None
    return around and all(map(is_linear, parts_of(pooler)))
