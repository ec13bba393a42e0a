"""Splits and seeds of the heads that an advice stands on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from poolax._splits import TooFewExamplesError
from poolax.training._folds import NUM_FOLDS, even_folds
from poolax.training.arguments import check_splits

Splits = Mapping[str, Int[np.ndarray, "_"]]

# Fewer validation examples say too little to choose by.
FEWEST_VALIDATION = 50
NUM_SEEDS = 3


@dataclasses.dataclass(frozen=True)
class Runs:
    """The splits of each run of a head, and its seed.

    Attributes:
        splits: Of each run; the test split is the same in all of them.
        seeds: Of each run.
        is_crossed: Whether runs hold out another part of the training examples each, so that a pooler
            without parameters has another head in each of them.
        note: How it is chosen, for people.
    """

    splits: tuple[Splits, ...]
    seeds: tuple[int, ...]
    is_crossed: bool
    note: str

    @property
    def test(self) -> Int[np.ndarray, " N"]:
        """Test examples."""
        return self.splits[0]["test"]


def runs_of(targets: Any, splits: Splits | None, seed: int) -> Runs:
    """The runs for given splits, or for none.

    Args:
        targets: Of all examples, one row each.
        splits: Indices of ``"train"``, ``"validation"`` and ``"test"``; ``None`` for a stratified fifth
            as test and cross-validation of the rest, which is also done where there are fewer than 50
            validation examples.
        seed: Of folds and of heads.

    Raises:
        ValueError: for splits that overlap, or too few examples.
    """
    num_examples = len(jax.tree.leaves(targets)[0])
    if splits is not None:
        check_splits(splits, num_examples)
        given = {name: np.asarray(part) for name, part in splits.items()}
        num_validation = len(given["validation"])
        if num_validation >= FEWEST_VALIDATION:
            note = f"chosen by {num_validation} validation examples"
            seeds = tuple(range(seed, seed + NUM_SEEDS))
            return Runs((given,) * NUM_SEEDS, seeds, is_crossed=False, note=note)
        rest, test = np.concatenate([given["train"], given["validation"]]), given["test"]
        why = f"{num_validation} validation examples are too few to choose by"
    else:
        if num_examples < 2 * NUM_FOLDS:
            raise TooFewExamplesError(
                f"states: expected at least {2 * NUM_FOLDS} examples to split, got {num_examples}"
            )
        rest, test = even_folds(np.arange(num_examples), targets, seed)[0]
        why = f"a fifth of the examples, {len(test)}, stratified where there are classes, is the test"
    parts = even_folds(rest, targets, seed)
    # As many in each, so that one program trains all of them.
    fewest = min(len(train) for train, _ in parts)
    crossed = tuple(
        {"train": np.sort(train[:fewest]), "validation": np.sort(held_out), "test": np.sort(test)}
        for train, held_out in parts
    )
    note = f"chosen by cross-validation over {len(crossed)} parts of {len(rest)} examples; {why}"
    seeds = tuple(range(seed, seed + len(crossed)))
    return Runs(crossed, seeds, is_crossed=True, note=f"{note} (seed {seed})")
