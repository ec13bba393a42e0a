"""Plain JSON of configurations, and back: one registry for poolers, attention, tasks and all the rest.

Each part of the package registers what is its own where it is defined, under a type (``"pooler"``,
``"attention"``, ``"rotary"``, ``"backbone"``, ``"preprocess"``, ``"task"``, ``"solver"``, ``"tbm"``,
``"head"``, ``"recipe"``, ``"optimisation"``) and a name. What is registered becomes ``{"type": ...,
"name": ..., "options": {...}}`` and is read from it.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from poolax._checks import check_choice, check_count, check_instance

__all__ = (
    "added",
    "brief",
    "from_plain",
    "lookup",
    "name_of",
    "option_names",
    "register",
    "to_plain",
)

Upgrade = Callable[[int, dict[str, Any]], Mapping[str, Any]]
_Class = TypeVar("_Class", bound=type)
_KEYS = ("type", "name", "version", "options")
# Attributes that every Linen module has, which are no options.
_NO_OPTIONS = ("parent", "name")


@dataclasses.dataclass(frozen=True)
class _Entry:
    cls: type
    type: str
    name: str
    aliases: tuple[str, ...]
    version: int
    options: tuple[str, ...]
    upgrade: Upgrade | None
    formerly: str | None


_ENTRIES: dict[type, _Entry] = {}
_ADDED = "added"


def added(default: Any, *, repr: bool = True) -> Any:
    """A field that came later to a registered dataclass, left out of plain JSON while at its default.

    Identities of runs are digests of plain JSON and texts of configurations: those of before the field
    stay what they were. Write ``@dataclasses.dataclass(repr=False)`` and ``__repr__ = codec.brief``
    for the text.

    Args:
        default: What the field was, so to say, before there was one.
        repr: Whether the text has it where it is another.

    Returns:
        The field.

    Example:
        >>> import dataclasses
        >>> @register("norm", "shifted")
        ... @dataclasses.dataclass(frozen=True, repr=False)
        ... class Shifted:
        ...     factor: float = 1.0
        ...     shift: float = added(0.0)
        ...     __repr__ = brief
        >>> Shifted(2.0), Shifted(2.0, 1.0)
        (Shifted(factor=2.0), Shifted(factor=2.0, shift=1.0))
        >>> to_plain(Shifted(2.0), of="norm")
        {'name': 'shifted', 'options': {'factor': 2.0}}
    """
    return dataclasses.field(default=default, repr=repr, metadata={_ADDED: True})


def brief(config: Any) -> str:
    """The text of a dataclass as Python writes it, without fields of :func:`added` at their defaults.

    Args:
        config: The dataclass.

    Returns:
        The text.
    """
    shown = [
        f"{field.name}={getattr(config, field.name)!r}"
        for field in dataclasses.fields(config)
        if field.repr and not _is_left_out(config, field)
    ]
    return f"{type(config).__qualname__}({', '.join(shown)})"


def _is_left_out(config, field):
    return field.metadata.get(_ADDED, False) and getattr(config, field.name) == field.default


def register(
    of: str,
    name: str,
    *,
    aliases: tuple[str, ...] = (),
    version: int = 1,
    options: tuple[str, ...] | None = None,
    upgrade: Upgrade | None = None,
    formerly: str | None = None,
) -> Callable[[_Class], _Class]:
    """Register a dataclass or Linen module; a decorator.

    Args:
        of: What it is one of, its type, such as ``"pooler"``.
        name: Its name among these.
        aliases: Other names that are read as well.
        version: Version of its options; a change of what they mean takes the next one.
        options: Names of the attributes that are kept; ``None`` for all. The others have to stand at
            their defaults.
        upgrade: Maps a version below this one and the options of then to the options of now.
        formerly: A name that it was written under and that another class has by now: plain JSON of that
            name with options of this class alone is read as this class.

    Returns:
        What registers a class and gives it back.

    Raises:
        ValueError: for a name that another class has, a class that is no dataclass or has a name
            already, or a version above one without ``upgrade``.

    Example:
        >>> import dataclasses
        >>> @register("norm", "scaled")
        ... @dataclasses.dataclass(frozen=True)
        ... class Scaled:
        ...     factor: float = 1.0
        >>> to_plain(Scaled(2.0))
        {'type': 'norm', 'name': 'scaled', 'options': {'factor': 2.0}}
        >>> from_plain({"type": "norm", "name": "scaled", "options": {"factor": 2.0}})
        Scaled(factor=2.0)
    """
    for label, text in (("of", of), ("name", name)):
        check_instance(label, text, str, "a text")
    check_count("version", version)
    if version > 1 and upgrade is None:
        raise ValueError(f"upgrade: expected a function for version {version} of {name!r}, got None")

    def add(cls: _Class) -> _Class:
        fields = cls
        if not dataclasses.is_dataclass(fields):
            raise ValueError(f"cls: expected a dataclass or Linen module, got {cls!r}")
        known = lookup(of)
        for word in (name, *aliases):
            # The cell of a notebook defines its class anew when it runs again.
            if word in known and _origin(known[word]) != _origin(cls):
                raise ValueError(f"name: expected a free one among {of!r}, got {word!r}")
        for other in [other for other in _ENTRIES if _origin(other) == _origin(cls)]:
            entry = _ENTRIES[other]
            if (entry.type, entry.name) != (of, name):
                raise ValueError(f"cls: expected a new class, got {cls.__name__}, {entry.name!r}")
            del _ENTRIES[other]
        kept = _attributes(cls) if options is None else options
        _ENTRIES[cls] = _Entry(cls, of, name, aliases, version, kept, upgrade, formerly)
        return cls

    return add


def lookup(of: str) -> dict[str, type]:
    """The registered classes of a type by name, aliases included, in the order of registration.

    Example:
        >>> import poolax.attention
        >>> list(lookup("attention"))[:3]
        ['dot', 'l2', 'cosine']
    """
    entries = [entry for entry in _ENTRIES.values() if entry.type == of]
    return {word: entry.cls for entry in entries for word in (*entry.aliases, entry.name)}


def name_of(cls: type) -> str | None:
    """The name under which this very class is registered; ``None`` if it is not."""
    entry = _ENTRIES.get(cls)
    return entry and entry.name


def option_names(cls: type) -> tuple[str, ...]:
    """Names of the options of a registered class."""
    return _ENTRIES[cls].options


def to_plain(value: Any, *, of: str | None = None, name: str = "value") -> Any:
    """Plain JSON of a configuration.

    What is registered becomes ``{"type": ..., "name": ..., "options": {...}}``, with ``"version"``
    where it is above one. The type is left out where it is that of what holds it, or ``of``.

    Args:
        value: Something registered, a plain value (``None``, a truth value, a number, a text), or a
            tuple of such.
        of: The type that a reader will know.
        name: What to call it in an error.

    Returns:
        Plain JSON, from which :func:`from_plain` makes an equal value.

    Raises:
        ValueError: for anything else, numbers that are not finite, or attributes that are not kept and
            do not stand at their defaults.

    Example:
        >>> from poolax.attention import Cosine
        >>> to_plain(Cosine(tau=5.0), of="attention")["options"]["tau"]
        5.0
    """
    entry = _ENTRIES.get(type(value))
    if entry is not None:
        _check_defaults(value, entry)
        left_out = {field.name for field in dataclasses.fields(value) if _is_left_out(value, field)}
        options = {
            part: to_plain(getattr(value, part), of=entry.type, name=f"{name}.{part}")
            for part in entry.options
            if part not in left_out
        }
        head = {} if entry.type == of else {"type": entry.type}
        version = {"version": entry.version} if entry.version > 1 else {}
        return {**head, "name": entry.name, **version, "options": options}
    if isinstance(value, tuple):
        return [to_plain(part, of=of, name=f"{name}[{k}]") for k, part in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value}")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"{name}: expected plain values or what is registered in poolax.codec, got {value!r}"
    )


def from_plain(plain: Any, *, of: str | None = None, name: str = "value") -> Any:
    """The configuration that :func:`to_plain` described.

    Files of the first backbones say ``{"type": "GPT2Config", "width": 8, ...}``, the name of a class
    beside its options: these are read as well. A type is known once its part of the package
    is imported.

    Args:
        plain: Plain JSON.
        of: The type of what does not name its own.
        name: What to call it in an error.

    Returns:
        The configuration; lists become tuples.

    Raises:
        ValueError: for unknown types, names, options or versions, or options out of range.

    Example:
        >>> import poolax.attention
        >>> from_plain({"name": "l2", "options": {}}, of="attention")
        L2(plain_values=False)
    """
    if isinstance(plain, (list, tuple)):
        return tuple(from_plain(part, of=of, name=f"{name}[{k}]") for k, part in enumerate(plain))
    if not isinstance(plain, Mapping):
        return plain
    if "name" not in plain and "type" in plain:
        options = {key: part for key, part in plain.items() if key != "type"}
        check_choice("type", plain["type"], [cls.__name__ for cls in _ENTRIES])
        entry = next(entry for entry in _ENTRIES.values() if entry.cls.__name__ == plain["type"])
        return _make(entry, options, 1, name)
    entry = _entry_of(plain, of, name)
    version = plain.get("version", 1)
    check_count("version", version)
    if version > entry.version:
        raise ValueError(
            f"version: expected at most {entry.version} of {entry.name!r}, got {version}, which "
            "a later poolax wrote"
        )
    return _make(entry, plain["options"], version, name)


def _entry_of(plain, of, name):
    got = sorted(map(str, plain))
    if not {"name", "options"} <= set(plain) <= set(_KEYS):
        raise ValueError(f"{name}: expected a mapping with name and options, got {got}")
    kind = plain.get("type", of)
    types = dict.fromkeys(entry.type for entry in _ENTRIES.values())
    check_choice("type", kind, types)
    check_instance("name", plain["name"], str, "a text")
    # Files of the first one-block models name kinds of attention by their classes.
    classes = {entry.cls.__name__: entry.cls for entry in _ENTRIES.values() if entry.type == kind}
    known = lookup(kind)
    if plain["name"] not in classes:
        check_choice("name", plain["name"], known)
    if not isinstance(plain["options"], Mapping):
        raise ValueError(f"{name}: expected a mapping of options, got {plain['options']!r}")
    entry = _ENTRIES[(classes | known)[plain["name"]]]
    others = [
        former for former in _ENTRIES.values() if (former.type, former.formerly) == (kind, entry.name)
    ]
    written = set(plain["options"])
    if written <= set(entry.options):
        return entry
    return next((former for former in others if written <= set(former.options)), entry)


def _make(entry, options, version, name):
    if version < entry.version:
        options = entry.upgrade(version, dict(options))
    unknown = sorted(set(options) - set(entry.options))
    if unknown:
        expected = ", ".join(entry.options) or "no options"
        raise ValueError(
            f"{name}: options of {entry.name!r}: expected {expected}, got {', '.join(unknown)}"
        )
    values = {
        key: from_plain(part, of=entry.type, name=f"{name}.{key}") for key, part in options.items()
    }
    try:
        return entry.cls(**values)
    except TypeError as error:
        raise ValueError(f"{name}: expected options that make {entry.name!r}, got: {error}") from None


def _attributes(cls):
    names = (field.name for field in dataclasses.fields(cls) if field.init)
    return tuple(name for name in names if name not in _NO_OPTIONS)


def _check_defaults(value, entry):
    for field in dataclasses.fields(value):
        if field.name in entry.options or field.name in _NO_OPTIONS:
            continue
        if getattr(value, field.name) != field.default:
            raise ValueError(
                f"{field.name}: expected its default in a {entry.name} that is kept, got "
                f"{getattr(value, field.name)!r}"
            )


def _origin(cls):
    return cls.__module__, cls.__qualname__
