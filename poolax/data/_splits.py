"""The validation split, where the publisher has none."""

from collections.abc import Mapping

import numpy as np

VALIDATION_NOTE = (
    "validation is a stratified tenth of the published training split "
    "(sklearn train_test_split, test_size=0.1, random_state=0)"
)


def hold_out(
    splits: Mapping[str, np.ndarray], labels: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The splits with a fixed tenth of ``"train"`` as ``"validation"``, stratified by ``labels``."""
    from sklearn.model_selection import train_test_split

    train = splits["train"]
    try:
        kept, held = train_test_split(
            train,
            test_size=0.1,
            random_state=0,
            stratify=None if labels is None else labels[train],
        )
    except ValueError as error:
        raise ValueError(
            f"train: expected enough examples to cut validation from, got {len(train)}: {error}"
        ) from None
    return {"train": np.sort(kept), "validation": np.sort(held), "test": splits["test"]}
