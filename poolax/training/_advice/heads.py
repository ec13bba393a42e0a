"""The heads that an advice stands on: few of each pooler, more of those that stay in question."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from poolax import statistics
from poolax._signals import PreemptedError, stop_asked
from poolax.records import Predictions, Records
from poolax.training._advice.runs import Runs

FIRST_SEEDS = 2
# A pooler that validates worse than the best at this level is out of question.
_OUT_OF_QUESTION = 0.01

Train = Callable[[str, Sequence[int], Callable[[], bool]], Mapping[int, Sequence[Mapping[str, Any]]]]
"""Gives the records of a pooler's heads in some runs, and raises where the last argument says so."""


@dataclasses.dataclass
class Trained:
    """Records of heads by pooler and run, the learning rate chosen by validation.

    Attributes:
        rows: The record of each run of each pooler.
        left_out: Poolers of which no head was finished in time.
        wall_s: Seconds that the heads of each pooler took.
    """

    rows: dict[str, dict[int, dict[str, Any]]] = dataclasses.field(default_factory=dict)
    left_out: list[str] = dataclasses.field(default_factory=list)
    wall_s: dict[str, float] = dataclasses.field(default_factory=dict)

    def add(
        self, pooler: str, found: Mapping[int, Sequence[Mapping[str, Any]]], seconds: float
    ) -> None:
        """Take records of a pooler, of which a run has one for each learning rate."""
        self.wall_s[pooler] = self.wall_s.get(pooler, 0.0) + seconds
        self.rows.setdefault(pooler, {}).update((run, best_of(rows)) for run, rows in found.items())

    def records(self, pooler: str) -> list[dict[str, Any]]:
        """The records of a pooler in the order of runs."""
        rows = self.rows[pooler]
        return [rows[run] for run in sorted(rows)]

    def validation(self, pooler: str) -> float:
        """The mean over runs of the validation metric."""
        return float(np.mean([row["validation"] for row in self.records(pooler)]))

    def predictions(self, split: str) -> dict[str, list[Predictions]]:
        """What the heads of each pooler predict of a split, known by their runs."""
        found = {}
        for pooler, rows in self.rows.items():
            given = Records(self.records(pooler)).predictions(split)
            found[pooler] = [
                dataclasses.replace(one, seed=run) for run, one in zip(sorted(rows), given, strict=True)
            ]
        return found


def best_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The record of the best validation score; the first of equal ones, and never a diverged one."""
    sign = 1 if rows[0]["higher_is_better"] else -1

    def key(row):
        value = row["validation"]
        return sign * value if np.isfinite(value) and not row["diverged"] else -np.inf

    return dict(max(rows, key=key))


def train_in_rounds(
    train: Train,
    fixed: Sequence[str],
    learned: Sequence[str],
    runs: Runs,
    *,
    deadline: float | None,
    say: Callable[[str], None],
) -> Trained:
    """Heads of all poolers, as far as the time goes.

    Poolers without parameters come first and cost little. Of the others a few seeds each are trained,
    then more of those that are not worse than the best beyond the noise of the validation examples.

    Args:
        train: Trains heads.
        fixed: Poolers without parameters.
        learned: Poolers with parameters, the most promising first.
        runs: All runs.
        deadline: Of ``time.monotonic``; ``None`` for none.
        say: Called with what is done next.

    Returns:
        What was trained.
    """
    trained = Trained()
    every = range(len(runs.seeds))
    # The heads of fixed poolers depend on the split alone.
    _add(trained, train, fixed, list(every) if runs.is_crossed else [0], None, say)
    few = list(every)[:FIRST_SEEDS]
    for name in learned:
        if _is_over(deadline) or not _add(trained, train, [name], few, deadline, say):
            trained.left_out.append(name)
    more = list(every)[FIRST_SEEDS:]
    questioned = in_question(trained, runs) if more else []
    for name in (name for name in learned if name in questioned):
        if not _is_over(deadline):
            _add(trained, train, [name], more, deadline, say)
    return trained


def _add(trained, train, names, runs_of_heads, deadline, say) -> bool:
    """Train heads of poolers, one pooler after the other; whether all are there."""

    def should_stop() -> bool:
        return stop_asked() or _is_over(deadline)

    for name in names:
        say(name)
        started = time.monotonic()

        try:
            found = train(name, runs_of_heads, should_stop)
        except PreemptedError:
            if stop_asked():
                raise
            return False
        trained.add(name, found, time.monotonic() - started)
    return True


def _is_over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() > deadline


def in_question(trained: Trained, runs: Runs) -> list[str]:
    """Poolers whose validation scores are not below the best one's beyond noise.

    Where runs are crossed, those that all poolers have are taken together, each example held out once.
    """
    higher = next(iter(next(iter(trained.rows.values())).values()))["higher_is_better"]
    order = sorted(trained.rows, key=trained.validation, reverse=higher)
    found = trained.predictions("validation")
    if runs.is_crossed:
        common = set.intersection(*(set(rows) for rows in trained.rows.values()))
        found = {
            name: [
                joined([found[name][sorted(trained.rows[name]).index(run)] for run in sorted(common)])
            ]
            for name in order
        }
    differences = statistics.compare(found, order[0], draws=2000)
    return [name for name in order if name == order[0] or differences[name].p_value > _OUT_OF_QUESTION]


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Predictions of several parts of the examples as those of one."""
    names = set.intersection(*(set(part.kept) for part in parts))
    kept = {name: np.concatenate([part.kept[name] for part in parts]) for name in names}
    sizes = np.array([len(part) for part in parts])
    values = np.array([np.nan if part.value is None else part.value for part in parts])
    value = float(np.average(values, weights=sizes))
    return dataclasses.replace(parts[0], kept=kept, value=value if np.isfinite(value) else None)
