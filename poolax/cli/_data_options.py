"""Options of a data set from the command line."""

import ast
import inspect
from collections.abc import Sequence
from typing import Any

from poolax.data import Entry


def parse_options(entry: Entry, given: Sequence[str]) -> dict[str, Any]:
    """Options as their values, by the type of the reader's default where it has one.

    Args:
        entry: The data set.
        given: ``"KEY=VALUE"`` for each.

    Raises:
        ValueError: for an option that the data set does not take, and a value of another type.

    Example:
        >>> from poolax import data
        >>> parse_options(data.entry("cifar10"), ["size=64"])
        {'size': 64}
    """
    defaults = _defaults(entry)
    options = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not value:
            raise ValueError(f"option: expected KEY=VALUE, got {text!r}")
        entry.check_options({name: value})
        options[name] = _parse(name, value, defaults.get(name))
    return options


def _defaults(entry: Entry) -> dict[str, Any]:
    reader = entry.embedded or entry.read
    if reader is None:
        return {}
    parameters = inspect.signature(reader).parameters.values()
    empty = inspect.Parameter.empty
    return {one.name: one.default for one in parameters if one.default is not empty}


def _parse(name: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    value = _literal(text)
    if default is None or value is None:
        return value
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{name}: expected true or false, got {text!r}")
        return text.lower() == "true"
    if isinstance(default, int) and not isinstance(value, int):
        raise ValueError(f"{name}: expected a whole number, got {text!r}")
    if isinstance(default, float) and not isinstance(value, (int, float)):
        raise ValueError(f"{name}: expected a number, got {text!r}")
    return value


def _literal(text: str) -> Any:
    """A number, a truth value, None or several of them as Python writes them; else the text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
