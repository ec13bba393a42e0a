"""Poolers by name, for command lines and records."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from poolax._checks import check_instance, did_you_mean
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
    if not isinstance(name, str) or name not in _CLASSES:
        hint = did_you_mean(name, _CLASSES)
        raise ValueError(f"name: expected one of {', '.join(_CLASSES)}, got {name!r}{hint}")
    cls = _CLASSES[name]
    valid = _option_names(cls)
    unknown = sorted(set(options) - set(valid))
    if unknown:
        expected = ", ".join(valid) if valid else "no options"
        raise ValueError(f"options of {name!r}: expected {expected}, got {', '.join(unknown)}")
    return cls(**options)


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
    names = {cls: name for name, cls in reversed(_CLASSES.items())}
    names[FirstPool] = "first"
    if type(pooler) not in names:
        raise ValueError(
            f"pooler: expected one of {', '.join(cls.__name__ for cls in names)}, got "
            f"{type(pooler).__name__}"
        )
    options = {name: getattr(pooler, name) for name in _option_names(type(pooler))}
    if isinstance(pooler, HybridPool):
        options["poolers"] = [to_config(part) for part in pooler.poolers]
    return {"name": names[type(pooler)], "options": options}


def from_config(config: Mapping[str, Any]) -> Pooler:
    """The pooler that :func:`to_config` described.

    Args:
        config: ``{"name": ..., "options": {...}}``.

    Returns:
        The pooler.

    Raises:
        ValueError: for anything else than a name and options, or an unknown one.
    """
    parts = ("name", "options")
    if not isinstance(config, Mapping) or set(config) != set(parts):
        got = sorted(map(str, config)) if isinstance(config, Mapping) else config
        raise ValueError(f"config: expected a mapping with name and options, got {got!r}")
    name, options = (config[part] for part in parts)
    if not isinstance(options, Mapping):
        raise ValueError(f"config: expected a mapping of options for {name!r}, got {options!r}")
    options = dict(options)
    if "poolers" in options:
        check_instance("options of 'hybrid'", options["poolers"], (list, tuple), "a list of poolers")
        options["poolers"] = tuple(from_config(part) for part in options["poolers"])
    return from_name(name, **options)


def _option_names(cls):
    return [field.name for field in dataclasses.fields(cls) if field.name not in ("parent", "name")]
