"""How many examples of a data set there is time and memory for."""

import dataclasses
import time
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from poolax._checks import check_number
from poolax._dataset import Dataset
from poolax._progress import no_progress
from poolax.backbones import Backbone, TextPreprocess
from poolax.training._engine.limits import Limits
from poolax.training._states.features import FeaturePass

_SHARE_OF_FEATURES = 0.4
# So many examples are read whatever the time is.
_ALWAYS = 4000
_SAMPLED = 1000
_SECONDS = 60.0
_FLOAT32 = 4


class Room(NamedTuple):
    """How many examples may be read.

    Attributes:
        num_examples: So many.
        why: What there is no more of: ``"memory"`` or ``"time"``.
    """

    num_examples: int
    why: str

    def cut(self, dataset: Dataset, seed: int) -> Dataset:
        """The data set with a share of each split, chosen at random, which its notes say."""
        total = len(used_by(dataset))
        if total <= self.num_examples:
            return dataset
        rng = np.random.default_rng(seed)
        splits = {
            name: np.sort(rng.permutation(part)[: max(2, int(self.num_examples / total * len(part)))])
            for name, part in dataset.splits.items()
        }
        read = f"read {self.num_examples} of {total} examples"
        note = f"{read}, chosen at random: there is no more {self.why}"
        return dataclasses.replace(dataset, splits=splits, notes=(note, *dataset.notes))


def room_for(
    backbone: Backbone, dataset: Dataset, *, minutes: float | None, limits: Limits, seed: int
) -> Room:
    """The examples of a data set whose token states a backbone can make in time, and memory can hold.

    Args:
        backbone: A frozen backbone.
        dataset: The data set.
        minutes: For all that is done with the states; ``None`` for as long as it takes.
        limits: Memory and devices.
        seed: Of the examples that time is measured on.
    """
    used = used_by(dataset)
    passed = pass_over(backbone, dataset, used, limits)
    room = Room(limits.budget // (_FLOAT32 * int(np.prod(passed.shape[1:]))), "memory")
    if minutes is None or len(used) <= _ALWAYS:
        return room
    check_number("minutes", minutes, above=0.0)
    rate = _examples_per_second(backbone, dataset, limits, seed)
    return min(room, Room(int(rate * _SHARE_OF_FEATURES * _SECONDS * minutes), "time"))


def used_by(dataset: Dataset) -> Int[np.ndarray, " used"]:
    """The examples that any split holds."""
    return np.unique(np.concatenate([np.asarray(part) for part in dataset.splits.values()]))


def not_pooled(backbone: Backbone) -> int:
    """Tokens in front of every text that are not to be pooled, as the checkpoint says of its prompt."""
    prepare = backbone.preprocessing
    return prepare.tokens_not_pooled() if isinstance(prepare, TextPreprocess) else 0


def pass_over(
    backbone: Backbone, dataset: Dataset, indices: Int[np.ndarray, " used"], limits: Limits
) -> FeaturePass:
    """The pass of a backbone over some examples, which is not run yet."""
    return FeaturePass(
        backbone,
        dataset.inputs,
        dataset.mask,
        indices=indices,
        should_stop=limits.should_stop,
        mapping=limits.mapping,
    )


def _examples_per_second(backbone: Backbone, dataset: Dataset, limits: Limits, seed: int) -> float:
    """How fast token states are made, compilation counted, so that there is rather more time."""
    train = np.asarray(dataset.splits["train"])
    some = np.random.default_rng(seed).permutation(train)[:_SAMPLED]
    started = time.monotonic()
    pass_over(backbone, dataset, np.sort(some), limits).collect(no_progress)
    return len(some) / (time.monotonic() - started)
