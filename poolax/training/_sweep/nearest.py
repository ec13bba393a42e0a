"""What records say of nearest neighbours, beside the score of a linear head."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from poolax._programs import kept_program
from poolax.training._devices import Mapper
from poolax.training._engine.heads import HeadModule
from poolax.training._engine.programs import Structure
from poolax.training._states.sources import TokenSource
from poolax.training.neighbours import NUM_NEIGHBOURS, TEMPERATURE, neighbour_votes
from poolax.training.tasks import Classification, Task

_BATCH = 1024


class Nearest:
    """Scores of nearest neighbours among the vectors of heads, as their records say them.

    Args:
        of: ``"fixed"`` for poolers without parameters, whose vectors are there in any case; ``"all"``
            for those of trained heads as well, which is a pass over the states for each; ``"none"``.
        task: What is predicted.
        targets: Targets of all examples.
        splits: Their splits.
    """

    def __init__(
        self, of: str, task: Task, targets: PyTree, splits: Mapping[str, Int[np.ndarray, "_"]]
    ):
        # Vectors of pairs are compared with each other and not with those of other pairs.
        is_asked = of != "none" and not task.joins_parts
        self._task = task if isinstance(task, Classification) and is_asked else None
        self._trained, self._targets, self._splits = of == "all", targets, splits
        self._fixed: dict[str, dict[str, Any]] = {}

    def of_fixed(self, key: str, vectors: Float[np.ndarray, "N d"]) -> dict[str, Any]:
        """Of a pooler without parameters, whose vectors are the same for all of its heads."""
        if key not in self._fixed:
            self._fixed[key] = self._of(vectors)
        return self._fixed[key]

    def of_head(
        self, structure: Structure, params: PyTree, source: TokenSource, mapping: str
    ) -> dict[str, Any]:
        """Of the vectors of a trained head, where no backbone has to run for them.

        Args:
            structure: The head.
            params: Its parameters.
            source: Token states.
            mapping: How programs are mapped over devices.
        """
        pools = isinstance(structure.module, HeadModule) and not source.is_computed
        if self._task is None or not self._trained or not pools:
            return {}
        return self._of(_trained_vectors(structure, params, source, mapping))

    def _of(self, vectors):
        """``knn`` with its scores; nothing without classes, or for vectors that are not finite."""
        task = self._task
        if task is None or not np.isfinite(vectors).all():
            return {}
        labels, train = np.asarray(self._targets), np.asarray(self._splits["train"])
        scores = {}
        for name in ("validation", "test"):
            own = np.asarray(self._splits[name])
            votes = neighbour_votes(vectors[train], labels[train], vectors[own], task.num_classes)
            found = np.asarray(task.score(jnp.asarray(votes), labels[own]))
            scores[name] = task.metrics(found, labels[own])[task.metric]
        number = min(NUM_NEIGHBOURS, len(train))
        return {"knn": {**scores, "neighbours": number, "temperature": TEMPERATURE}}


def _trained_vectors(structure, params, source, mapping):
    """Vectors of all examples by the pooler of one trained head."""

    def fetch(start, stop):
        tokens = source.fetch(np.arange(start, stop))
        batch = {"states": tokens.states}
        return batch if tokens.mask is None else {**batch, "mask": tokens.mask}

    mapper = _pooling_program((), structure, mapping)
    placed = mapper.place(params.get("pooler", {}))
    return np.concatenate(list(mapper.batches(placed, fetch, source.shape[0])))


@kept_program
def _pooling_program(structure, mapping) -> Mapper:
    def vectors(params, batch):
        states, mask = structure.view.apply(batch["states"], batch.get("mask"))
        return structure.module.pooler.apply({"params": params}, states, mask)

    return Mapper(vectors, _BATCH, mapping=mapping)
