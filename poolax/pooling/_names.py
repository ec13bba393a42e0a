"""Poolers by name, for command lines and records."""

from collections.abc import Mapping
from typing import Any

from poolax import codec
from poolax._checks import check_instance, did_you_mean
from poolax.pooling._attentive import LatentAttentionPool, QueryAttentionPool
from poolax.pooling._base import Pooler
from poolax.pooling._composed import (
    ConcatPool,
    NormPool,
    ProjectedPool,
    SkipPool,
    UnitPool,
    parts_of,
)
from poolax.pooling._counted import PositionPool, SqrtPool
from poolax.pooling._entrywise import L2Pool, LogSumExpPool
from poolax.pooling._hybrid import HybridPool
from poolax.pooling._mixed import LayerMixPool
from poolax.pooling._probes import (
    EfficientProbingPool,
    GatedAttentionPool,
    MultiMaxPool,
    PositionAttentionPool,
)
from poolax.pooling._reduce import AveragePool, FirstPool, LastPool, MaxPool, SumPool
from poolax.pooling._weighted import WeightedAveragePool
from poolax.pooling._windows import RollingPool

# Those without parameters.
FIXED_POOLERS = ("first", "last", "avg", "sum", "max")

for _name, _cls in {
    "first": FirstPool,
    "last": LastPool,
    "avg": AveragePool,
    "sum": SumPool,
    "max": MaxPool,
    "wavg": WeightedAveragePool,
    "attn": LatentAttentionPool,
    "map": QueryAttentionPool,
    "hybrid": HybridPool,
    "sqrt": SqrtPool,
    "l2": L2Pool,
    "lse": LogSumExpPool,
    "ep": EfficientProbingPool,
    "abmil": GatedAttentionPool,
    "multimax": MultiMaxPool,
    "rolling": RollingPool,
    "position": PositionAttentionPool,
    "weightedmean": PositionPool,
    "concat": ConcatPool,
    "projected": ProjectedPool,
    "norm": NormPool,
    "unit": UnitPool,
    "skip": SkipPool,
    "layers": LayerMixPool,
}.items():
    codec.register(
        "pooler",
        _name,
        aliases=("cls",) if _name == "first" else (),
        formerly="position" if _cls is PositionPool else None,
    )(_cls)


def from_name(name: str | Pooler, **options) -> Pooler:
    """The pooler of a name that a command line or a record holds.

    Args:
        name: ``"cls"`` or ``"first"``, ``"last"``, ``"avg"``, ``"sum"``, ``"max"``, ``"wavg"``,
            ``"attn"``, ``"map"``, ``"hybrid"``, ``"sqrt"``, ``"l2"``, ``"lse"``, ``"ep"``, ``"abmil"``,
            ``"multimax"``, ``"rolling"``, ``"position"``, ``"weightedmean"`` or ``"concat"``; around
            another pooler, which is an option, ``"projected"``, ``"norm"``, ``"unit"``, ``"skip"`` or
            ``"layers"``. A :class:`Pooler` passes through.
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
    known = codec.lookup("pooler")
    if not isinstance(name, str) or name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(f"name: expected one of {', '.join(known)}, got {name!r}{hint}")
    cls = known[name]
    valid = codec.option_names(cls)
    unknown = sorted(set(options) - set(valid))
    if unknown:
        expected = ", ".join(valid) if valid else "no options"
        raise ValueError(f"options of {name!r}: expected {expected}, got {', '.join(unknown)}")
    try:
        return cls(**options)
    except TypeError as error:
        raise ValueError(f"options of {name!r}: expected {', '.join(valid)}, got: {error}") from None


def to_config(pooler: Pooler) -> dict[str, Any]:
    """Name and options of a pooler as plain JSON, for records and checkpoints.

    Args:
        pooler: A pooler of this package.

    Returns:
        ``{"name": ..., "options": {...}}``; :func:`from_config` gives the pooler back.

    Raises:
        ValueError: for a pooler that has no name, such as one of your own.

    Example:
        >>> to_config(LatentAttentionPool(num_latents=8))["options"]["num_latents"]
        8
        >>> from_config(to_config(HybridPool((AveragePool(), MaxPool()))))
        HybridPool(
            # attributes
            poolers = (AveragePool(), MaxPool())
        )
    """
    if not isinstance(pooler, Pooler) or codec.name_of(type(pooler)) is None:
        names = ", ".join(dict.fromkeys(cls.__name__ for cls in codec.lookup("pooler").values()))
        raise ValueError(f"pooler: expected one of {names}, got {type(pooler).__name__}")
    return codec.to_plain(pooler, of="pooler", name="pooler")


def from_config(config: Mapping[str, Any]) -> Pooler:
    """The pooler that :func:`to_config` described.

    Args:
        config: ``{"name": ..., "options": {...}}``.

    Returns:
        The pooler.

    Raises:
        ValueError: for anything else than a name and options, or an unknown one.
    """
    check_instance("config", config, Mapping, "a mapping with name and options")
    pooler = codec.from_plain(config, of="pooler", name="config")
    _check_poolers(pooler)
    return pooler


def _check_poolers(pooler):
    check_instance("config", pooler, Pooler, "that of a pooler")
    if isinstance(pooler, (HybridPool, ConcatPool)):
        check_instance("config.poolers", pooler.poolers, tuple, "a list of poolers")
    for part in parts_of(pooler):
        _check_poolers(part)
