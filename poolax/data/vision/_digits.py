"""Handwritten digits that come with scikit-learn: real images without a download."""

from typing import Any

import numpy as np

from poolax._dataset import Dataset
from poolax.data._entry import Entry
from poolax.data._splits import three_splits


def digits() -> Dataset:
    """1,797 handwritten digits, 8 by 8 pixels of 17 grey values, ten classes.

    The splits are stratified by class and fixed: 60 % train, 20 % validation, 20 % test.

    Returns:
        The data set; ``inputs`` has shape ``(1797, 8, 8, 1)``, values from 0 to 16.

    Example:
        >>> data = digits()
        >>> data.inputs.shape, {name: len(split) for name, split in data.splits.items()}
        ((1797, 8, 8, 1), {'train': 1078, 'validation': 359, 'test': 360})

    Reference:
        Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits" (UCI, 1998).
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    targets = bunch["target"].astype(np.int32)
    return Dataset(
        name="digits",
        inputs=bunch["images"][..., None].astype(np.float32),
        targets=targets,
        splits=three_splits(len(targets), 0.6, targets),
        source=_SOURCE,
        licence=_LICENCE,
        num_classes=10,
        class_names=tuple(str(digit) for digit in bunch["target_names"]),
        notes=("splits: stratified by class, 60 % train, 20 % validation, 20 % test, fixed",),
    )


_SOURCE = "Optical Recognition of Handwritten Digits (UCI), test part, by scikit-learn"
_LICENCE = "none stated by scikit-learn, which distributes them"

ENTRIES = (
    Entry(
        name="digits",
        modality="vision",
        task="classification",
        title="Handwritten digits of scikit-learn",
        sizes={"train": 1078, "validation": 359, "test": 360},
        source=_SOURCE,
        citation="Alpaydin, Kaynak, Optical Recognition of Handwritten Digits, UCI (1998)",
        licence=_LICENCE,
        preprocessing="none: 8 by 8 pixels, grey values from 0 to 16",
        layout="none: comes with scikit-learn",
        embedded=digits,
        verified=True,
    ),
)
