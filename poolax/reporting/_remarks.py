"""What a table of scores says below it of the heads in it, a line each."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from poolax.records import warnings_of
from poolax.reporting._places import Comparison, Entrant, Place


def remarks_on(comparison: Comparison) -> list[str]:
    """Remarks and warnings on the heads of a table, each in one line."""
    places = comparison.protocols
    lines = []
    for protocol, place in places.items():
        # With one way of training only, nobody has to be told which.
        whose = f" ({protocol})" if len(places) > 1 else ""
        lines += [f"Solved{whose}: {line}" for line in _solved(place.entrants)]
        lines += [f"Tied{whose}: {line}" for line in _tied(place)]
        lines += [f"Warning{whose}: {line}" for line in _warnings(place.entrants)]
    return [*lines, *_on_data([place.example for place in places.values()])]


def _solved(entrants: Mapping[str, Entrant]) -> list[str]:
    names = [name for name, entrant in entrants.items() if entrant.is_solved]
    if not names:
        return []
    return [
        f"{_listed(names)}. The problem is convex, so that seeds change nothing and no deviation over "
        "them stands here; how sure these scores are, the bootstrap over test examples says."
    ]


def _tied(place: Place) -> list[str]:
    """Poolers of which validation says the same as of the one that is taken."""
    choice = place.choice
    if choice is None:
        return []
    best = place.entrants[choice].validation
    names = [name for name, entrant in place.entrants.items() if entrant.validation == best]
    return [f"{_listed(names)} by validation, of which {choice} is the first."] if names[1:] else []


def _warnings(entrants: Mapping[str, Entrant]) -> list[str]:
    """What is to be known before scores are believed, for all poolers alike in one line."""
    found: dict[str, list[str]] = {}
    for name, entrant in entrants.items():
        for warning in warnings_of(entrant.chosen, entrant.rows):
            found.setdefault(warning.words, []).append(name)
    return [f"{_listed(names)}: {words}." for words, names in found.items()]


def _on_data(examples: Sequence[Mapping[str, Any]]) -> list[str]:
    copied = [row.get("duplicates", {}).get("test in train") for row in examples]
    return [
        f"Warning: {count} test examples stand in the training split as well."
        for count in dict.fromkeys(copied)
        if count
    ]


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)
