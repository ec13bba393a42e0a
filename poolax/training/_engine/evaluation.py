"""Scores of all heads of a sweep on a split, once for all of them."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int, PyTree

from poolax.training._engine.feed import batch_of, cut_tokens
from poolax.training._engine.programs import evaluation_program
from poolax.training._states.lengths import Lengths
from poolax.training._states.sources import TokenSource
from poolax.training.tasks import Task


class Evaluated(NamedTuple):
    """What an evaluation gives of each group.

    Attributes:
        losses: Mean losses (group, run).
        scores: Scores (group, run, N, ...).
        answers: What is kept of each example beside, likewise; empty where it is not asked for.
    """

    losses: list[np.ndarray]
    scores: list[np.ndarray]
    answers: list[dict[str, np.ndarray]]


class Evaluation:
    """Mean loss of all heads on some examples, and their scores (group, run, N, ...).

    Args:
        source: Token states.
        groups: Structures.
        targets: Targets of the examples of the source.
        task: Loss and score.
        lengths: Of all examples, where padding may be left out.
        padded_to: Ascending lengths to which examples are padded then.
        ask: Called after each batch of a backbone that runs anew, to stop a run that is to.
        mapping: How programs are mapped over devices; see :class:`Mapper`.
    """

    def __init__(
        self,
        source: TokenSource,
        groups: Sequence[Any],
        targets: PyTree,
        task: Task,
        lengths: Lengths | None = None,
        padded_to: Sequence[int] = (),
        ask: Callable[[], None] = lambda: None,
        mapping: str = "auto",
    ):
        self._ask = ask
        self._lengths, self._padded_to = lengths, padded_to
        own = source.has_groups
        self._source, self._targets = source, targets

        structures = tuple(group.structure for group in groups)
        self._mapper = evaluation_program((), structures, task, own, mapping)

    def __call__(
        self,
        params: Sequence[PyTree],
        examples: Int[np.ndarray, " num"],
        *,
        with_answers: bool = False,
    ) -> Evaluated:
        """Loss, scores and answers for each group, from parameters with leading axes (group, run)."""
        placed = self._mapper.place(tuple(params))
        pieces, order, num_left = [], [], len(examples)
        for rows, length in self._by_length(examples):

            def fetch(start, stop, own=examples[rows], length=length):
                batch = batch_of(self._source, self._targets, own[start:stop], self._lengths)
                return batch if length is None else cut_tokens(batch, length)

            for piece in self._mapper.batches(placed, fetch, len(rows)):
                # After all epochs but the last nobody asks for answers.
                pieces.append(piece if with_answers else [part[:2] for part in piece])
                num_left -= len(piece[0][0])
                if num_left and self._source.is_computed:  # of others it is soon done
                    self._ask()
            order.append(rows)
        back = np.argsort(np.concatenate(order))
        found = Evaluated([], [], [])
        for group in range(len(params)):
            parts = [piece[group] for piece in pieces]
            joined = jax.tree.map(lambda *leaves: np.concatenate(leaves)[back], *parts)
            found.losses.append(joined[0].mean(axis=0))
            found.scores.append(np.moveaxis(joined[1], 0, 2))
            if with_answers:
                found.answers.append(jax.tree.map(lambda leaf: np.moveaxis(leaf, 0, 2), joined[2]))
        return found

    def _by_length(self, examples):
        """Rows of examples that are padded alike, and to which length; ``None`` for all of them."""
        if self._lengths is None or not self._padded_to:
            return [(np.arange(len(examples)), None)]
        own = self._lengths.longest[examples]
        parts = [
            (np.flatnonzero((own > shorter) & (own <= length)), length)
            for shorter, length in itertools.pairwise([0, *self._padded_to])
        ]
        return [(rows, length) for rows, length in parts if len(rows)]


def metrics_of(
    task: Task, scores: np.ndarray, targets: PyTree, indices: Int[np.ndarray, " num"]
) -> dict[str, np.ndarray]:
    """The task's metrics of scores (group, run, N, ...), each of shape (group, run)."""
    chosen = jax.tree.map(lambda array: array[indices], targets)
    rows = [[task.metrics(of_run, chosen) for of_run in of_group] for of_group in scores]
    return {name: np.array([[run[name] for run in row] for row in rows]) for name in rows[0][0]}
