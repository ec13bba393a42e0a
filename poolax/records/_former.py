"""What earlier programs called kinds of attention in their records."""

import ast
from typing import Any

# By the labels of their tables.
_NAMES = {"dot product": "dot", "L2": "l2", "scaled cosine": "cosine"}
_CLASSES = {"DotProduct": "dot", "L2": "l2", "Cosine": "cosine"}


def with_attention_names(row: dict[str, Any]) -> dict[str, Any]:
    """A record whose kind of attention goes by its name in the registry.

    Args:
        row: A record: its ``attention`` may be a label of an earlier program, its ``configuration``
            the text of a kind.

    Returns:
        The record with the name, and with the configuration as :func:`poolax.attention.to_config`
        gives it.

    Raises:
        ValueError: for a configuration that is the text of something else.

    Example:
        >>> with_attention_names({"attention": "L2", "configuration": "L2(plain_values=False)"})
        {'attention': 'l2', 'configuration': {'name': 'l2', 'options': {'plain_values': False}}}
    """
    label, configuration = row.get("attention"), row.get("configuration")
    if isinstance(label, str) and label in _NAMES:
        row = {**row, "attention": _NAMES[label]}
    if isinstance(configuration, str):
        row = {**row, "configuration": _config_of(configuration)}
    return row


def _config_of(text):
    """Name and options in the text of a kind of attention, ``Class(option=value, ...)``."""
    try:
        call = ast.parse(text, mode="eval").body
        name = _CLASSES[call.func.id]
        options = {part.arg: ast.literal_eval(part.value) for part in call.keywords}
    except (SyntaxError, ValueError, AttributeError, KeyError):
        raise ValueError(f"configuration: expected a kind of attention, got {text!r}") from None
    return {"name": name, "options": options}
