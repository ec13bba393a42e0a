"""The heads that an advice stands on: one of each pooler, more of those that stay in question."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from poolax import statistics
from poolax.records import Predictions, Records
from poolax.training._advice.clock import Clock
from poolax.training._advice.runs import Runs

# A pooler that validates worse than the best at this level is out of question.
_OUT_OF_QUESTION = 0.01
# How many times the usual steps heads are trained that had not come to their end.
LENGTHS = (1, 4, 16)
# A share of the score: heads that gained no more from four times the steps had come to their end.
_GAIN = 0.005

Rows = Mapping[int, Sequence[Mapping[str, Any]]]
Train = Callable[[str, Sequence[int], float | None, int, Callable[[], bool]], Rows]
"""Gives the records of a pooler's heads in some runs, of one learning rate or all that are tried, of so
many times the usual steps, and raises where the last argument says so."""


@dataclasses.dataclass
class Trained:
    """Records of heads by pooler and run, the learning rate chosen by validation.

    Attributes:
        rows: The record of each run of each pooler.
        left_out: Poolers of which no head was finished in time.
        in_question: Poolers with parameters of which more heads were asked for than there was time.
        wall_s: Seconds that the heads of each pooler took.
        is_crossed: Whether runs hold out other examples each.
        lengths: How many times the usual steps heads of a pooler had at most, where not once.
        settled: Poolers of which more steps made nothing better.
    """

    rows: dict[str, dict[int, dict[str, Any]]] = dataclasses.field(default_factory=dict)
    left_out: list[str] = dataclasses.field(default_factory=list)
    in_question: list[str] = dataclasses.field(default_factory=list)
    wall_s: dict[str, float] = dataclasses.field(default_factory=dict)
    is_crossed: bool = False
    lengths: dict[str, int] = dataclasses.field(default_factory=dict)
    settled: set[str] = dataclasses.field(default_factory=set)

    def add(self, pooler: str, found: Rows, seconds: float) -> None:
        """Take records of a pooler, of which a run has one for each learning rate."""
        self.wall_s[pooler] = self.wall_s.get(pooler, 0.0) + seconds
        self.rows.setdefault(pooler, {}).update((run, best_of(rows)) for run, rows in found.items())

    @property
    def higher_is_better(self) -> bool:
        """Whether larger scores are better."""
        return next(iter(next(iter(self.rows.values())).values()))["higher_is_better"]

    def has_ended(self, pooler: str) -> bool:
        """Whether more steps would gain nothing, as of heads that stopped early or were solved."""
        stopped = all(
            row["learning_rate"] is None or row["epochs_trained"] < row["epochs"]
            for row in self.rows[pooler].values()
        )
        return stopped or pooler in self.settled

    def records(self, pooler: str) -> list[dict[str, Any]]:
        """The records of a pooler in the order of runs."""
        rows = self.rows[pooler]
        return [rows[run] for run in sorted(rows)]

    def validation(self, pooler: str) -> float:
        """The mean over runs of the validation metric.

        Runs may hold out other examples, of which some are harder: of a pooler that has but a few it is
        what it has more there than those that have all of them, added to their mean over all.
        """
        own = [row["validation"] for row in self.rows[pooler].values()]
        most = max(len(rows) for rows in self.rows.values())
        complete = [rows for rows in self.rows.values() if len(rows) == most]
        if not self.is_crossed or len(own) == most:
            return float(np.mean(own))
        of_runs = {run: np.mean([rows[run]["validation"] for rows in complete]) for run in complete[0]}
        return float(
            np.mean(own)
            - np.mean([of_runs[run] for run in self.rows[pooler]])
            + np.mean(list(of_runs.values()))
        )

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
    clock: Clock,
    say: Callable[[str], None],
) -> Trained:
    """Heads of all poolers, as far as the time goes.

    Poolers without parameters come first and cost little. Of the others one run each is trained, and
    longer ones of those that had not come to their end, for half of the time that is left; then more
    runs of those that are not worse than the best beyond the noise of the validation examples, and
    longer ones of these.

    Args:
        train: Trains heads.
        fixed: Poolers without parameters.
        learned: Poolers with parameters, the most promising first.
        runs: All runs.
        clock: How long. One pooler is trained in any case.
        say: Called with what is done next.

    Returns:
        What was trained.
    """
    trained = Trained(is_crossed=runs.is_crossed)
    every = list(range(len(runs.seeds)))
    # The heads of fixed poolers depend on the split alone.
    first = {name: every if runs.is_crossed else [0] for name in fixed}
    first |= {name: [0] for name in learned}
    for name, own in first.items():
        say(name)
        if not _add(trained, train, name, _in_turn(own, runs), clock if trained.rows else Clock(None)):
            (trained.in_question if name in trained.rows else trained.left_out).append(name)
    half = None if clock.end is None else time.monotonic() + clock.left / 2
    _lengthen(trained, train, learned, clock.until(half), say)
    questioned = in_question(trained, runs)
    for name in (name for name in questioned if name in learned and len(every) > 1):
        say(name)
        if not _add(trained, train, name, _in_turn(every[1:], runs), clock):
            trained.in_question.append(name)
    _lengthen(trained, train, [name for name in learned if name in questioned], clock, say)
    return trained


def _in_turn(own: list[int], runs: Runs) -> list[list[int]]:
    """Runs that are trained at once: those on the same examples."""
    return [[run] for run in own] if runs.is_crossed else [own]


def _add(trained: Trained, train: Train, name: str, parts: list[list[int]], clock: Clock) -> bool:
    """Train heads of a pooler, some runs after the others; whether all are there."""
    for own in parts:
        rate = None
        if not trained.is_crossed and name in trained.rows:
            rate = next(iter(trained.rows[name].values()))["learning_rate"]
        length, started = trained.lengths.get(name, 1), time.monotonic()
        found = clock.within(f"{name}, {own}, {length}", train, name, own, rate, length)
        if found is None:
            return False
        trained.add(name, found, time.monotonic() - started)
    return True


def _lengthen(
    trained: Trained, train: Train, names: Sequence[str], clock: Clock, say: Callable[[str], None]
) -> None:
    """Train longer what had not come to its end, the best by validation first."""
    # Without an end there is none to what could be tried.
    for length in LENGTHS[1:2] if clock.end is None else LENGTHS[1:]:
        names = [name for name in names if name in trained.rows and not trained.has_ended(name)]
        sign = 1 if trained.higher_is_better else -1
        for name in sorted(names, key=lambda name: -sign * trained.validation(name)):
            before, rows = trained.lengths.get(name, 1), trained.rows[name]
            if before >= length:
                continue
            by_rate: dict[float, list[int]] = {}
            for run, row in rows.items():
                by_rate.setdefault(row["learning_rate"], []).append(run)
            parts = [(rate, [run]) for rate, own in by_rate.items() for run in own]
            parts = parts if trained.is_crossed else list(by_rate.items())
            # It took at least as long for each of as many steps, of which programs are made anew.
            expected = trained.wall_s[name] / (2 * len(rows)) * length / before
            say(name)
            score = trained.validation(name)
            for rate, own in parts:
                started = time.monotonic()
                what = f"{name}, {own}, {length}"
                found = clock.within(what, train, name, own, rate, length, seconds=expected * len(own))
                if found is None:
                    break
                both = {run: [rows[run], *more] for run, more in found.items()}
                trained.add(name, both, time.monotonic() - started)
            else:
                trained.lengths[name] = length
                if sign * (trained.validation(name) - score) <= _GAIN * abs(score):
                    trained.settled.add(name)


def in_question(trained: Trained, runs: Runs) -> list[str]:
    """Poolers whose validation scores are not below the best one's beyond noise.

    Where runs are crossed, those that all poolers have are taken together, each example held out once.
    """
    order = sorted(trained.rows, key=trained.validation, reverse=trained.higher_is_better)
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
