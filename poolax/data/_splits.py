"""Splits that publishers leave open: fixed, and stratified where there are labels."""

from collections.abc import Mapping

import numpy as np

from poolax._splits import TooFewExamplesError

HELD_OUT_NOTE = (
    "validation is a stratified tenth of the published training split "
    "(sklearn train_test_split, test_size=0.1, random_state=0)"
)


def hold_out(
    splits: Mapping[str, np.ndarray], labels: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Cut a tenth of the training split as validation, always the same one.

    Args:
        splits: Indices of ``"train"`` and ``"test"``.
        labels: Labels of all examples, whose shares both parts keep; ``None`` for a cut at random.

    Returns:
        Indices of ``"train"``, ``"validation"`` and ``"test"``.

    Raises:
        ValueError: if a class has too few training examples to be in both parts.
    """
    train, validation = _cut(splits["train"], 0.1, labels)
    return {"train": train, "validation": validation, "test": splits["test"]}


def three_splits(
    num_examples: int, train_share: float, labels: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Cut all examples into three splits, always the same ones.

    Args:
        num_examples: Number of examples.
        train_share: Share of the training split; validation and test have half of the rest each.
        labels: Labels of all examples, whose shares all splits keep; ``None`` for cuts at random.

    Returns:
        Indices of ``"train"``, ``"validation"`` and ``"test"``.

    Raises:
        ValueError: if a class has too few examples to be in all of them.
    """
    train, rest = _cut(np.arange(num_examples), 1 - train_share, labels)
    validation, test = _cut(rest, 0.5, labels)
    return {"train": train, "validation": validation, "test": test}


def _cut(indices, share, labels):
    """Indices in two parts, of which the second has the share."""
    from sklearn.model_selection import train_test_split

    strata = None if labels is None else labels[indices]
    try:
        parts = train_test_split(indices, test_size=share, stratify=strata, random_state=0)
    except ValueError as error:
        raise TooFewExamplesError(
            f"splits: expected enough examples of each class to cut {share:.0%} off, got "
            f"{len(indices)} in all: {error}"
        ) from None
    return tuple(np.sort(part) for part in parts)
