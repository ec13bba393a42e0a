"""Splits of a user's data: as given, or drawn with a seed that the notes name."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from poolax._checks import check_count, check_number
from poolax._splits import SPLITS, TooFewExamplesError

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1
# What people call the splits.
ALIASES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_LEAST = 3


def splits_of_names(names: Sequence[Any], place: Any, argument: str) -> dict[str, np.ndarray]:
    """Indices of each split from the name that each example has.

    Args:
        names: Such as ``"train"``, ``"dev"``, ``"test"``.
        place: Gives what an error calls an example.
        argument: Which argument named the column.

    Raises:
        ValueError: for a name of no split; the error names its line.
    """
    found: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        split = ALIASES.get(str(name).strip().lower())
        if split is None:
            known = ", ".join(ALIASES)
            raise ValueError(f"{place(index)}: {argument}: expected a split ({known}), got {name!r}")
        found.setdefault(split, []).append(index)
    return {split: np.array(found[split]) for split in SPLITS if split in found}


def complete_splits(
    given: Mapping[str, Int[np.ndarray, "_"]],
    labels: Int[np.ndarray, "N"] | None,
    *,
    validation: float | None = None,
    test: float | None = None,
    seed: int = 0,
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """All three splits: those that are given, and the others cut off the training split.

    Args:
        given: Indices of ``"train"``, and of the others where they are given.
        labels: Label of each example, whose shares the parts keep; ``None`` for parts at random.
        validation: Share of the training split that is cut off for validation; ``None`` for a tenth.
        test: Share that is cut off for the test; ``None`` for a fifth.
        seed: Seed of the choice.

    Returns:
        The splits, and notes that say what was cut off and how.

    Raises:
        ValueError: for shares out of range, a seed where nothing is cut off, without a training split,
            and where too few examples are left.
    """
    check_count("seed", seed, at_least=0)
    if "train" not in given:
        raise ValueError(f"splits: expected 'train' among them, got {', '.join(given) or 'none'}")
    splits = {name: np.asarray(indices) for name, indices in given.items()}
    shares = {}
    for name, share, usual in (
        ("test", test, TEST_SHARE),
        ("validation", validation, VALIDATION_SHARE),
    ):
        if share is not None:
            check_number(name, share, above=0.0, below=1.0)
        elif name in splits:
            continue
        shares[name] = usual if share is None else float(share)
    if not shares:
        if seed:
            raise ValueError(f"seed: expected none where all splits are given, got {seed}")
        return splits, ()
    if sum(shares.values()) >= 1:
        raise ValueError(f"validation: expected shares that leave some to train on, got {shares}")
    parts = _cut(splits["train"], shares, labels, np.random.default_rng(seed))
    splits = {**splits, **parts}
    kept = "stratified by label, " if labels is not None else ""
    said = " and ".join(f"{share:.0%} for {name}" for name, share in shares.items())
    note = f"cut off the given training examples: {said} ({kept}seed {seed})"
    return {name: splits[name] for name in SPLITS}, (note,)


def _cut(indices, shares, labels, rng) -> dict[str, np.ndarray]:
    """The indices in parts of these shares and the rest, ``"train"``."""
    groups = [indices]
    if labels is not None:
        groups = [indices[labels[indices] == label] for label in np.unique(labels[indices])]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*shares, "train")}
    for group in groups:
        order = rng.permutation(group)
        for name, share in shares.items():
            # A class of few examples stays in the training split whole: a head has to see it.
            wanted = max(1, round(share * len(group))) if len(group) >= _LEAST else 0
            parts[name].append(order[:wanted])
            order = order[wanted:]
        parts["train"].append(order)
    cut = {name: np.sort(np.concatenate(part)) for name, part in parts.items()}
    for name, part in cut.items():
        if not len(part):
            raise TooFewExamplesError(
                f"{name}: expected enough examples to cut a part off, got {len(indices)} in all"
            )
    return cut
