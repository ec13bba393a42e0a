"""What a table of scores says below it of the heads in it, a line each."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from poolax.reporting._places import Comparison, Entrant, Place

# Fewer validation examples say too little to choose by.
_FEW = 50


def remarks_on(comparison: Comparison) -> list[str]:
    """Remarks and warnings on the heads of a table, each in one line."""
    places = comparison.protocols
    lines = []
    for protocol, place in places.items():
        # With one way of training only, nobody has to be told which.
        whose = f" ({protocol})" if len(places) > 1 else ""
        lines += [f"Solved{whose}: {line}" for line in _solved(place.entrants)]
        lines += [f"Tied{whose}: {line}" for line in _tied(place)]
        for told in (_edge, _few, _constant, _not_converged, _diverged):
            lines += [f"Warning{whose}: {line}" for line in told(place.entrants)]
    return [*lines, *_on_data([place.example for place in places.values()])]


def _solved(entrants: Mapping[str, Entrant]) -> list[str]:
    names = [name for name, entrant in entrants.items() if entrant.is_solved]
    if not names:
        return []
    return [
        f"{_listed(names)}. The problem is convex, so that seeds change nothing and no deviation over "
        "them stands here; how sure these scores are, the bootstrap over test examples says."
    ]


def _edge(entrants: Mapping[str, Entrant]) -> list[str]:
    """Chosen values that are the least or the greatest that were tried."""
    strengths, rates, tried = [], [], set()
    for name, entrant in entrants.items():
        own = {row["learning_rate"] for row in entrant.rows}
        rate = entrant.chosen[0]["learning_rate"]
        if len(own) > 1 and rate in (min(own), max(own)):
            rates.append(f"{name} {rate:g}")
            tried |= own
        strengths += [f"{name} {row['strength']:g}" for row in entrant.sound if row.get("at_edge")][:1]
    lines = []
    if rates:
        values = _listed(f"{rate:g}" for rate in sorted(tried))
        lines.append(f"learning rates at the edge of their grid ({values}): {_listed(rates)}.")
    if strengths:
        lines.append(f"penalties at the edge of their grid, which was widened: {_listed(strengths)}.")
    return lines


def _few(entrants: Mapping[str, Entrant]) -> list[str]:
    """Choices by so few validation examples that they say little."""
    lines = []
    crossed = _with(entrants, lambda row: row.get("chosen_by") == "cross-validation")
    if crossed:
        lines.append(
            f"fewer than {_FEW} validation examples: strengths were cross-validated instead, for "
            f"{_listed(crossed)}."
        )
    sizes = {
        row["num_examples"]["validation"]
        for name, entrant in entrants.items()
        if name not in crossed
        for row in entrant.sound
        if row.get("num_examples", {}).get("validation", _FEW) < _FEW
    }
    if sizes:
        lines.append(
            f"{min(sizes)} validation examples, fewer than {_FEW}, say little of what is best."
        )
    return lines


def _tied(place: Place) -> list[str]:
    """Poolers of which validation says the same as of the one that is taken."""
    choice = place.choice
    if choice is None:
        return []
    best = place.entrants[choice].validation
    names = [name for name, entrant in place.entrants.items() if entrant.validation == best]
    return [f"{_listed(names)} by validation, of which {choice} is the first."] if names[1:] else []


def _constant(entrants: Mapping[str, Entrant]) -> list[str]:
    names = _with(entrants, lambda row: row.get("is_constant", False))
    return [f"predicts one class for all examples: {_listed(names)}."] if names else []


def _not_converged(entrants: Mapping[str, Entrant]) -> list[str]:
    found = {
        name: (sum(not row.get("converged", True) for row in entrant.sound), len(entrant.sound))
        for name, entrant in entrants.items()
    }
    words = [_share(name, *counts) for name, counts in found.items() if counts[0]]
    return [f"did not converge: {_listed(words)}."] if words else []


def _diverged(entrants: Mapping[str, Entrant]) -> list[str]:
    words = [
        _share(name, len(entrant.chosen) - len(entrant.sound), len(entrant.chosen))
        for name, entrant in entrants.items()
        if len(entrant.sound) < len(entrant.chosen)
    ]
    return [f"diverged, and left out: {_listed(words)}."] if words else []


def _share(name: str, count: int, total: int) -> str:
    return f"{name} ({count} of {total} heads)" if total > 1 else name


def _with(entrants: Mapping[str, Entrant], holds) -> list[str]:
    """Names of poolers with a head of which this holds."""
    return [name for name, entrant in entrants.items() if any(map(holds, entrant.sound))]


def _on_data(examples: Sequence[Mapping[str, Any]]) -> list[str]:
    copied = [row.get("duplicates", {}).get("test in train") for row in examples]
    return [
        f"Warning: {count} test examples stand in the training split as well."
        for count in dict.fromkeys(copied)
        if count
    ]


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)
