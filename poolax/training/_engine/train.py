"""Training heads of one or several structures on one source of token states."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from poolax._memory import give_back_memory, keep_programs_few
from poolax._progress import Progress, no_progress
from poolax.training._engine.best import Best, Until
from poolax.training._engine.evaluation import Evaluation, metrics_of
from poolax.training._engine.feed import Feed, Protocol
from poolax.training._engine.keeping import Keeper
from poolax.training._engine.programs import Structure, Tokens, head_programs, keeps_places
from poolax.training._runs import Batches, Sums
from poolax.training._states.lengths import Lengths, Slots, plan_slots
from poolax.training._states.sources import TokenSource
from poolax.training._states.views import WHOLE, View
from poolax.training.tasks import Task

# What is kept of heads in training: another number where a state of the one before cannot go on.
STATE_FORMAT = 2
# Seeds for which steps are planned together.
_SEEDS = 5
# Parameters of a pooler that are as quick as reading a token.
_LIGHT = 2000


@dataclasses.dataclass(frozen=True)
class HeadGroup:
    """Heads of one structure, which are trained in one compiled step.

    Attributes:
        module: The structure.
        runs: Learning rate and seed of each run.
        num_groups: Heads of each run, each on states of its own.
        view: What the heads see of token states.
        lipschitz: From parameters with leading axes (group, run) to the Lipschitz constants of these
            heads, shape (group, run); ``None`` where it is not known.
        start: Parameters of one head that all runs start from, a part of the tree, in place of drawn
            ones; what stands there before the first step may be the best state. ``None`` for none.
    """

    module: nn.Module
    runs: tuple[tuple[float, int], ...]
    num_groups: int = 1
    view: View = WHOLE
    lipschitz: Callable[[PyTree], np.ndarray] | None = None
    start: Mapping[str, Any] | None = None

    @property
    def structure(self) -> Structure:
        """What its programs depend on."""
        return Structure(self.module, self.view)


@dataclasses.dataclass(frozen=True)
class TrainedHeads:
    """All heads of one structure after training; leading axes (group, run).

    Attributes:
        variables: Variables on the host.
        train_loss: Mean loss of each epoch, shape (group, run, epochs).
        gradient_norm: Mean norm of the gradient of each epoch's steps, shape (group, run, epochs).
        validation_loss: After each epoch, shape (group, run, epochs).
        validation_score: The task's first metric after each epoch, shape (group, run, epochs).
        lipschitz: Lipschitz constant of the heads after each epoch, shape (group, run, epochs); NaN
            where it is not known.
        validation_metrics: Each metric after the last epoch, shape (group, run).
        test_metrics: Each metric after the last epoch, shape (group, run).
        test_scores: Score of each test example, shape (group, run, N, ...).
        validation_scores: Likewise of each validation example.
        answers: What :meth:`Task.answer` gives of each example of ``"validation"`` and ``"test"``, by
            name, each of shape (group, run, N, ...).
        diverged: Whether a loss was not finite, shape (group, run).
        diverged_step: Step whose loss or gradient was not finite, after which the head stood still; -1
            where there is none.
        num_steps: Steps of an epoch.
        best: Which epoch each head is of, and after how many it stopped; ``None`` where all are of the
            last one.
    """

    variables: PyTree
    train_loss: np.ndarray
    gradient_norm: np.ndarray
    validation_loss: np.ndarray
    validation_score: np.ndarray
    lipschitz: np.ndarray
    validation_metrics: Mapping[str, np.ndarray]
    test_metrics: Mapping[str, np.ndarray]
    test_scores: np.ndarray
    validation_scores: np.ndarray
    answers: Mapping[str, Mapping[str, np.ndarray]]
    diverged: np.ndarray
    diverged_step: np.ndarray
    num_steps: int
    best: Best | None = None


def train_groups(
    source: TokenSource,
    groups: Sequence[HeadGroup],
    targets: PyTree,
    task: Task,
    protocol: Protocol,
    *,
    splits: Mapping[str, np.ndarray],
    keeper: Keeper | None = None,
    progress: Progress = no_progress,
    description: str = "heads",
) -> list[TrainedHeads]:
    """Train heads with Adam at a constant learning rate: runs vmapped, epochs scanned.

    The seed of a run sets its initialisation and, unless the order is shared, the order of its batches,
    whatever runs beside it. How far texts are padded follows from the training split and from the runs
    of ``protocol.all_runs``, in whose last bits heads differ from those that are planned by others.

    Args:
        source: Token states.
        groups: Structures; several take turns on the same states.
        targets: Targets, shape ``(N, ...)``, or a mapping to such arrays.
        task: Loss and score.
        protocol: How.
        splits: Indices of ``"train"``, ``"validation"`` and ``"test"``.
        keeper: Keeps the state while it goes on.
        progress: Called with the description, the number of epochs done and the total.
        description: For ``progress``.

    Returns:
        The heads of each group.

    Raises:
        PreemptedError: if the keeper was asked to stop.
    """
    keeper = keeper or Keeper(None)
    # Sweeps over many data sets compile hundreds of programs.
    keep_programs_few()
    give_back_memory()
    splits = {name: np.asarray(indices) for name, indices in splits.items()}
    lengths, padded_to = None, []
    if not (protocol.keeps_places or any(keeps_places(group.module) for group in groups)):
        lengths = Lengths.of(source.mask)
    schedule = None
    if protocol.until is not None:
        num_steps = -(-len(splits["train"]) // protocol.batch_size)
        schedule = protocol.until, protocol.epochs * num_steps
    members = [
        Member(
            group,
            source,
            task,
            protocol,
            _slots(group, Tokens.of(source), lengths, splits["train"], protocol),
            schedule,
        )
        for group in groups
    ]
    if lengths is not None:
        # Not of all groups: which of them are left to train is to change nothing.
        heads = max(len(protocol.planned(group.runs)) for group in groups)
        evaluated = np.concatenate([splits["validation"], splits["test"]])
        padded_to = lengths.groups(evaluated, passes=heads * protocol.epochs)
    feed = Feed(source, targets, splits["train"], protocol, lengths)
    evaluate = Evaluation(
        source, groups, targets, task, lengths, padded_to, keeper.ask, protocol.mapping
    )

    def keep():
        return [member.keep() for member in members]

    step, kept = keeper.restore(keep())
    if kept is not None:
        for member, tree in zip(members, kept, strict=True):
            member.resume(tree)
    elif protocol.until is not None and any(group.start is not None for group in groups):
        params = [member.params for member in members]
        validation = evaluate(params, splits["validation"], with_answers=False)
        parts = zip(members, params, validation.losses, validation.scores, strict=True)
        for member, own, loss, scores in parts:
            if member.group.start is not None:
                metrics = metrics_of(task, scores, targets, splits["validation"])
                member.see_start(own, loss, metrics[task.metric])
    # Steps that are kept are chunks: whole epochs, and chunks of the one that was interrupted.
    chunks = feed.num_chunks
    validation = None
    for epoch in range(step // chunks, protocol.epochs):
        if all(member.has_stopped for member in members):
            break
        for chunk in range(step % chunks if epoch == step // chunks else 0, chunks):
            # States of several structures are read once, while each takes its turn on them.
            for member, data, batches in feed.chunk(members, epoch, chunk):
                member.train(data, batches)
            if chunk + 1 < chunks:
                keeper.after(epoch * chunks + chunk + 1, keep)
        params = [member.params for member in members]
        ends = epoch + 1 == protocol.epochs and protocol.until is None
        validation = evaluate(params, splits["validation"], with_answers=ends)
        parts = zip(members, params, validation.losses, validation.scores, strict=True)
        for member, own, loss, scores in parts:
            metrics = metrics_of(task, scores, targets, splits["validation"])
            member.end_epoch(epoch, own, loss, metrics[task.metric])
        progress(description, epoch + 1, protocol.epochs)
        keeper.after((epoch + 1) * chunks, keep)
    params = [member.final_params for member in members]
    if validation is None or protocol.until is not None:  # resumed after the last, or of another epoch
        validation = evaluate(params, splits["validation"], with_answers=True)
    evaluated = {"validation": validation, "test": evaluate(params, splits["test"], with_answers=True)}
    found = []
    for place, (member, own) in enumerate(zip(members, params, strict=True)):
        scores = {name: part.scores[place] for name, part in evaluated.items()}
        answers = {name: part.answers[place] for name, part in evaluated.items()}
        metrics = {name: metrics_of(task, scores[name], targets, splits[name]) for name in scores}
        loss = evaluated["test"].losses[place]
        found.append(member.result(own, metrics, scores, answers, loss, feed.num_steps))
    keeper.close()
    return found


def _slots(group, tokens, lengths, train, protocol):
    """Places of the examples of a step, by their lengths."""
    if lengths is None:
        return None
    runs = protocol.planned(group.runs)
    seeds = {0}
    if not protocol.shared_order:
        # In fives, so that other seeds of a few are trained by the same program.
        firsts = {seed - seed % _SEEDS for _, seed in runs}
        seeds = {first + place for first in firsts for place in range(_SEEDS)}
    size = sum(leaf.size for leaf in jax.tree.leaves(group.structure.shapes(tokens).get("pooler", {})))
    return plan_slots(
        lengths.longest[train],
        lengths.num_tokens,
        itertools.product(sorted(seeds), range(protocol.epochs)),
        protocol.batch_size,
        # A token costs by what its pooler multiplies it with.
        heads=len(runs) * (1 + size // _LIGHT),
        devices=jax.device_count() if protocol.shard == "batch" else 1,
    )


class Member:
    """A group while it is trained: its state, and what its epochs have given.

    Args:
        group: The structure.
        source: Token states.
        task: Loss and score.
        protocol: How it is trained.
        slots: Places of the examples of a step; ``None`` where all are padded alike.
        schedule: As for :func:`head_programs`.
    """

    def __init__(
        self,
        group: HeadGroup,
        source: TokenSource,
        task: Task,
        protocol: Protocol,
        slots: Slots | None = None,
        schedule: tuple[Until, int] | None = None,
    ):
        own = ("states",) if source.has_groups else ()
        self.group, self.slots = group, slots
        programs = head_programs(
            (),
            group.structure,
            Tokens.of(source),
            task,
            slots,
            own,
            protocol.shard,
            protocol.mapping,
            schedule,
        )
        self._flat, self._trainer = programs.flat, programs.trainer
        rates = np.asarray([rate for rate, _ in group.runs], jnp.result_type(float))
        seeds = np.asarray([seed for _, seed in group.runs], jnp.result_type(int))
        initial = programs.init(seeds)
        if group.start is not None:
            drawn = self._flat.split(np.array(initial))
            initial = jax.vmap(self._flat.join)(replaced(drawn, group.start))
        self._state = self._trainer.init(initial, num_groups=group.num_groups, learning_rate=rates)
        shape = (group.num_groups, len(group.runs))
        zeros = np.zeros(shape, np.float32)
        self._sums = Sums(zeros, zeros, zeros, zeros)
        names = ("train_loss", "gradient_norm", "validation_loss", "validation_score", "lipschitz")
        self._history = {name: np.full((*shape, protocol.epochs), np.nan) for name in names}
        self._best = None
        if schedule is not None:
            self._best = Best(self.params, schedule[0], higher_is_better=task.higher_is_better)

    @property
    def params(self) -> PyTree:
        """Parameters on the host, with leading axes (group, run)."""
        return self._flat.split(self._trainer.take(self._state.params, len(self.group.runs)))

    @property
    def final_params(self) -> PyTree:
        """Those of the last epoch, or of each run's best one."""
        return self.params if self._best is None else self._best.params

    @property
    def has_stopped(self) -> bool:
        """Whether no run has anything left to gain."""
        return self._best is not None and bool(self._best.stopped.all())

    def keep(self) -> PyTree:
        """All that another member needs to go on, on the host."""
        state = self._trainer.take(self._state, len(self.group.runs))
        kept = {"state": state, "sums": self._sums, "history": self._history}
        return kept if self._best is None else {**kept, "best": self._best.keep()}

    def resume(self, tree: PyTree) -> None:
        """Go on from what another member kept."""
        chex.assert_trees_all_equal_shapes_and_dtypes(tree, self.keep())
        self._state = self._trainer.put(tree["state"])
        self._sums, self._history = tree["sums"], dict(tree["history"])
        if self._best is not None:
            self._best.resume(tree["best"])

    def train(self, data: Mapping[str, PyTree], batches: Batches) -> None:
        """Steps on these batches."""
        self._state, sums = self._trainer.steps(self._state, data, batches)
        self._sums = self._sums + sums

    def program(self, data: Mapping[str, PyTree], batches: Batches) -> str:
        """The compiled program of these steps as text."""
        return self._trainer.program(self._state, data, batches)

    def see_start(self, params, validation_loss, validation_score) -> None:
        """Take the state before the first step as one that may be the best."""
        if self._best is not None:
            self._best.see(-1, params, validation_score, validation_loss)

    def end_epoch(self, epoch, params, validation_loss, validation_score) -> None:
        """Write an epoch down."""
        now = {
            "train_loss": self._sums.mean_loss,
            "gradient_norm": self._sums.mean_gradient_norm,
            "validation_loss": validation_loss,
            "validation_score": validation_score,
        }
        if self.group.lipschitz is not None:
            now["lipschitz"] = self.group.lipschitz(params)
        # A new array each time: the old one may be on its way to disk.
        for name, values in now.items():
            history = self._history[name].copy()
            history[..., epoch] = values
            self._history[name] = history
        self._sums = jax.tree.map(np.zeros_like, self._sums)
        if self._best is not None:
            self._best.see(epoch, params, validation_score, validation_loss)

    def result(self, params, metrics, scores, answers, test_loss, num_steps) -> TrainedHeads:
        """What training has given."""
        diverged_step = self._trainer.take(self._state.diverged_step, len(self.group.runs))
        losses = (self._history["train_loss"], self._history["validation_loss"], test_loss[..., None])
        if self._best is not None:  # what came after the best epoch is not used
            losses = (test_loss[..., None],)
        is_finite = np.all([np.isfinite(values).all(-1) for values in losses], axis=0)
        return TrainedHeads(
            variables={"params": params},
            **self._history,
            validation_metrics=metrics["validation"],
            test_metrics=metrics["test"],
            test_scores=scores["test"],
            validation_scores=scores["validation"],
            answers=answers,
            diverged=~is_finite | ((diverged_step >= 0) & (self._best is None)),
            diverged_step=diverged_step,
            num_steps=num_steps,
            best=self._best,
        )


def replaced(tree: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of arrays with leading axes, in which parts are those of every run.

    Args:
        tree: Nested dictionaries of arrays, shape ``(*leading, *shape)``.
        parts: Some of its entries, without leading axes.
    """
    new = dict(tree)
    for name, part in parts.items():
        if isinstance(part, Mapping):
            new[name] = replaced(tree[name], part)
        else:
            new[name] = np.broadcast_to(np.asarray(part, tree[name].dtype), tree[name].shape)
    return new
