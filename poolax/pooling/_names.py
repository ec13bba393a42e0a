"""Poolers by name, for command lines and records."""

import dataclasses

from poolax.pooling._attentive import LatentAttentionPool, QueryAttentionPool
from poolax.pooling._base import Pooler
from poolax.pooling._hybrid import HybridPool
from poolax.pooling._reduce import AveragePool, FirstPool, LastPool, MaxPool, SumPool
from poolax.pooling._weighted import WeightedAveragePool

_CLASSES: dict[str, type[Pooler]] = {
    "cls": FirstPool,
    "first": FirstPool,
    "last": LastPool,
    "avg": AveragePool,
    "sum": SumPool,
    "max": MaxPool,
    "wavg": WeightedAveragePool,
    "attn": LatentAttentionPool,
    "map": QueryAttentionPool,
    "hybrid": HybridPool,
}


def from_name(name: str | Pooler, **options) -> Pooler:
    """The pooler of a name that a command line or a record holds.

    Args:
        name: ``"cls"`` or ``"first"``, ``"last"``, ``"avg"``, ``"sum"``, ``"max"``, ``"wavg"``,
            ``"attn"``, ``"map"`` or ``"hybrid"``. A :class:`Pooler` passes through.
        **options: Attributes of the pooler, such as ``num_latents=32`` for ``"attn"``.

    Returns:
        The pooler.

    Raises:
        ValueError: for an unknown name or option (the valid ones are listed), or for options
            beside a pooler that exists already.

    Example:
        >>> from_name("avg")
        AveragePool()
        >>> from_name("attn", num_latents=32).num_latents
        32
    """
    if isinstance(name, Pooler):
        if options:
            raise ValueError(f"options: expected none beside a Pooler, got {sorted(options)}")
        return name
    if name not in _CLASSES:
        raise ValueError(f"name: expected one of {', '.join(_CLASSES)}, got {name!r}")
    cls = _CLASSES[name]
    valid = [f.name for f in dataclasses.fields(cls) if f.name not in ("parent", "name")]
    unknown = sorted(set(options) - set(valid))
    if unknown:
        expected = ", ".join(valid) if valid else "no options"
        raise ValueError(f"options of {name!r}: expected {expected}, got {', '.join(unknown)}")
    return cls(**options)
