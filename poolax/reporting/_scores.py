"""Scores of heads, summarized over seeds: what may be one mean, and what may not."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

# What heads of one row have in common, with the words for it where two rows differ in it alone.
_SHARED = {
    "backbone_fingerprint": "weights",
    "data_fingerprint": "data",
    "states_fingerprint": "states",
    "preprocess": "preprocess",
    "include_prefix": "include_prefix",
    "features": "features",
    "feature_dtype": "feature_dtype",
    "task_options": "task_options",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "solver": "solver",
}
_DIGITS = 8
_NEEDED = (
    *("task", "metric", "higher_is_better", "pooler", "resolved", "learning_rate", "seed"),
    *("validation", "test", "baseline", "diverged"),
)


def summarize_scores(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds of every pooler on every task.

    Heads of other weights, data, states or settings are never one mean, however alike their names:
    ``variant`` tells them apart. Where several learning rates were tried, the one with the best mean
    validation score is reported, by its test score. Diverged heads count in ``num_diverged`` and not in
    the mean.

    Args:
        records: Head records of a sweep.

    Returns:
        One dictionary for each model, data set, task, variant and pooler, in order of appearance.
        ``baseline`` is the test score of the training split's best constant prediction,
        ``best_constant`` that of the test split's own; ``None`` where records do not hold it.

    Raises:
        ValueError: for what is no record of a head, the same head twice, or several poolers of one
            label in one row.
    """
    return [entry for entries in scores_by_place(records) for entry in entries]


def scores_by_place(records: Iterable[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
    """The same, those of one row of a table together: all that is equal but the pooler.

    Args:
        records: Head records of a sweep.

    Returns:
        For each model, data set, task, metric and variant the summaries of its poolers.

    Raises:
        ValueError: as :func:`summarize_scores`.
    """
    places: dict[tuple, dict[str, list]] = {}
    for row in records:
        _check_head(row)
        shared = tuple(repr(row.get(name)) for name in _SHARED)
        place = (_model(row), row.get("dataset", ""), row["task"], row["metric"], *shared)
        places.setdefault(place, {}).setdefault(row["pooler"], []).append(row)
    variants = _variants({place: next(iter(by.values()))[0] for place, by in places.items()})
    return [
        [_summary(rows, variants[place]) for rows in by_pooler.values()]
        for place, by_pooler in places.items()
    ]


def _check_head(row):
    if not isinstance(row, Mapping):
        raise ValueError(f"records: expected records of heads, got {row!r:.80}")
    missing = [name for name in _NEEDED if name not in row]
    if missing:
        kind = f" one of kind {row['kind']!r}" if row.get("kind", "head") != "head" else " one"
        raise ValueError(f"records: expected records of heads, got{kind} without {', '.join(missing)}")


def place_of(entry: Mapping[str, Any]) -> str:
    """Model, data set and task of a summary, for people."""
    model = " ".join(part for part in (entry["backbone"], _bracketed(entry["variant"])) if part)
    return ", ".join(part for part in (model, entry["dataset"], entry["task"]) if part)


def _model(row):
    """What a model is called: by its checkpoint or the user; in older records by its family."""
    return row.get("model") or row.get("backbone", "")


def _bracketed(variant):
    return f"({variant})" if variant else ""


def _variants(examples: Mapping[tuple, Mapping[str, Any]]) -> dict[tuple, str]:
    """What tells rows apart that are called alike; nothing for others."""
    alike: dict[tuple, list[tuple]] = {}
    for place in examples:
        alike.setdefault(place[:3], []).append(place)
    found = {}
    for places in alike.values():
        rows = [examples[place] for place in places]
        differing = [name for name in _SHARED if len({repr(row.get(name)) for row in rows}) > 1]
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
    texts = [str(value) for value in values]
    if name.endswith("_fingerprint"):
        short = [text[:_DIGITS] for text in texts]
        if len(set(short)) == len(set(texts)):
            texts = short
    return [f"{_SHARED[name]} {text}" for text in texts]


def _summary(rows: Sequence[Mapping[str, Any]], variant: str) -> dict[str, Any]:
    _refuse_others(rows)
    by_rate: dict[float, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_rate.setdefault(row["learning_rate"], []).append(row)
    sign = 1 if rows[0]["higher_is_better"] else -1

    def validation(rate):
        scores = [sign * row["validation"] for row in by_rate[rate] if not row["diverged"]]
        return float(np.mean(scores)) if scores else -np.inf

    # Of those that were tried with one seed alone others have been chosen.
    most = max(map(len, by_rate.values()))
    rate = max((rate for rate, own in by_rate.items() if len(own) == most), key=validation)
    chosen = by_rate[rate]
    scores = [row["test"] for row in chosen if not row["diverged"]]
    first = chosen[0]
    return {
        "backbone": _model(first),
        "dataset": first.get("dataset", ""),
        "task": first["task"],
        "variant": variant,
        "metric": first["metric"],
        "higher_is_better": first["higher_is_better"],
        "pooler": first["pooler"],
        "resolved": first["resolved"]["name"],
        "learning_rate": rate,
        "num_learning_rates": len(by_rate),
        "mean": float(np.mean(scores)) if scores else None,
        "std": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        "num_seeds": len(scores),
        "num_diverged": len(chosen) - len(scores),
        "baseline": first["baseline"],
        "best_constant": first.get("best_constant"),
        "test_in_train": first.get("duplicates", {}).get("test in train"),
    }


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
