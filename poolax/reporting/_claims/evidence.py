"""What records say of the statements of a claim."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from poolax.records import digest
from poolax.reporting._claims.statements import BEST_FIXED, FIXED, Claim, Contrast
from poolax.reporting._differences import resampled
from poolax.reporting._paper.cells import paper_results
from poolax.reporting._paper.names import DATA, TASKS
from poolax.reporting._places import Place
from poolax.statistics import Evidence, Resampled, all_of, evidence


@dataclasses.dataclass(frozen=True)
class Case:
    """A claim on one backbone by one protocol, with the heads that it is about.

    Attributes:
        claim: The claim.
        backbone: What records call the backbone.
        solver: Name of the protocol.
        places: Heads of each of its data sets and tasks.
        missing: What is not there; empty where all is.
    """

    claim: Claim
    backbone: str
    solver: str
    places: Sequence[Place]
    missing: str

    @property
    def fingerprint(self) -> str:
        """What tells it from the same claim on other records, or stated otherwise."""
        heads = [
            [row["id"], row["test"], row["validation"]]
            for place in self.places
            for name in sorted(self.poolers)
            if name in place.entrants
            for row in place.entrants[name].rows
        ]
        stated = [dataclasses.astuple(contrast) for contrast in self.claim.contrasts]
        return digest([self.backbone, self.solver, stated, self.claim.margin, heads])

    @property
    def poolers(self) -> set[str]:
        """Names of all poolers that it speaks of."""
        named = {name for one in self.claim.contrasts for name in (one.label, one.other)}
        return (named - {BEST_FIXED}) | (set(FIXED) if BEST_FIXED in named else set())


def cases_of(claims: Sequence[Claim], places: Sequence[Place]) -> list[Case]:
    """Each claim on each of its backbones by each protocol.

    Args:
        claims: The claims.
        places: Heads by model, data, task and protocol.
    """
    by_name: dict[tuple[str, str, str, str], list[Place]] = {}
    for place in places:
        row = place.example
        solver = (row.get("solver") or {"name": "adam"})["name"]
        model = row.get("model") or row.get("backbone", "")
        by_name.setdefault((model, row.get("dataset") or "", row["task"], solver), []).append(place)
    found = []
    for claim in (claim for claim in claims if not claim.missing):
        for backbone, where in claim.places.items():
            for solver in claim.solvers:
                known = [by_name.get((backbone, *one, solver), []) for one in where]
                case = Case(claim, backbone, solver, [one[0] for one in known if one], "")
                missing: dict[str, list[str]] = {}
                for (dataset, task), one in zip(where, known, strict=True):
                    missing.setdefault(_missing(case, one), []).append(f"{dataset} {task}")
                missing.pop("", None)
                said = "; ".join(f"{why}: {', '.join(named)}" for why, named in missing.items())
                found.append(dataclasses.replace(case, missing=said))
    return found


def _missing(case: Case, known: Sequence[Place]) -> str:
    """Why a claim cannot be tested at a place; empty where it can."""
    if not known:
        return "no records"
    if len(known) > 1:
        return f"records of {len(known)} kinds"
    [place] = known
    without = [name for name in sorted(case.poolers) if not _sound(place, name)]
    if without:
        return f"no heads of {', '.join(without)}"
    if any(not row.get("predictions") for name in case.poolers for row in _sound(place, name)):
        return "records without scores of single examples"
    return ""


def _sound(place: Place, name: str) -> list[Mapping[str, Any]]:
    entrant = place.entrants.get(name)
    return [] if entrant is None else entrant.sound


class Drawn:
    """Test scores of the heads of places in the same draws, each drawn once.

    Args:
        poolers: Names of those that anything is stated of.
        draws: Number of draws.
        seed: Of the draws.
    """

    def __init__(self, poolers: Collection[str], draws: int, seed: int):
        self._poolers, self._draws, self._seed = poolers, draws, seed
        self._known: dict[int, Resampled | str] = {}

    def of(self, place: Place) -> Resampled | str:
        """The draws of a place, or why there are none."""
        key = id(place)
        if key not in self._known:
            sound = {name: _sound(place, name) for name in place.entrants if name in self._poolers}
            heads = {name: rows for name, rows in sound.items() if rows}
            self._known[key] = resampled(heads, draws=self._draws, seed=self._seed)
        return self._known[key]


def compared(case: Case, drawn: Drawn) -> tuple[list[dict[str, Any]], Evidence] | str:
    """All comparisons of a case, and the evidence that all of them hold; or why there is none."""
    rows, parts = [], []
    for place in case.places:
        scores = drawn.of(place)
        if isinstance(scores, str):
            return f"{place.example['task']} on {place.example['dataset']}: {scores}"
        for contrast in case.claim.contrasts:
            row, part = _compared(case.claim, contrast, place, scores)
            rows.append(row)
            parts.append(part)
    return rows, all_of(parts)


def _compared(
    claim: Claim, contrast: Contrast, place: Place, scores: Resampled
) -> tuple[dict[str, Any], Evidence]:
    example = place.example
    label, other = (_named(place, name) for name in (contrast.label, contrast.other))
    unit = 1.0 if example["higher_is_better"] else example["baseline"]
    margin = 0.0 if contrast.relation == "better" else claim.margin * unit
    part = evidence(scores, label, other, contrast.relation, margin=margin)
    gain = scores.gain(label, other)
    low, high = np.quantile(gain, [0.025, 0.975])
    observed = scores.observed[label] - scores.observed[other]
    row = {
        "dataset": example["dataset"],
        "task": example["task"],
        "metric": example["metric"],
        "label": label,
        "other": other,
        "relation": contrast.relation,
        "margin": margin,
        "gain": observed if scores.higher_is_better else -observed,
        "low": float(low),
        "high": float(high),
        "p_for": part.p_for,
        "p_against": part.p_against,
        "num_examples": scores.num_examples,
        "num_seeds": min(scores.num_seeds[label], scores.num_seeds[other]),
        "paper": paper_gains(example["dataset"], example["task"], label, other),
    }
    return row, part


def _named(place: Place, name: str) -> str:
    """The pooler that is meant, by what validation chose where it has to be found."""
    if name != BEST_FIXED:
        return name
    sign = 1 if place.example["higher_is_better"] else -1
    known = {one: place.entrants[one].validation for one in FIXED}
    scores = {one: sign * value for one, value in known.items() if value is not None}
    return max(scores, key=lambda one: scores[one])


def weakest_in_paper(claim: Claim, where: Sequence[tuple[str, str]]) -> dict[str, Any] | None:
    """What the paper has where a claim holds least by the median over its models, if anywhere."""
    found = []
    for dataset, task in where:
        metric = next((one.metric for one in TASKS.values() if one.task == task), "")
        for one in claim.contrasts:
            gains = paper_gains(dataset, task, one.label, one.other)
            if gains is not None:
                about = {"label": one.label, "other": one.other, "dataset": dataset, "task": task}
                found.append(about | {"metric": metric, "paper": gains})
    is_equal = any(one.relation == "equal" for one in claim.contrasts)

    def kept(one):
        median = one["paper"]["median"]
        return -abs(median) if is_equal else median

    return min(found, key=kept, default=None)


def paper_gains(dataset: str, task: str, label: str, other: str) -> dict[str, Any] | None:
    """By how much one pooler is better than another in the paper, over its models.

    Args:
        dataset: Data set, as records call it.
        task: Task, likewise.
        label: Name of the one pooler.
        other: Name of the other.

    Returns:
        The median, the least and the largest gain in the unit of records, their number, and the data
        that they are of: the same where the paper has them, else all of the task; ``None`` where it has
        neither.
    """
    means: dict[tuple, dict[str, float]] = {}
    higher = True
    for cell in paper_results():
        measured = TASKS[cell.task, cell.metric]
        if measured.task == task:
            higher = cell.metric != "mse"
            key = (cell.model, cell.dataset, cell.condition)
            means.setdefault(key, {})[cell.pooling] = cell.value
    both = {key: values for key, values in means.items() if {label, other} <= set(values)}
    same = {
        key: values
        for key, values in both.items()
        if dataset in (DATA[key[1]].name, *DATA[key[1]].near)
    }
    known = same or both
    if not known:
        return None
    gains = [(1 if higher else -1) * (values[label] - values[other]) for values in known.values()]
    names = list(dict.fromkeys(key[1] for key in known))
    return {
        "median": float(np.median(gains)),
        "low": min(gains),
        "high": max(gains),
        "num": len(gains),
        "data": ", ".join(names) if same else f"all {len(names)} data sets of the task",
    }
