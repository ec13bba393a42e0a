"""Which heads are compared with which: what may be one mean, and what may not."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]

# What heads of one row have in common, with the words for it where two rows differ in it alone.
_SHARED = {
    "backbone_fingerprint": "weights",
    "data_fingerprint": "data",
    "states_fingerprint": "states",
    "preprocess": "preprocess",
    "layers": "layers",
    "shots": "shots",
    "draw_seed": "seed of the draws",
    "include_prefix": "include_prefix",
    "features": "features",
    "feature_dtype": "feature_dtype",
    "task_options": "task_options",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "solver": "solver",
}
# By what places are called, before what they share.
_NAMED = ("model", "dataset", "task", "metric")
_DIGITS = 8
_NEEDED = (
    *("task", "metric", "higher_is_better", "pooler", "resolved", "learning_rate", "seed"),
    *("validation", "test", "baseline", "diverged"),
)


# What may differ between heads that stand side by side in one table.
_PROTOCOL = ("epochs", "solver")
_SOLVERS = {"adam": "Adam"}


@dataclasses.dataclass(frozen=True)
class Entrant:
    """Heads of one pooler in one place.

    Attributes:
        rows: Records of all of them.
        chosen: Those of the learning rate whose mean validation score is best.
    """

    rows: Sequence[Row]
    chosen: Sequence[Row]

    @property
    def sound(self) -> list[Row]:
        """The chosen ones that did not diverge."""
        return [row for row in self.chosen if not row["diverged"]]

    @property
    def validation(self) -> float | None:
        """Mean validation score of the sound ones."""
        scores = [row["validation"] for row in self.sound]
        return float(np.mean(scores)) if scores else None

    @property
    def is_solved(self) -> bool:
        """Whether its head is the one of least loss of a convex problem, which no seed changes."""
        first = self.chosen[0]
        # Older records do not say whether a problem is convex; of one that is they hold one head.
        one = first.get("convex", len(self.chosen) == 1)
        # Of few examples each seed draws others.
        return first["learning_rate"] is None and one and "shots" not in first


@dataclasses.dataclass(frozen=True)
class Place:
    """All poolers of one model on one task, trained alike.

    Attributes:
        variant: What tells it from places that are called alike.
        entrants: The heads of each pooler.
    """

    variant: str
    entrants: Mapping[str, Entrant]

    @property
    def example(self) -> Row:
        """Any record of it."""
        return next(iter(self.entrants.values())).rows[0]

    @property
    def choice(self) -> str | None:
        """The pooler that validation chose; of several that are alike the first."""
        found = {name: entrant.validation for name, entrant in self.entrants.items()}
        found = {name: score for name, score in found.items() if score is not None}
        sign = 1 if self.example["higher_is_better"] else -1
        return max(found, key=lambda name: sign * found[name]) if found else None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What stands in one table: one model on one task, by every way of training.

    Attributes:
        name: Model, data set and task, for people.
        protocols: How heads are trained, in words, and the heads.
    """

    name: str
    protocols: Mapping[str, Place]


def places_of(records: Iterable[Row]) -> list[Place]:
    """Heads by what is equal but the pooler: what :func:`summarize_scores` compares.

    Args:
        records: Head records of a sweep.

    Raises:
        ValueError: as :func:`summarize_scores`.
    """
    return list(_places(records).values())


def comparisons_of(records: Iterable[Row]) -> list[Comparison]:
    """Heads by what is equal but the pooler and how they are trained.

    Args:
        records: Head records of a sweep.

    Raises:
        ValueError: as :func:`summarize_scores`.
    """
    groups: dict[tuple, list[Place]] = {}
    protocol = [len(_NAMED) + list(_SHARED).index(name) for name in _PROTOCOL]
    for key, place in _places(records).items():
        shared = tuple(part for index, part in enumerate(key) if index not in protocol)
        groups.setdefault(shared, []).append(place)
    examples = {shared: found[0].example for shared, found in groups.items()}
    variants = _variants(examples, [name for name in _SHARED if name not in _PROTOCOL])
    return [
        Comparison(
            place_of(about(examples[shared], variants[shared])),
            _by_protocol(found),
        )
        for shared, found in groups.items()
    ]


def _by_protocol(places: Sequence[Place]) -> dict[str, Place]:
    """Places of one comparison by what tells them apart."""
    solvers = [(place.example.get("solver") or {"name": "adam"})["name"] for place in places]
    names = [_SOLVERS.get(solver, solver) for solver in solvers]
    # Of one solver its options and epochs tell them apart.
    keys = [(name, "", "", index) for index, name in enumerate(names)]
    examples = {key: place.example for key, place in zip(keys, places, strict=True)}
    apart = _variants(examples, _PROTOCOL)
    words = [" ".join(filter(None, (key[0], _bracketed(apart[key])))) for key in keys]
    return dict(zip(words, places, strict=True))


def _places(records: Iterable[Row]) -> dict[tuple, Place]:
    found: dict[tuple, dict[str, list]] = {}
    for row in records:
        _check_head(row)
        shared = tuple(repr(row.get(name)) for name in _SHARED)
        named = (_model(row), row.get("dataset", ""), row["task"], row["metric"])
        found.setdefault((*named, *shared), {}).setdefault(row["pooler"], []).append(row)
    variants = _variants({key: next(iter(by.values()))[0] for key, by in found.items()}, _SHARED)
    return {
        key: Place(variants[key], {name: _entrant(rows) for name, rows in by_pooler.items()})
        for key, by_pooler in found.items()
    }


def _check_head(row):
    if not isinstance(row, Mapping):
        raise ValueError(f"records: expected records of heads, got {row!r:.80}")
    missing = [name for name in _NEEDED if name not in row]
    if missing:
        kind = f" one of kind {row['kind']!r}" if row.get("kind", "head") != "head" else " one"
        raise ValueError(f"records: expected records of heads, got{kind} without {', '.join(missing)}")


def _model(row):
    """What a model is called: by its checkpoint or the user; in older records by its family."""
    return row.get("model") or row.get("backbone", "")


def _bracketed(variant):
    return f"({variant})" if variant else ""


def _variants(examples: Mapping[tuple, Row], names: Iterable[str]) -> dict[tuple, str]:
    """What tells places apart that are called alike, of these fields; nothing for others."""
    alike: dict[tuple, list[tuple]] = {}
    for place in examples:
        alike.setdefault(place[:3], []).append(place)
    found = {}
    for places in alike.values():
        rows = [examples[place] for place in places]
        differing = [name for name in names if len({repr(row.get(name)) for row in rows}) > 1]
        if "solver" in differing:  # of which the number of epochs follows
            differing = [name for name in differing if name != "epochs"]
        words = [_words(name, [row.get(name) for row in rows]) for name in differing]
        found |= {place: ", ".join(parts) for place, *parts in zip(places, *words, strict=True)}
    return found


def _words(name: str, values: Sequence[Any]) -> list[str]:
    """Values of a field in words, fingerprints by their first digits where these tell them apart."""
    if name == "solver":
        # Of one solver with several options all that it is called by is its options.
        names = ["adam" if value is None else value["name"] for value in values]
        values = names if len(set(names)) > 1 else values
    if name == "layers":  # records of the output say nothing
        values = ["output" if value is None else value for value in values]
    texts = [str(value) for value in values]
    if name.endswith("_fingerprint"):
        short = [text[:_DIGITS] for text in texts]
        if len(set(short)) == len(set(texts)):
            texts = short
    return [f"{_SHARED[name]} {text}" for text in texts]


def about(row: Row, variant: str) -> dict[str, Any]:
    """What a summary says of its place."""
    return {
        "backbone": _model(row),
        "dataset": row.get("dataset", ""),
        "task": row["task"],
        "variant": variant,
    }


def place_of(entry: Mapping[str, Any]) -> str:
    """Model, data set and task of a summary, for people."""
    model = " ".join(part for part in (entry["backbone"], _bracketed(entry["variant"])) if part)
    return ", ".join(part for part in (model, entry["dataset"], entry["task"]) if part)


def _entrant(rows: Sequence[Row]) -> Entrant:
    _refuse_others(rows)
    by_rate: dict[float, list[Row]] = {}
    for row in rows:
        by_rate.setdefault(row["learning_rate"], []).append(row)
    sign = 1 if rows[0]["higher_is_better"] else -1

    def validation(chosen):
        score = Entrant(rows, chosen).validation
        return -np.inf if score is None else sign * score

    # Of those that were tried with one seed alone others have been chosen.
    most = max(map(len, by_rate.values()))
    return Entrant(rows, max((own for own in by_rate.values() if len(own) == most), key=validation))


def _refuse_others(rows):
    """Refuse heads whose mean would be that of nothing."""
    poolers = list(dict.fromkeys(repr(row["resolved"]) for row in rows))
    if len(poolers) > 1:
        raise ValueError(
            f"records: expected one pooler called {rows[0]['pooler']!r}, got {', '.join(poolers)}; "
            "give them labels of their own"
        )
    seen = set()
    for row in rows:
        head = (row["learning_rate"], row["seed"])
        if head in seen:
            raise ValueError(
                f"records: expected each head once, got {rows[0]['pooler']!r} with learning rate "
                f"{head[0]} and seed {head[1]} twice"
            )
        seen.add(head)
