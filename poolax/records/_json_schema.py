"""Kinds of records as JSON Schema, for programs that read them without poolax."""

import inspect
import types
from typing import Any, Union, get_args, get_origin

from poolax.records._schemas import fields_of, kinds

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TYPES = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    # Numbers that are not finite are written as null.
    float: {"type": ["number", "null"]},
    str: {"type": "string"},
    type(None): {"type": "null"},
    Any: {},
}


def json_schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema of each kind of record that is declared, by its name.

    Records may hold more fields than their schema names: readers pass over what they do not know.

    Returns:
        A schema for each kind, in the draft of 2020-12; plain JSON.

    Example:
        >>> schema = json_schemas()["embedding"]
        >>> schema["required"]
        ['kind', 'backbone', 'inputs', 'index', 'embedding']
        >>> schema["properties"]["embedding"]
        {'type': 'array', 'items': {'type': ['number', 'null']}}
    """
    return {name: _of_kind(name, schema) for name, schema in sorted(kinds().items())}


def _of_kind(name, schema):
    fields = fields_of(schema)
    required = [field for field in fields if field in schema.__required_keys__]
    return {
        "$schema": _DIALECT,
        "title": name,
        "description": inspect.cleandoc(schema.__doc__ or ""),
        "type": "object",
        "properties": {"kind": {"const": name}} | {field: _of(kind) for field, kind in fields.items()},
        "required": ["kind", *required],
    }


def _of(expected):
    origin, parts = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of(part) for part in parts]}
    if origin is list:
        return {"type": "array", "items": _of(parts[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(parts[1])}
    return dict(_TYPES[expected])
