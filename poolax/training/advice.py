"""Advice: which pooler to put on a frozen backbone for a data set, why, and how sure that is."""

import dataclasses
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Bool, Float

from poolax import statistics
from poolax._checks import check_count, check_instance, check_number
from poolax._dataset import Dataset
from poolax._progress import Progress, no_progress
from poolax.backbones import Backbone
from poolax.pooling import FirstPool
from poolax.records import NoiseCurve, Records, fingerprint
from poolax.statistics import Difference, Interval
from poolax.training._advice import evidence
from poolax.training._advice.asked import Asked
from poolax.training._advice.choice import Choice, choose, is_worse
from poolax.training._advice.clock import Clock
from poolax.training._advice.fitting import not_pooled, pass_over, room_for, used_by
from poolax.training._advice.heads import train_in_rounds
from poolax.training._advice.reasons import reasons_of_scores
from poolax.training._advice.runs import Splits, runs_of
from poolax.training._advice.sweeper import Sweeper
from poolax.training._engine.heads import Head, load_head
from poolax.training._engine.limits import Limits
from poolax.training._states.lengths import with_max_tokens
from poolax.training._states.pooled import is_fixed
from poolax.training._sweep.identities import describe
from poolax.training._sweep.readers import PoolerLike, as_module, labelled
from poolax.training.tasks import Task

# Where the time may end before all are trained, those first that cost little or help often.
POOLERS = ("avg", "last", "max", "sum", "l2", "wavg", "hybrid", "map", "abmil", "attn")
_LEADING = 3
_SECONDS = 60.0
# Seconds, and a share of the time that is given, for what is looked at when all heads are trained.
_AFTERWARDS, _SHARE_AFTERWARDS, _LARGEST_SHARE = 10.0, 0.05, 0.4


@dataclasses.dataclass(frozen=True)
class Advice:
    """Which pooler to take, and what that stands on.

    Attributes:
        recommended: The pooler to take: of those that are not worse than the best by validation beyond
            noise, the cheapest.
        runner_up: The next best by validation; ``None`` where there is no other.
        decided: Whether all others are worse beyond noise, those apart that always score alike.
        comparisons: Of each pooler but ``best``, its test score less that of ``best``: interval and
            p-values of a paired bootstrap over test examples and seeds, ``adjusted`` by Holm's
            correction over all comparisons.
        reasons: What it stands on and what else was seen, a line each.
        cost: Seconds in all, for token states and for the heads of each pooler; parameters and
            Lipschitz factor of each pooler.
        best: The pooler that validation chose.
        validation: Mean validation score of each pooler.
        test: Test score of each with its interval.
        metric: What scores are.
        higher_is_better: Whether a larger score is better.
        baseline: Test score without any input; ``None`` where it is not known.
        records: Records of all heads.
        curves: How far noise moves the vectors of the leading poolers.
        head: A head of the recommended pooler, trained: ``head.predict(states, mask)``.
        directory: Where it is saved, for ``load_head``; ``None`` where nothing is.
    """

    recommended: str
    runner_up: str | None
    decided: bool
    comparisons: Mapping[str, Difference]
    reasons: tuple[str, ...]
    cost: Mapping[str, Any]
    best: str
    validation: Mapping[str, float]
    test: Mapping[str, Interval]
    metric: str
    higher_is_better: bool
    baseline: float | None
    records: Records
    curves: Mapping[str, NoiseCurve]
    head: Head
    directory: epath.Path | None

    @property
    def equals(self) -> tuple[str, ...]:
        """Poolers that are not worse than ``best`` beyond noise, ``best`` among them."""
        sign = 1 if self.higher_is_better else -1
        worse = {name for name, found in self.comparisons.items() if is_worse(found, sign)}
        return tuple(name for name in self.validation if name not in worse)

    @property
    def sentence(self) -> str:
        """The advice in a sentence."""
        return self._choice.sentence

    @property
    def certainty(self) -> str:
        """How sure that is, by the comparison that it stands on; empty where there is none."""
        return self._choice.certainty

    @property
    def _choice(self) -> Choice:
        return Choice(
            self.recommended, self.runner_up, self.best, self.decided, self.comparisons, self.equals
        )

    def to_record(self) -> dict[str, Any]:
        """Plain JSON of all but the records and the head."""
        return {
            "kind": "advice",
            "recommended": self.recommended,
            "runner_up": self.runner_up,
            "decided": self.decided,
            "sentence": self.sentence,
            "certainty": self.certainty,
            "best": self.best,
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "baseline": self.baseline,
            "validation": dict(self.validation),
            "test": {name: dataclasses.asdict(found) for name, found in self.test.items()},
            "comparisons": {
                name: dataclasses.asdict(found) for name, found in self.comparisons.items()
            },
            "reasons": list(self.reasons),
            "head": None if self.directory is None else str(self.directory),
            "cost": dict(self.cost),
            "curves": {
                name: {
                    field: np.asarray(getattr(curve, field)).tolist()
                    for field in ("epsilon", "mean", "low", "high")
                }
                for name, curve in self.curves.items()
            },
        }


def advise(
    backbone: Backbone,
    dataset: Dataset,
    task: Task,
    *,
    minutes: float | None = None,
    poolers: Sequence[PoolerLike] | Mapping[str, PoolerLike] | None = None,
    max_tokens: int | None = None,
    out: epath.PathLike | None = None,
    seed: int = 0,
    limits: Limits | None = None,
    progress: Progress = no_progress,
) -> Advice:
    """Which pooler to put on a frozen backbone for a data set, why, and how sure that is.

    Token states are computed once; see :func:`advise_states` for what follows. Where the time is short,
    or memory, fewer examples are read, chosen at random, which a reason says.

    Args:
        backbone: A frozen backbone.
        dataset: A :class:`poolax.data.Dataset`, one of your own by ``data.from_files``.
        task: What heads predict; :func:`task_for` knows it of most data sets.
        minutes: Time for all of it; ``None`` for as long as it takes.
        poolers: Names or poolers, or a mapping from labels to them; ``None`` for the usual ones.
            ``"last"`` stands for the backbone's summary token, CLS where it has one.
        max_tokens: Most tokens that the backbone reads of a text; ``None`` for as many as it takes.
        out: Folder for records and heads; ``None`` keeps nothing but what is returned.
        seed: Of everything random.
        limits: Memory, devices, checkpoints.
        progress: Called with a description, the number done and the total.

    Returns:
        The advice.

    Raises:
        ValueError: for an unknown pooler, numbers out of range, or targets that do not fit the task.
        PreemptedError: if asked to stop; the same call goes on from heads that are finished in ``out``.

    Example:
        >>> import jax
        >>> from poolax import backbones, data
        >>> from poolax.training import task_for
        >>> config = backbones.ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
        >>> vit = backbones.ViT.init(config, jax.random.key(0), backbones.ImagePreprocess(scale=1 / 16))
        >>> digits = data.load("digits").subset(200)
        >>> advice = advise(vit, digits, task_for(digits), poolers=["avg", "max"])
        >>> advice.recommended in ("avg", "max"), advice.sentence.startswith("Take ")
        (True, True)
    """
    check_instance("backbone", backbone, Backbone, "a Backbone")
    check_instance("dataset", dataset, Dataset, "a Dataset")
    started = time.monotonic()
    limits = limits or Limits()
    task.check_targets(dataset.targets)
    if max_tokens is not None:
        backbone = with_max_tokens(backbone, dataset.inputs, max_tokens)
    room = room_for(backbone, dataset, minutes=minutes, limits=limits, seed=seed)
    asked = Asked(minutes, poolers, out, seed, limits, progress)
    return advise_on_all(backbone, room.cut(dataset, seed), task, asked, started=started)


def advise_on_all(
    backbone: Backbone, dataset: Dataset, task: Task, asked: Asked, *, started: float
) -> Advice:
    """What :func:`advise` says where all examples of the splits are read.

    Args:
        backbone: A frozen backbone.
        dataset: All of whose splits is read.
        task: What heads predict.
        asked: What is asked.
        started: When, by ``time.monotonic``, from which on the time counts.

    Returns:
        The advice.
    """
    given = labelled(POOLERS if asked.poolers is None else asked.poolers)
    named = {
        label: FirstPool() if pooler == "last" and backbone.summary_token == "first" else pooler
        for label, pooler in given.items()
    }
    used = used_by(dataset)
    collected: Any = pass_over(backbone, dataset, used, asked.limits).collect(asked.progress)
    num_skipped, notes = not_pooled(backbone), dataset.notes
    if num_skipped:
        note = f"{num_skipped} tokens in front are not pooled, as the checkpoint says of its prompt"
        notes = (*notes, note)
    return _advise(
        np.asarray(collected.states),
        None if collected.mask is None else np.asarray(collected.mask),
        jax.tree.map(lambda array: np.asarray(array)[used], dataset.targets),
        task,
        dataclasses.replace(asked, poolers=named, name=asked.name or backbone.name),
        splits={name: np.searchsorted(used, part) for name, part in dataset.splits.items()},
        notes=notes,
        num_skipped=num_skipped,
        features_s=time.monotonic() - started,
    )


def advise_states(
    states: Float[np.ndarray, "N *parts n d"],
    mask: Bool[np.ndarray, "N *parts n"] | None,
    targets: Any,
    task: Task,
    *,
    splits: Splits | None = None,
    minutes: float | None = None,
    poolers: Sequence[PoolerLike] | Mapping[str, PoolerLike] | None = None,
    out: epath.PathLike | None = None,
    seed: int = 0,
    limits: Limits | None = None,
    progress: Progress = no_progress,
) -> Advice:
    """Which pooler to put on token states of any model, why, and how sure that is.

    All heads are trained to the end (``solver="converged"``): of poolers without parameters one a
    split, of the others one by either of two learning rates, and two more of those that are not worse
    than the best by validation beyond noise. Those that can be the average start as it, with its head,
    and all of them are trained with four times the steps as far as that gains something; where there
    are ``minutes``, and time is left, with sixteen times. The best by validation is compared with every
    other one on the test examples, which had no part in that choice. Where others are not worse beyond
    noise, the cheapest of them is recommended: of fewest parameters, then of the smallest Lipschitz
    factor.

    Args:
        states: Token states, shape ``(N, n, d)``; ``(N, parts, n, d)`` for a task whose examples have
            several sequences.
        mask: True at real tokens, shape ``(N, n)`` or ``(N, parts, n)``; ``None`` if all are real.
        targets: Targets, shape ``(N, ...)``, or a mapping from names to such arrays.
        task: What heads predict.
        splits: Indices of ``"train"``, ``"validation"`` and ``"test"``; ``None`` for a stratified fifth
            as test and cross-validation of the rest.
        minutes: Time for all of it; ``None`` for as long as it takes.
        poolers: Names or poolers, or a mapping from labels to them; ``None`` for the usual ones.
        out: Folder for records and heads; ``None`` keeps nothing but what is returned.
        seed: Of everything random.
        limits: Memory, devices, checkpoints.
        progress: Called with a description, the number done and the total.

    Returns:
        The advice.

    Raises:
        ValueError: for an unknown pooler, numbers out of range, shapes that do not fit, or too few
            examples.
        PreemptedError: if asked to stop; the same call goes on from heads that are finished in ``out``.

    Example:
        >>> from poolax.training import Classification
        >>> rng = np.random.default_rng(0)
        >>> labels = rng.integers(0, 2, 400)
        >>> states = rng.normal(size=(400, 6, 8)).astype(np.float32)
        >>> states[:, -1, 0] += 4 * labels  # the last token knows
        >>> advice = advise_states(states, None, labels, Classification(2), poolers=["avg", "last"])
        >>> advice.recommended, advice.decided
        ('last', True)
    """
    return _advise(
        np.asarray(states),
        None if mask is None else np.asarray(mask),
        jax.tree.map(np.asarray, targets),
        task,
        Asked(minutes, poolers, out, seed, limits or Limits(), progress),
        splits=splits,
    )


def _advise(
    states: np.ndarray,
    mask: np.ndarray | None,
    targets: Any,
    task: Task,
    asked: Asked,
    *,
    splits: Splits | None,
    notes: tuple[str, ...] = (),
    num_skipped: int = 0,
    features_s: float = 0.0,
) -> Advice:
    seed, out = asked.seed, asked.out
    check_count("seed", seed, at_least=0)
    started = time.monotonic() - features_s
    seconds = _seconds(asked.minutes)
    deadline = end = None
    if seconds is not None:
        end = started + seconds
        deadline = end - min(_AFTERWARDS + _SHARE_AFTERWARDS * seconds, _LARGEST_SHARE * seconds)
    poolers = labelled(POOLERS if asked.poolers is None else asked.poolers)
    modules = {label: as_module(pooler) for label, pooler in poolers.items()}
    runs = runs_of(targets, splits, seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = epath.Path(temporary if out is None else out)
        how = (runs, folder, asked.limits, asked.name, num_skipped)
        sweeper = Sweeper(states, mask, targets, task, *how)
        fixed = [label for label, module in modules.items() if is_fixed(module, states.shape)]
        learned = [label for label in modules if label not in fixed]

        def say(label: str) -> None:
            asked.progress(f"heads of {label}", list(modules).index(label), len(modules))

        def train(label, of, rate, length, should_stop):
            return sweeper.heads(label, modules[label], of, rate, length, should_stop)

        about = {
            "data": fingerprint((states, mask, targets, runs.splits)),
            "poolers": {label: describe(module) for label, module in modules.items()},
            "seed": seed,
        }
        clock = Clock.of(deadline, asked.minutes, None if out is None else folder, about)
        trained = train_in_rounds(train, fixed, learned, runs, clock=clock, say=say)
        heads = {label: load_head(sweeper.directory(label, trained)) for label in trained.rows}
        tokens = evidence.Tokens.of(states, mask, runs.test, num_skipped)
        prices = {label: evidence.price(head, tokens) for label, head in heads.items()}
        validation = {label: trained.validation(label) for label in trained.rows}
        scores = statistics.resample(trained.predictions("test"), seed=seed)
        choice = choose(validation, scores, prices)
        taken = choice.recommended
        rate, length = trained.records(taken)[0]["learning_rate"], trained.lengths.get(taken, 1)
        of_half = (sweeper.on_half, taken, modules[taken], seed, rate, length)
        last = clock if clock.left <= 0 else clock.until(end)
        half = last.within("half of the examples", *of_half)
    test = {label: scores.interval(label) for label in trained.rows}
    leading = sorted(choice.equals, key=lambda label: prices[label].key)[:_LEADING]
    first = trained.records(choice.best)[0]
    vectors = {label: evidence.pooled(head, tokens) for label, head in heads.items()}
    shown = dict.fromkeys((choice.recommended, choice.best, *leading))
    reasons = (
        runs.note,
        *reasons_of_scores(choice, test, validation, first, half),
        *evidence.reasons_of_vectors(heads, vectors, tokens.median_length),
        *evidence.reasons_of_noise({label: heads[label] for label in shown}, tokens),
        *evidence.reasons_of_heads(
            {label: trained.records(label) for label in trained.rows},
            [label for label in trained.rows if not trained.has_ended(label)],
        ),
        *evidence.reasons_of_time(trained.in_question, trained.left_out),
        *notes,
    )
    # Past the end there is time for one curve at most.
    drawn = {label: heads[label] for label in ([taken] if clock.until(end).left <= 0 else shown)}
    return Advice(
        recommended=choice.recommended,
        runner_up=choice.runner_up,
        decided=choice.decided,
        comparisons=choice.comparisons,
        reasons=reasons,
        cost={
            "seconds": round(time.monotonic() - started, 1),
            "features_seconds": round(features_s, 1),
            "heads_seconds": {label: round(s, 1) for label, s in trained.wall_s.items()},
            "num_parameters": {label: price.num_parameters for label, price in prices.items()},
            "lipschitz_factor": {label: price.factor for label, price in prices.items()},
        },
        best=choice.best,
        validation=validation,
        test=test,
        metric=first["metric"],
        higher_is_better=first["higher_is_better"],
        baseline=first.get("baseline"),
        records=Records(row for label in trained.rows for row in trained.records(label)),
        curves=evidence.curves(drawn, tokens, vectors, seed=seed),
        head=heads[choice.recommended],
        directory=None if out is None else sweeper.directory(choice.recommended, trained),
    )


def _seconds(minutes: float | None) -> float | None:
    if minutes is None:
        return None
    check_number("minutes", minutes, above=0.0)
    return _SECONDS * minutes
