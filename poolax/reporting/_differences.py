"""How sure scores and their differences are, from what records hold of each test example."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from poolax.records import Predictions, Records
from poolax.statistics import Resampled, resample

_DRAWS = 2000


def resampled(
    heads: Mapping[str, Sequence[Mapping[str, Any]]], *, draws: int = _DRAWS, seed: int = 0
) -> Resampled | str:
    """Test scores of poolers in draws of test examples and seeds, the same for all.

    Args:
        heads: For each pooler the records of its heads, a seed each, on one test split.
        draws: Number of draws.
        seed: Of the draws.

    Returns:
        The draws, or why there are none.
    """
    found = {name: [_predictions(row) for row in rows] for name, rows in heads.items()}
    known = {name: kept for name, rows in found.items() if (kept := [p for p in rows if p is not None])}
    if not known or any(len(known.get(name, ())) < len(rows) for name, rows in found.items()):
        return "the records hold no scores of single examples"
    try:
        return resample(known, draws=draws, seed=seed)
    except ValueError as error:  # of a metric that is not made of what records hold, or other examples
        return str(error)


def _predictions(row: Mapping[str, Any]) -> Predictions | None:
    """What a head predicts; of earlier records scores alone."""
    if row.get("predictions"):
        return Records([row]).predictions()[0]
    if not row.get("test_scores"):
        return None
    return Predictions(
        {"score": np.array(row["test_scores"], np.float64)},
        pooler=row["pooler"],
        seed=row["seed"],
        metric=row["metric"],
        value=row["test"],
        higher_is_better=row["higher_is_better"],
    )
