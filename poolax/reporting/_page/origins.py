"""What records were made with: configuration, commands, versions and machines."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from poolax._text import one_line
from poolax.reporting._page.sources import Row

_LONGEST = 300
_MOST_VALUES = 6
_CONFIGURATION = {
    "model": "model",
    "backbone": "backbone",
    "backbone_config": "backbone's configuration",
    "dataset": "data",
    "data_source": "source of the data",
    "data_notes": "notes on the data",
    "num_examples": "examples",
    "task": "task",
    "task_options": "options of the task",
    "preprocess": "preprocessing",
    "pooler": "poolers",
    "seed": "seeds",
    "solver": "solver",
    "epochs": "epochs",
    "batch_size": "batch size",
    "learning_rate": "learning rates",
    "attention": "attention",
    "num_tokens": "tokens",
    "width": "width",
    "radius": "radius",
}


@dataclasses.dataclass(frozen=True)
class Origin:
    """What the records of a file were made with.

    Attributes:
        commands: Command lines.
        configuration: Names of settings, and the values that they had.
        made_with: Versions, devices and the state of the source, likewise.
    """

    commands: Sequence[str]
    configuration: Sequence[tuple[str, str]]
    made_with: Sequence[tuple[str, str]]


def origin_of(rows: Sequence[Row]) -> Origin:
    """What records say of how they were made."""
    configuration = [
        (words, text) for field, words in _CONFIGURATION.items() if (text := _values(rows, field))
    ]
    versions: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in (row.get("versions") or {}).items():
            versions.setdefault(name, []).append(value)
    made_with = [(name, _listed(values)) for name, values in versions.items()]
    made_with += [
        (words, text)
        for field, words in (("devices", "devices"), ("git", "state of the source"))
        if (text := _values(rows, field))
    ]
    commands = dict.fromkeys(str(row["command"]) for row in rows if row.get("command"))
    return Origin(list(commands), configuration, made_with)


def _values(rows: Iterable[Row], field: str) -> str:
    return _listed(row[field] for row in rows if row.get(field) not in (None, "", [], {}))


def _listed(values: Iterable[Any]) -> str:
    """Different values in order of appearance, the last ones left out where there are many."""
    texts = list(dict.fromkeys(_text(value) for value in values))
    more = len(texts) - _MOST_VALUES
    shown = [one_line(text, longest=_LONGEST) for text in texts[:_MOST_VALUES]]
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        if set(value) == {"name", "options"}:
            return " ".join(filter(None, (str(value["name"]), _text(value["options"]))))
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value)
