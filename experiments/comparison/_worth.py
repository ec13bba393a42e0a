"""Whether a backbone of series is worth its states: heads on averages beside those on raw series."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

#: By how much a head on averaged states has to be better than one on raw series, and on how many sets.
POINTS, SETS = 0.03, 2


def worth_of_series(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """What the converged heads of averages come to beside those on raw series, in words, by backbone.

    Args:
        records: Published records of ``time_series.py``; those of other studies, tasks and poolers, and
            of runs without raw inputs, say nothing of it.
    """
    gains: dict[str, dict[str, list[float]]] = {}
    for row in records:
        raw = row.get("baselines", {}).get("test", {}).get("raw")
        of_average = row["pooler"] == "avg" and row.get("layers", "output") == "output"
        is_series = row.get("study") == "time_series" and row["task"] == "classification"
        if is_series and of_average and row.get("solver") is not None and raw is not None:
            own = gains.setdefault(row["backbone"], {}).setdefault(row["dataset"], [])
            own.append(row["test"] - raw[row["metric"]])
    found = {}
    for backbone, by_set in gains.items():
        means = {name: float(np.mean(values)) for name, values in by_set.items()}
        # A difference of shares of few examples is not a round number in binary.
        enough = sum(gain >= POINTS - 1e-6 for gain in means.values())
        listed = ", ".join(f"{name} {100 * gain:+.1f}" for name, gain in means.items())
        verdict = "accepted" if enough >= SETS else "not accepted, the raw series are no worse"
        found[backbone] = (
            f"averaged states are {100 * POINTS:g} points or more above raw series on {enough} of "
            f"{len(means)} sets ({listed}): {verdict}"
        )
    return found
