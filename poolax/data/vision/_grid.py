"""Grids of cells on square images."""

from collections.abc import Iterator

import numpy as np

from poolax._checks import check_count
from poolax._dataset import Dataset
from poolax._inputs import dtype_of

_BATCH = 256


def grid_of(dataset: Dataset, output_grid: int | None) -> tuple[int, int]:
    """Cells and pixels a side: at most one cell a pixel, and cells of whole pixels.

    Args:
        dataset: Square images ``(N, side, side, channels)``.
        output_grid: Cells a side that are asked for; ``None`` for one a pixel.

    Returns:
        Cells a side and pixels a side.
    """
    shape = dataset.inputs.shape
    if len(shape) != 4 or shape[1] != shape[2]:
        raise ValueError(
            f"dataset: expected square images of shape (N, side, side, channels), got {shape}"
        )
    side = shape[1]
    if output_grid is None:
        return side, side
    check_count("output_grid", output_grid)
    grid = min(output_grid, side)
    if side % grid:
        raise ValueError(f"output_grid: expected a divisor of {side} pixels a side, got {output_grid}")
    return grid, side


def white_of(dataset: Dataset) -> float:
    """The value of white: 255 of uint8, otherwise the largest value of the data."""
    dtype = dtype_of(dataset.inputs)
    if dtype == np.uint8:
        return 255.0
    if not isinstance(dataset.inputs, np.ndarray):
        raise ValueError(f"dataset: expected images of dtype uint8 or an array, got dtype {dtype}")
    white = float(dataset.inputs.max())
    if not white > 0:
        raise ValueError(f"dataset: expected images with a value above 0, got at most {white:g}")
    return white


def batches(dataset: Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The images of all splits with their indices, a few at a time."""
    used = np.unique(np.concatenate([np.asarray(split) for split in dataset.splits.values()]))
    for start in range(0, len(used), _BATCH):
        chosen = used[start : start + _BATCH]
        yield chosen, dataset.inputs[chosen]
