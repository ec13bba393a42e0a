"""What a linear head gets of raw inputs, without a backbone: what poolers of a good one exceed."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Float
from sklearn.feature_extraction.text import TfidfVectorizer

from poolax.data import Dataset
from poolax.training import (
    Classification,
    Forecasting,
    Imputation,
    Inpainting,
    Limits,
    PairClassification,
    Progress,
    Regression,
    Task,
    sweep_states,
)

NAME = "raw"
# A linear head on more words, pixels or steps takes longer than those on the states of a small model.
MOST_WORDS, MOST_PIXELS, MOST_STEPS = 1024, 32, 1024
_SPLITS = ("train", "validation", "test")
# Completions and similarities of texts have rules on raw inputs of their own.
_TASKS = (Classification, PairClassification, Regression, Inpainting, Forecasting, Imputation)


def raw_scores(
    data: Dataset,
    task: Task,
    *,
    out: epath.PathLike | None = None,
    limits: Limits | None = None,
    progress: Progress,
) -> dict[str, dict[str, float]] | None:
    """Scores of a linear head on pixels, on steps or on weights of words, trained to the end.

    Args:
        data: The data set.
        task: What is predicted.
        out: Folder for the head, from which the same call takes it over.
        limits: Memory, devices, checkpoints.
        progress: Called with a description, the number done and the total.

    Returns:
        Metrics on ``"validation"`` and ``"test"``; ``None`` for a task that has no such head.
    """
    if type(task) not in _TASKS:
        return None
    used = np.concatenate([np.asarray(data.splits[name]) for name in _SPLITS])
    ends = np.cumsum([len(data.splits[name]) for name in _SPLITS])
    starts = [0, *ends[:-1]]
    splits = {name: np.arange(*part) for name, *part in zip(_SPLITS, starts, ends, strict=True)}
    rows = raw_rows(data, used, len(splits["train"]))
    [row] = sweep_states(
        rows[..., None, :],
        None,
        jax.tree.map(lambda array: np.asarray(array)[used], data.targets),
        task,
        splits=splits,
        poolers=["avg"],
        seeds=1,
        solver="converged",
        neighbours="none",
        out=out,
        limits=limits,
        progress=progress,
    )
    return {name: row[f"{name}_metrics"] for name in ("validation", "test")}


def with_raw(row: Mapping[str, Any], raw: Mapping[str, Any] | None) -> dict[str, Any]:
    """A head's record with the scores of the linear head on raw inputs among its baselines."""
    if raw is None:
        return dict(row)
    baselines = row.get("baselines", {})
    added = {name: {**baselines.get(name, {}), NAME: values} for name, values in raw.items()}
    return {**row, "baselines": {**baselines, **added}}


def raw_rows(data: Dataset, used: Any, num_train: int) -> Float[np.ndarray, "N *parts d"]:
    """Raw inputs as rows of numbers.

    Args:
        data: The data set.
        used: Which examples, those of the training split in front.
        num_train: How many these are, of which words and their weights are taken.
    """
    raw = np.asarray(data.inputs[used])
    if raw.dtype.kind in "OU":
        words = TfidfVectorizer(max_features=MOST_WORDS, sublinear_tf=True)
        words.fit(np.ravel(raw[:num_train]).tolist())
        found: Any = words.transform(np.ravel(raw).tolist())
        return found.toarray().reshape(*raw.shape, -1).astype(np.float32)
    if raw.ndim == 4:
        raw = averaged(averaged(raw, 1, MOST_PIXELS), 2, MOST_PIXELS)
        return raw.reshape(len(raw), -1).astype(np.float32)
    series = raw.astype(np.float32)
    if data.mask is not None:
        series = np.where(np.asarray(data.mask)[used], series, np.nan)
    seen = np.isfinite(series)
    count = np.maximum(seen.sum(axis=-1, keepdims=True), 1)
    # A step that is not seen says nothing: it stands at the mean of those that are.
    mean = np.where(seen, series, 0).sum(axis=-1, keepdims=True) / count
    filled = averaged(np.where(seen, series, mean), series.ndim - 1, MOST_STEPS)
    return filled.reshape(len(filled), -1).astype(np.float32)


def averaged(array: np.ndarray, axis: int, most: int) -> np.ndarray:
    """An axis brought to ``most`` entries or fewer by means of neighbours; what is left over is cut.

    Example:
        >>> averaged(np.arange(7.0), 0, 3)
        array([1., 4.])
        >>> averaged(np.arange(3), 0, 3)
        array([0, 1, 2])
    """
    size = array.shape[axis]
    if size <= most:
        return array
    step = -(-size // most)
    kept = np.take(array, np.arange(size // step * step), axis=axis)
    shape = (*array.shape[:axis], size // step, step, *array.shape[axis + 1 :])
    return kept.reshape(shape).mean(axis=axis + 1)
