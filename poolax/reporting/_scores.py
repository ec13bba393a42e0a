"""Scores of heads, summarized over seeds."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from poolax.reporting._differences import resampled
from poolax.reporting._places import Entrant, Place, about, places_of
from poolax.statistics import Resampled


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
        ``chosen`` marks the pooler of the best mean ``validation`` score. ``difference`` is the mean
        difference to that one on ``num_examples`` test examples, ``difference_low`` and
        ``difference_high`` its 95 % interval, ``test_low`` and ``test_high`` that of ``mean``, by a
        paired bootstrap over test examples and seeds; ``None`` where ``no_interval`` says why.
        ``baseline`` is the test score of the training split's best constant prediction,
        ``best_constant`` that of the test split's own; ``None`` where records do not hold it.

    Raises:
        ValueError: for what is no record of a head, the same head twice, or several poolers of one
            label in one row.
    """
    return [entry for place in places_of(records) for entry in summaries_of(place)]


def summaries_of(place: Place) -> list[dict[str, Any]]:
    """A summary of each pooler of a place."""
    choice = place.choice
    drawn = resampled({name: e.sound for name, e in place.entrants.items() if e.sound})
    found = []
    for name, entrant in place.entrants.items():
        test = difference = None
        if isinstance(drawn, Resampled) and choice is not None and entrant.sound:
            test = drawn.interval(name)
            difference = None if name == choice else drawn.difference(name, choice)
        found.append(
            {
                **_summary(entrant, place.variant),
                "chosen": name == choice,
                "test_low": None if test is None else test.low,
                "test_high": None if test is None else test.high,
                "difference": None if difference is None else difference.value,
                "difference_low": None if difference is None else difference.low,
                "difference_high": None if difference is None else difference.high,
                "num_examples": None if test is None else test.num_examples,
                "no_interval": drawn if isinstance(drawn, str) else None,
            }
        )
    return found


def _summary(entrant: Entrant, variant: str) -> dict[str, Any]:
    first = entrant.chosen[0]
    scores = [row["test"] for row in entrant.sound]
    return {
        **about(first, variant),
        "metric": first["metric"],
        "higher_is_better": first["higher_is_better"],
        "pooler": first["pooler"],
        "resolved": first["resolved"]["name"],
        "learning_rate": first["learning_rate"],
        "num_learning_rates": len({row["learning_rate"] for row in entrant.rows}),
        "validation": entrant.validation,
        "mean": float(np.mean(scores)) if scores else None,
        "std": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        "knn_validation": _of_neighbours(entrant, "validation"),
        "knn_test": _of_neighbours(entrant, "test"),
        "is_solved": entrant.is_solved,
        "num_seeds": len(scores),
        "num_diverged": len(entrant.chosen) - len(scores),
        "baseline": first["baseline"],
        "best_constant": first.get("best_constant"),
        "test_in_train": first.get("duplicates", {}).get("test in train"),
    }


def _of_neighbours(entrant: Entrant, split: str) -> float | None:
    """Mean score of nearest neighbours among the vectors of the chosen heads, where records hold it."""
    scores = [row["knn"][split] for row in entrant.sound if "knn" in row]
    return float(np.mean(scores)) if scores else None
