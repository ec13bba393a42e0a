"""A long series as a data set of its steps: what is stored, since windows would repeat it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from poolax._dataset import Dataset
from poolax.data.series._series import SPLITS, Series


def rows_of_series(series: Series) -> tuple[Dataset, dict[str, Any]]:
    """The steps of a series as examples.

    Args:
        series: The series.

    Returns:
        Inputs float64 ``(time, channels)`` without targets, split at the borders, and the names of the
        channels.
    """
    ends = (0, *series.borders)
    dataset = Dataset(
        name=series.name,
        inputs=series.values,
        targets={},
        splits={split: np.arange(*ends[index : index + 2]) for index, split in enumerate(SPLITS)},
        source=series.source,
        licence=series.licence,
        notes=series.notes,
    )
    return dataset, {"channels": list(series.names)}


def series_of_rows(rows: Dataset, attributes: Mapping[str, Any]) -> Series:
    """The series that :func:`rows_of_series` took apart, without its dates."""
    train, validation, test = (int(rows.splits[split][-1]) + 1 for split in SPLITS)
    return Series(
        name=rows.name,
        values=np.asarray(rows.inputs),
        names=tuple(attributes["channels"]),
        borders=(train, validation, test),
        source=rows.source,
        licence=rows.licence,
        notes=rows.notes,
    )
