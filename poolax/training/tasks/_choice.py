"""The task that a data set's targets are for."""

from collections.abc import Mapping

import numpy as np

from poolax._dataset import Dataset
from poolax._inputs import dtype_of
from poolax.training.tasks._base import Task
from poolax.training.tasks._classification import Classification, PairClassification
from poolax.training.tasks._regression import Regression
from poolax.training.tasks._segmentation import Segmentation
from poolax.training.tasks._series import Forecasting, Imputation
from poolax.training.tasks._texts import SentenceCompletion, SentenceSimilarity


def _are_texts(inputs) -> bool:
    dtype = dtype_of(inputs)
    return dtype is not None and dtype.kind in "OU"


def task_for(dataset: Dataset) -> Task:
    """The task that the targets of a data set are for.

    Args:
        dataset: With labels, numbers, scores of pairs, or values of series.

    Returns:
        :class:`Classification` for labels, :class:`PairClassification` for those of pairs of texts;
        :class:`SentenceCompletion` for those of a context and as many endings; :class:`Segmentation`
        for labels of cells; :class:`SentenceSimilarity` for a score of each pair; :class:`Regression`
        for other numbers; :class:`Forecasting` for ``values`` of series, or :class:`Imputation` where
        these lie within the inputs.

    Raises:
        ValueError: for targets of no task.

    Example:
        >>> from poolax import data
        >>> task_for(data.load("digits"))
        Classification(num_classes=10)
    """
    targets = dataset.targets
    if isinstance(targets, Mapping):
        if set(targets) == {"values", "shift", "scale"}:
            steps = targets["values"].shape[1]
            # What is to be filled in lies where the inputs are hidden; what follows hides nothing.
            hidden = np.isnan(targets["values"]).any() and steps == dataset.inputs.shape[1]
            return Imputation(steps) if hidden else Forecasting(steps)
        raise ValueError(f"task: expected to be given for targets {', '.join(targets)}, got none")
    if targets.ndim == 1 and dataset.num_classes is not None:
        num_texts = dataset.inputs.shape[1:] if _are_texts(dataset.inputs) else ()
        if num_texts == (2,):
            return PairClassification(dataset.num_classes)
        if num_texts == (1 + dataset.num_classes,):  # a context and its endings
            return SentenceCompletion(dataset.num_classes)
        return Classification(dataset.num_classes)
    if targets.ndim == 3 and dataset.num_classes is not None:
        return Segmentation(dataset.num_classes, targets.shape[1])
    if np.issubdtype(targets.dtype, np.floating) and targets.ndim <= 2:
        if targets.ndim == 2:
            return Regression(targets.shape[1])
        if dataset.inputs.shape[1:] == (2,):
            return SentenceSimilarity()
    raise ValueError(
        f"task: expected to be given for targets {targets.dtype} of shape {targets.shape}, got none"
    )
