"""The paper's values with those of records beside them."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from poolax.data import entry
from poolax.reporting._marks import constant_scores
from poolax.reporting._paper.cells import PaperCell, paper_results
from poolax.reporting._paper.names import DATA, MODELS, TASKS
from poolax.reporting._places import Entrant, Place, places_of


@dataclasses.dataclass(frozen=True)
class OwnValue:
    """A value of records beside one of the paper.

    Attributes:
        model: What the records call the model.
        dataset: Name of the data set.
        protocol: How its heads are trained: ``"adam"``, as in the paper, or ``"converged"``.
        value: Mean test score over seeds; shares from 0 to 1. ``None`` where all heads diverged.
        std: Standard deviation over seeds; ``None`` of fewer than two.
        baselines: Test scores of predictions that do not look at the input, and of a linear head on raw
            inputs, by name.
        records: What the records are known by.
        others: In what model or data are others than the paper's; empty where both are the same.
        difference: The value less that of the paper; ``None`` where model or data are others.
    """

    model: str
    dataset: str
    protocol: str
    value: float | None
    std: float | None
    baselines: Mapping[str, float]
    records: tuple[str, ...]
    others: tuple[str, ...]
    difference: float | None


@dataclasses.dataclass(frozen=True)
class Beside:
    """A value of the paper with those of records.

    Attributes:
        cell: The paper's.
        own: Those of records, of whatever model.
        absent: Why there is none; empty where there is one.
    """

    cell: PaperCell
    own: tuple[OwnValue, ...]
    absent: str

    @property
    def is_matched(self) -> bool:
        """Whether one is of the same model and data."""
        return any(not own.others for own in self.own)


def beside_paper(
    records: Iterable[Mapping[str, Any]],
    *,
    models: Mapping[str, str] | None = None,
    absent: Mapping[str, str] | None = None,
) -> list[Beside]:
    """The paper's values, each with those of records of the same data, task, metric and pooler.

    A difference is told only where model and data are the same. The data are where each published
    split has all its examples, and the paper says which they are: of series it does not say its
    windows, of inpainting not the masked regions. The model is where the paper's name leaves one
    checkpoint alone, or where ``models`` says so.

    Args:
        records: Head records of sweeps, and records of their form that say under which ``condition`` of
            the paper their scores are.
        models: What the records call a model, by the paper's name of it.
        absent: Why there are no records of a data set, by its name in :mod:`poolax.data`.

    Returns:
        One for each value of :func:`paper_results`, in order.

    Raises:
        ValueError: for a name that is none of a model in the paper, or what is no record of a head.

    Example:
        >>> found = beside_paper([])
        >>> len(found), found[0].absent
        (1032, 'no record of classification on cifar10')
    """
    known = {cell.model for cell in paper_results()}
    for name in models or {}:
        if name not in known:
            raise ValueError(f"models: expected names of {', '.join(sorted(known))}, got {name!r}")
    named = {**MODELS, **(models or {})}
    places: dict[tuple[str, str, str], list[Place]] = {}
    whole = [row for row in records if row.get("layers", "output") == "output" and "shots" not in row]
    for place in places_of(whole):
        example = place.example
        key = (example.get("dataset") or "", example["task"], example["metric"])
        places.setdefault(key, []).append(place)
    return [_beside(cell, places, named, absent or {}) for cell in paper_results()]


def _beside(
    cell: PaperCell,
    places: Mapping[tuple[str, str, str], Sequence[Place]],
    models: Mapping[str, str],
    absent: Mapping[str, str],
) -> Beside:
    data, measured = DATA[cell.dataset], TASKS[cell.task, cell.metric]
    own = []
    for name in (data.name, *data.near):
        for place in places.get((name, measured.task, measured.metric), ()):
            entrant = place.entrants.get(cell.pooling)
            if entrant is not None and _is_under(cell.condition, place.example):
                own.append(_own(cell, place, entrant, models))
    if own:
        return Beside(cell, tuple(own), "")
    where = f" with {cell.condition}" if cell.condition else ""
    missing = f"no record of {measured.task} on {data.name}{where}"
    return Beside(cell, (), absent.get(data.name, missing))


def _is_under(condition: str, row: Mapping[str, Any]) -> bool:
    """Whether a record is of what the paper's value is said to be of."""
    if "condition" in row:
        return row["condition"] == condition
    if not condition:
        return True
    name, _, number = condition.partition("=")
    cut = ((row.get("preprocess") or {}).get("options") or {}).get("max_tokens")
    return name == "seq_len" and cut == int(number)


def _own(cell: PaperCell, place: Place, entrant: Entrant, models: Mapping[str, str]) -> OwnValue:
    row, scores = place.example, [row["test"] for row in entrant.sound]
    model = row.get("model") or row.get("backbone", "")
    others = []
    if models.get(cell.model) != model:
        others.append(f"model: {model}")
    others += _other_data(cell, row)
    value = float(np.mean(scores)) if scores else None
    return OwnValue(
        model=model,
        dataset=row.get("dataset") or "",
        protocol=(row.get("solver") or {"name": "adam"})["name"],
        value=value,
        std=float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        baselines={name: test for name, (_, test) in constant_scores(row).items() if test is not None},
        records=tuple(row["id"] for row in entrant.sound),
        others=tuple(others),
        difference=None if others or value is None else value - cell.value,
    )


def _other_data(cell: PaperCell, row: Mapping[str, Any]) -> list[str]:
    """In what the data of a record are others than the paper's, as far as the paper says."""
    name = DATA[cell.dataset].name
    if row["dataset"] != name:
        return [f"data: {row['dataset']}"]
    unsaid = TASKS[cell.task, cell.metric].unsaid
    if unsaid:
        return [f"data: the paper does not say {unsaid}"]
    published, counts = entry(name), row.get("num_examples")
    if not published.sizes or not counts:
        who = "the record does not say" if published.sizes else "nothing published says"
        return [f"data: {who} how many examples each split has"]
    return [
        f"data: {found} of the {of} published {split} examples"
        for split, found, of in published.other_sizes(counts)
    ]
