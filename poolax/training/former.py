"""How runs described configurations before the codec: identities are digests of it, and stay."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from poolax import codec
from poolax.records import difference, python_numbers

_FIELD = "backbone_config"


def describe_config(config: Any) -> Any:
    """Name and options of a backbone's configuration; of an unregistered one, text of what it holds."""
    if codec.name_of(type(config)) is None:
        return former_config(config)
    return codec.to_plain(config, of="backbone", name="config")


def former_config(config: Any) -> Any:
    """The fields of a configuration; configurations among them as text, which cannot be read back."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return repr(config)
    names = [field.name for field in dataclasses.fields(config)]
    if codec.name_of(type(config)) is not None:
        # Fields that came later are left out while nothing is made of them.
        names = list(codec.to_plain(config, name="config")["options"])
    fields = {name: getattr(config, name) for name in names}
    nested = {name for name, value in fields.items() if dataclasses.is_dataclass(value)}
    return {name: repr(value) if name in nested else value for name, value in fields.items()}


def former_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of a sweep as it was before the codec, of which the ids of heads are digests."""
    described = identity.get(_FIELD)
    if not _is_described(described):
        return dict(identity)
    return {**identity, _FIELD: former_config(codec.from_plain(described, of="backbone"))}


def former_preprocess(preprocess: Any, described: Any) -> dict[str, Any]:
    """What the identity said of preprocessing that is now described by name and options."""
    return {"preprocess": repr(python_numbers(preprocess))} if _is_described(described) else {}


def renewed(
    row: Mapping[str, Any], identity: Mapping[str, Any], former: Mapping[str, Any]
) -> dict[str, Any]:
    """A record of before the codec as it is now, where it is of this very configuration.

    Args:
        row: The record.
        identity: What it has to say now.
        former: What it said of other fields of it than the configuration.
    """
    told = former_identity(identity)
    said = {name: told[name] for name in (_FIELD,) if name in told} | dict(former)
    same = {name for name in said if difference(row, {name: said[name]}) is None}
    return {**row, **{name: identity[name] for name in same if name in identity}}


def same_config(saved: Any, described: Any) -> bool:
    """Whether a checkpoint says the same configuration, as it is said now or was before the codec."""
    if not _is_described(described):
        return difference({_FIELD: saved}, {_FIELD: described}) is None
    now = {_FIELD: described}
    return any(difference({_FIELD: saved}, told) is None for told in (now, former_identity(now)))


def _is_described(config):
    return isinstance(config, Mapping) and {"name", "options"} <= set(config)
