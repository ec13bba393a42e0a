"""A data set from examples, their labels or values, and the splits that are given."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from poolax._dataset import Dataset
from poolax._inputs import Inputs
from poolax._splits import TooFewExamplesError
from poolax.data._labels import ordered_labels
from poolax.data._own._split import complete_splits

LICENCE = "not stated"


@dataclasses.dataclass(frozen=True)
class Splitting:
    """How examples that no split was given for are split.

    Attributes:
        validation: Share that is cut off for validation; ``None`` for a tenth where none
            is given.
        test: Share that is cut off for the test; ``None`` likewise.
        seed: Seed of the choice.
    """

    validation: float | None = None
    test: float | None = None
    seed: int = 0


def labelled(
    name: str,
    inputs: Inputs | np.ndarray,
    labels: Sequence[str],
    given: Mapping[str, Int[np.ndarray, "_"]],
    splitting: Splitting,
    place: Callable[[int], str],
    *,
    source: str,
    class_names: Sequence[str] | None = None,
    notes: tuple[str, ...] = (),
    mask: np.ndarray | None = None,
) -> Dataset:
    """A data set with labels.

    Args:
        name: Its name.
        inputs: Raw inputs, ``N`` of them.
        labels: A word for each.
        given: Splits that are given, ``"train"`` among them.
        splitting: How the others are cut off it.
        place: Gives what an error calls an example.
        source: Where the data come from.
        class_names: All classes in their order; ``None`` for those that stand in the training split.
        notes: What was decided.
        mask: True at real tokens; ``None`` if all are.

    Returns:
        The data set.

    Raises:
        ValueError: for one class alone, labels that the training split has none of, and fewer training
            examples than classes.
    """
    known = tuple(class_names) if class_names is not None else ordered_labels(labels)
    if len(known) < 2:
        only = f"{known[0]!r} alone" if known else "none"
        raise ValueError(f"{source}: expected labels of two classes or more, got {only}")
    if len(known) >= len(labels):
        raise TooFewExamplesError(
            f"{source}: expected fewer classes than examples, got {len(known)} of {len(labels)}; "
            "score_column names numbers to predict"
        )
    numbers = {label: number for number, label in enumerate(known)}
    targets = np.array([numbers[label] for label in labels], np.int32)
    splits, cut = complete_splits(given, targets, **dataclasses.asdict(splitting))
    _check_classes(targets, splits, known, place, source)
    return Dataset(
        name=name,
        inputs=inputs,
        targets=targets,
        splits=splits,
        source=source,
        licence=LICENCE,
        mask=mask,
        num_classes=len(known),
        class_names=known,
        notes=(*notes, *cut),
    )


def valued(
    name: str,
    inputs: Inputs | np.ndarray,
    values: Float[np.ndarray, "N *values"],
    given: Mapping[str, Int[np.ndarray, "_"]],
    splitting: Splitting,
    *,
    source: str,
    notes: tuple[str, ...] = (),
    mask: np.ndarray | None = None,
) -> Dataset:
    """A data set with numbers to predict; arguments as for :func:`labelled`."""
    splits, cut = complete_splits(given, None, **dataclasses.asdict(splitting))
    return Dataset(
        name=name,
        inputs=inputs,
        targets=np.asarray(values, np.float32),
        splits=splits,
        source=source,
        licence=LICENCE,
        mask=mask,
        notes=(*notes, *cut),
    )


def _check_classes(targets, splits, known, place, source):
    train = splits["train"]
    seen = np.unique(targets[train])
    if len(train) < len(known):
        raise TooFewExamplesError(
            f"{source}: expected at least a training example for each of the {len(known)} classes, got "
            f"{len(train)}"
        )
    if len(seen) == 1:
        raise ValueError(
            f"{source}: expected training labels of two classes or more, got {known[seen[0]]!r} alone"
        )
    for split, indices in splits.items():
        unseen: Any = np.setdiff1d(targets[indices], seen)
        if split != "train" and len(unseen):
            first = indices[targets[indices] == unseen[0]][0]
            label, others = known[unseen[0]], len(unseen) - 1
            more = f" (and {others} more such labels)" if others else ""
            raise ValueError(
                f"{place(int(first))}: expected a label that the training split has, got {label!r} in "
                f"{split}{more}"
            )
