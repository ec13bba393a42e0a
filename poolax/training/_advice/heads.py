"""The heads that an advice stands on: one of each pooler, more of those that stay in question."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from poolax import statistics
from poolax._signals import PreemptedError, stop_asked
from poolax.records import Predictions, Records
from poolax.training._advice.runs import Runs

# A pooler that validates worse than the best at this level is out of question.
_OUT_OF_QUESTION = 0.01

Rows = Mapping[int, Sequence[Mapping[str, Any]]]
Train = Callable[[str, Sequence[int], float | None, Callable[[], bool]], Rows]
"""Gives the records of a pooler's heads in some runs, of one learning rate or all that are tried, and
raises where the last argument says so."""


@dataclasses.dataclass
class Trained:
    """Records of heads by pooler and run, the learning rate chosen by validation.

    Attributes:
        rows: The record of each run of each pooler.
        left_out: Poolers of which no head was finished in time.
        in_question: Poolers with parameters of which more heads were asked for than there was time.
        wall_s: Seconds that the heads of each pooler took.
        is_crossed: Whether runs hold out other examples each.
    """

    rows: dict[str, dict[int, dict[str, Any]]] = dataclasses.field(default_factory=dict)
    left_out: list[str] = dataclasses.field(default_factory=list)
    in_question: list[str] = dataclasses.field(default_factory=list)
    wall_s: dict[str, float] = dataclasses.field(default_factory=dict)
    is_crossed: bool = False

    def add(self, pooler: str, found: Rows, seconds: float) -> None:
        """Take records of a pooler, of which a run has one for each learning rate."""
        self.wall_s[pooler] = self.wall_s.get(pooler, 0.0) + seconds
        self.rows.setdefault(pooler, {}).update((run, best_of(rows)) for run, rows in found.items())

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
    deadline: float | None,
    say: Callable[[str], None],
) -> Trained:
    """Heads of all poolers, as far as the time goes.

    Poolers without parameters come first and cost little. Of the others one run each is trained, then
    more of those that are not worse than the best beyond the noise of the validation examples, those
    that validate best first.

    Args:
        train: Trains heads.
        fixed: Poolers without parameters.
        learned: Poolers with parameters, the most promising first.
        runs: All runs.
        deadline: Of ``time.monotonic``; ``None`` for none. One pooler is trained in any case.
        say: Called with what is done next.

    Returns:
        What was trained.
    """
    trained = Trained(is_crossed=runs.is_crossed)
    every = range(len(runs.seeds))
    # The heads of fixed poolers depend on the split alone.
    first = {name: list(every) if runs.is_crossed else [0] for name in fixed}
    first |= {name: [0] for name in learned}
    for name, own in first.items():
        say(name)
        if not _add(trained, train, name, _in_turn(own, runs), deadline if trained.rows else None):
            (trained.in_question if name in trained.rows else trained.left_out).append(name)
    questioned = in_question(trained, runs)
    for name in (name for name in questioned if name in learned and len(every) > 1):
        say(name)
        if not _add(trained, train, name, _in_turn(list(every)[1:], runs), deadline):
            trained.in_question.append(name)
    return trained


def _in_turn(own: list[int], runs: Runs) -> list[list[int]]:
    """Runs that are trained at once: those on the same examples."""
    return [[run] for run in own] if runs.is_crossed else [own]


def _add(trained, train, name, parts, deadline) -> bool:
    """Train heads of a pooler, some runs after the others; whether all are there."""

    def should_stop() -> bool:
        return stop_asked() or is_over(deadline)

    for own in parts:
        if is_over(deadline):
            return False
        rate = None
        if not trained.is_crossed and name in trained.rows:
            rate = next(iter(trained.rows[name].values()))["learning_rate"]
        started = time.monotonic()
        try:
            found = train(name, own, rate, should_stop)
        except PreemptedError:
            if stop_asked():
                raise
            return False
        trained.add(name, found, time.monotonic() - started)
    return True


def is_over(deadline: float | None) -> bool:
    """Whether a time of ``time.monotonic`` is past; ``None`` never is."""
    return deadline is not None and time.monotonic() > deadline


def within(end: float | None, train: Callable[..., float], *arguments: Any) -> float | None:
    """What training gives; ``None`` where the time is over before.

    Args:
        end: Of ``time.monotonic``; ``None`` for no end.
        train: Takes the arguments, and a function that says whether to stop.
        arguments: Of it.
    """
    try:
        return train(*arguments, lambda: stop_asked() or is_over(end))
    except PreemptedError:
        if stop_asked():
            raise
        return None


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
