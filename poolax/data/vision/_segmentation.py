"""Segmentation: the class of each cell of a grid."""

import dataclasses

import numpy as np
from jaxtyping import Integer

from poolax._checks import check_count
from poolax._dataset import Dataset
from poolax.data.vision._grid import batches, grid_of, white_of
from poolax.data.vision._images import VOID

OUTPUT_GRID = 32


def segmentation(
    dataset: Dataset, *, output_grid: int = OUTPUT_GRID, threshold: float = 0.5
) -> Dataset:
    """A data set whose targets are classes of the cells of a grid.

    Targets that are maps of labels already are brought to the grid. Where targets are anything else,
    the images are split into foreground, whose grey value lies above a threshold, and background: a
    real task without annotations for images such as :func:`digits`.

    Args:
        dataset: Images, with or without maps of labels.
        output_grid: Cells a side, at most the pixels a side; it divides them.
        threshold: Grey value above which a pixel is foreground, as a share of white.

    Returns:
        The data set with targets ``(N, g, g)``, int32: the label at the centre of each cell. 255 (void)
        is not scored; images of no split are not read and void throughout.

    Raises:
        ValueError: if the grid does not fit the images, or the threshold does not lie between 0 and 1.

    Example:
        >>> from poolax.data import digits
        >>> data = segmentation(digits())
        >>> data.targets.shape, data.class_names
        ((1797, 8, 8), ('background', 'foreground'))
        >>> data.targets[0].sum(axis=0)
        array([0, 0, 5, 3, 4, 5, 0, 0])
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold: expected a number between 0 and 1, got {threshold}")
    targets = dataset.targets
    if isinstance(targets, np.ndarray) and targets.ndim == 3:
        grid = min(output_grid, targets.shape[1])
        note = note_of(grid)
        notes = dataset.notes if note in dataset.notes else (*dataset.notes, note)
        return dataclasses.replace(dataset, targets=grid_labels(targets, grid), notes=notes)
    grid, side = grid_of(dataset, output_grid)
    white = white_of(dataset)
    labels = np.full((len(dataset.inputs), grid, grid), VOID, np.int32)
    for chosen, images in batches(dataset):
        foreground = images.mean(axis=-1, dtype=np.float64) > threshold * white
        labels[chosen] = grid_labels(foreground.astype(np.int32), grid)
    note = (
        f"targets: foreground where the grey value lies above {threshold:g} of white ({white:g}), at "
        f"the centre of each cell of a {grid} by {grid} grid of {side // grid} pixels a side"
    )
    return dataclasses.replace(
        dataset,
        targets=labels,
        num_classes=2,
        class_names=("background", "foreground"),
        notes=(*dataset.notes, note),
    )


def note_of(output_grid: int) -> str:
    """What notes say of targets that :func:`grid_labels` made."""
    return f"targets: label at the centre of each cell of a {output_grid} by {output_grid} grid"


def grid_labels(
    labels: Integer[np.ndarray, "batch height width"], output_grid: int
) -> Integer[np.ndarray, "batch grid grid"]:
    """The label at the centre of each cell of a grid, the lower right one of an even number.

    Args:
        labels: Maps of labels, square.
        output_grid: Cells a side; it divides the pixels a side.

    Returns:
        Shape ``(batch, output_grid, output_grid)``, int32.

    Example:
        >>> grid_labels(np.arange(36).reshape(1, 6, 6), 2)
        array([[[ 7, 10],
                [25, 28]]], dtype=int32)
    """
    check_count("output_grid", output_grid)
    height, width = labels.shape[1:]
    if height != width or height % output_grid:
        raise ValueError(
            f"output_grid: expected a divisor of the pixels a side of a square, got {output_grid} for "
            f"{height} by {width}"
        )
    cell = height // output_grid
    centres = np.arange(output_grid) * cell + cell // 2
    return labels[:, centres][:, :, centres].astype(np.int32)
