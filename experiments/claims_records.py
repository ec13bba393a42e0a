"""Records of scripts that look into heads, as scores of single examples that claims can be tested on.

Each is brought to the form of a head's record: what of a pooler was measured stands as its score on
each test example, which is an image, a sentence's group or an input, in place of one number for all.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import comparison
import numpy as np

from poolax.records import Predictions, Records, digest, packed, unpacked

#: Names of tasks, as claims have them.
NOISE, MEANING, DISTANCE = "noise", "meaning", "distance of sentences"
SPREAD = "spread of poolers"
#: What stands for all sizes of a family together.
GPT2 = "own GPT-2"
_WIDTH = re.compile(r"(?:^|-)gpt2-(\d+)(?:-\d+)?$")
_TINY = np.finfo(np.float32).tiny

Row = Mapping[str, Any]


def under_attack(name: str, radius: float) -> str:
    """The task of withstanding an attack.

    Example:
        >>> under_attack("fgsm", 8 / 255)
        'fgsm at 8/255'
    """
    return f"{name} at {255 * radius:g}/255"


def at_length(task: str, max_tokens: int) -> str:
    """A task on texts that are cut.

    Example:
        >>> at_length("classification", 16)
        'classification at 16 tokens'
    """
    return f"{task} at {max_tokens} tokens"


def scored(records: Iterable[Row]) -> list[Row]:
    """Records of heads as they are, those of other scripts as scores of examples, and what follows.

    Args:
        records: Of comparisons and of scripts that look into heads, in any order.
    """
    rows = list(records)
    heads = [row for row in rows if row["kind"] == "head"]
    found: list[Row] = [*heads, *spreads(heads)]
    for row in rows:
        if row["kind"] in _OF_KIND:
            found += _OF_KIND[row["kind"]](row)
    return found


def attacks(row: Row) -> list[Row]:
    """Of each attack, whether images that were right before it are wrong after it."""
    kept, _ = unpacked(row["examples"])
    clean, attacked = kept["clean"].astype(bool), kept["attacked"].astype(bool)
    return [
        _row(
            row,
            {"score": clean & ~right, "num_scored": clean},
            task=under_attack(attack["name"], attack["radius"]),
            metric="attack_success_rate",
        )
        for attack, right in zip(row["attacks"], attacked.T, strict=True)
        if clean.any()
    ]


def curves(row: Row) -> list[Row]:
    """How far noise moves the vector of each input: the mean logarithm over sizes of the noise."""
    if "by_input" not in row:
        return []
    kept, _ = unpacked(row["by_input"])
    logs = np.log10(np.maximum(kept["distance"], _TINY)).mean(axis=1)
    return [_row(row, {"score": logs}, task=NOISE, metric="log10 of the distance")]


def sentences(row: Row) -> list[Row]:
    """Of each group of sentences how far variants move, and how well cosines tell them apart."""
    kept, _ = unpacked(row["variants"])
    near, far = (_distances(kept, row["num_groups"], similar) for similar in (True, False))
    shares = _order(kept, row["num_groups"])
    known = ~np.isnan(near + far + shares)
    both = np.maximum((near + far)[known] / 2, _TINY)
    parts = {"similar": near[known] / both, "dissimilar": far[known] / both}
    found = [
        _row(
            row,
            {"score": distance},
            task=DISTANCE,
            metric="distance by the mean",
            pooler=f"{row['pooler']}, {name}",
        )
        for name, distance in parts.items()
    ]
    told = _row(row, {"score": shares[known]}, task=MEANING, metric="auc", higher_is_better=True)
    return [*found, told]


def lengths(row: Row) -> list[Row]:
    """Scores of single examples on texts that are cut to a length."""
    if row["tested_on"] != "all" or row["score"] is None or "examples" not in row:
        return []
    more = {"higher_is_better": row["higher_is_better"], "value": row["score"]}
    task = at_length(row["task"], row["max_tokens"])
    kept, _ = unpacked(row["examples"])
    return [_row(row, kept, task=task, metric=row["metric"], **more)]


def spreads(heads: Sequence[Row]) -> list[Row]:
    """Of GPT-2s of several widths, by how much the best pooler beats the worst one on each example.

    Which these are validation says, for each width by itself.
    """
    places: dict[tuple, list[Row]] = {}
    for row in heads:
        width = _WIDTH.search(comparison.model_of(row))
        is_mean = row["metric"].endswith("accuracy")
        if width and is_mean and row.get("predictions") and not row["diverged"]:
            solver = (row.get("solver") or {"name": "adam"})["name"]
            key = (row["dataset"], row["task"], solver, int(width[1]))
            places.setdefault(key, []).append(row)
    found = []
    for (dataset, task, solver, width), rows in places.items():
        best = _ranked(rows)
        if len(best) < 2:
            continue
        for seed in sorted({row["seed"] for row in (*best[0], *best[-1])}):
            first, last = (_of_seed(own, seed) for own in (best[0], best[-1]))
            gain = first.score.astype(np.float64) - last.score
            about = {"id": digest([dataset, task, solver, width, seed]), "dataset": dataset}
            about |= {"seed": seed, "solver": solver, "pooler": str(width), "model": GPT2}
            about |= {"pretrained": comparison.pretrained(rows[0])}
            words = {"task": f"{SPREAD}, {task}", "metric": rows[0]["metric"]}
            found.append(_row(about, {"score": gain}, **words))
    return found


def _ranked(rows: Sequence[Row]) -> list[list[Row]]:
    """Heads of each pooler, those of its best learning rate, by mean validation score."""
    by_rate: dict[tuple, list[Row]] = {}
    for row in rows:
        by_rate.setdefault((row["pooler"], row["learning_rate"]), []).append(row)
    means = {key: float(np.mean([row["validation"] for row in own])) for key, own in by_rate.items()}
    best: dict[str, tuple] = {}
    for key in sorted(means, key=lambda key: means[key]):
        best[key[0]] = key
    keys = sorted(best.values(), key=lambda key: means[key], reverse=True)
    return [by_rate[key] for key in keys]


def _of_seed(rows: Sequence[Row], seed: int) -> Predictions:
    """Predictions of the head of a seed; of a solved one, which no seed changes, those of the first."""
    [row] = [row for row in rows if row["seed"] == seed] or rows[:1]
    return Records([row]).predictions()[0]


def _distances(kept: Mapping[str, np.ndarray], num_groups: int, similar: bool) -> np.ndarray:
    """Mean distance of each group's variants of a role; NaN where there is none."""
    found = np.full(num_groups, np.nan)
    for group in range(num_groups):
        own = kept["distance"][(kept["group"] == group) & (kept["similar"].astype(bool) == similar)]
        if own.size:
            found[group] = own.mean(dtype=np.float64)
    return found


def _order(kept: Mapping[str, np.ndarray], num_groups: int) -> np.ndarray:
    """Of each group the share of pairs in which the similar variant has the greater cosine."""
    found, similar = np.full(num_groups, np.nan), kept["similar"].astype(bool)
    for group in range(num_groups):
        own = kept["group"] == group
        near, far = kept["cosine"][own & similar], kept["cosine"][own & ~similar]
        if near.size and far.size:
            found[group] = np.mean(np.sign(near[:, None] - far) / 2 + 0.5)
    return found


def _row(
    about: Row,
    kept: Mapping[str, np.ndarray],
    *,
    task: str,
    metric: str,
    pooler: str | None = None,
    higher_is_better: bool = False,
    value: float | None = None,
) -> dict[str, Any]:
    """A record of the form of a head's."""
    kept = {name: np.asarray(array) for name, array in kept.items()}
    count = kept.get("num_scored", np.ones(len(kept["score"]))).astype(np.float64)
    mean = float(np.average(kept["score"].astype(np.float64), weights=count))
    solver = about.get("solver", "adam")
    return {
        "kind": "head",
        "id": digest([about["id"], task, pooler]),
        "model": about["model"],
        "pretrained": about.get("pretrained"),
        "dataset": about["dataset"],
        "task": task,
        "metric": metric,
        "higher_is_better": higher_is_better,
        "pooler": pooler or about["pooler"],
        "resolved": {"name": about.get("resolved", about["pooler"]), "options": {}},
        "seed": about["seed"],
        "learning_rate": None,
        "validation": 0.0,  # nothing is chosen by it
        "test": mean if value is None else value,
        "baseline": 1.0,
        "diverged": False,
        "predictions": {"test": packed(kept)},
        **({} if solver == "adam" else {"solver": {"name": solver, "options": {}}}),
    }


_OF_KIND = {
    "robustness": attacks,
    "noise_curve": curves,
    "sentence_distances": sentences,
    "length_score": lengths,
}
