"""Scores of all heads of a sweep on a split, once for all of them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PyTree

from poolax.training.feed import batch_of
from poolax.training.sources import PooledSource, TokenSource
from poolax.training.step import Mapper
from poolax.training.tasks import Task

_EVALUATION_BATCH = 256


class Evaluation:
    """Mean loss of all heads on some examples, and their scores (group, run, N, ...).

    Args:
        source: Token states.
        groups: Structures.
        targets: Targets of the examples of the source.
        task: Loss and score.
    """

    def __init__(self, source: TokenSource, groups: Sequence[Any], targets: PyTree, task: Task):
        own = isinstance(source, PooledSource)
        self._source, self._targets = source, targets

        def of_group(group, params, batch):
            def of_head(params, batch):
                outputs = group.apply(params, batch)
                return task.loss(outputs, batch["targets"]), task.score(outputs, batch["targets"])

            axes = {name: 1 if own and name == "states" else None for name in batch}
            of_runs = jax.vmap(of_head, in_axes=(0, None))
            of_groups = jax.vmap(of_runs, in_axes=(0, axes))
            # (group, run, batch, ...) to (batch, group, run, ...)
            return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 2, 0), of_groups(params, batch))

        def of_all(params, batch):
            parts = zip(groups, params, strict=True)
            return tuple(of_group(group, own_params, batch) for group, own_params in parts)

        self._mapper = Mapper(of_all, _EVALUATION_BATCH)

    def __call__(
        self, params: Sequence[PyTree], examples: Int[np.ndarray, " num"]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Loss and scores for each group, from parameters with leading axes (group, run)."""

        def fetch(start, stop):
            return batch_of(self._source, self._targets, examples[start:stop], group_axis=1)

        pieces = list(self._mapper.batches(tuple(params), fetch, len(examples)))
        losses, scores = [], []
        for group in range(len(params)):
            loss, score = (np.concatenate([p[group][i] for p in pieces]) for i in (0, 1))
            losses.append(loss.mean(axis=0))
            scores.append(np.moveaxis(score, 0, 2))
        return losses, scores


def metrics_of(
    task: Task, scores: np.ndarray, targets: PyTree, indices: Int[np.ndarray, " num"]
) -> dict[str, np.ndarray]:
    """The task's metrics of scores (group, run, N, ...), each of shape (group, run)."""
    chosen = jax.tree.map(lambda array: array[indices], targets)
    rows = [[task.metrics(of_run, chosen) for of_run in of_group] for of_group in scores]
    return {name: np.array([[run[name] for run in row] for row in rows]) for name in rows[0][0]}
