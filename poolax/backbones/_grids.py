"""Images cut into grids of patches, and tables of a grid brought to another one."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from poolax._checks import check_choice, check_finite, check_floating
from poolax._numerics import accumulation_dtype

# The cubic kernel's slope at distance one: PyTorch's without antialiasing, Pillow's with it.
_PLAIN_SLOPE, _ANTIALIAS_SLOPE = -0.75, -0.5

INTERPOLATIONS = ("bicubic", "bicubic-antialias", "bilinear", "bilinear-antialias")
"""Ways to bring a table to another grid."""


def patch_grid(config: Any, inputs: Float[Array, "*batch h w c"]) -> tuple[int, int]:
    """Rows and columns of patches that images hold; what is left over at right and bottom is not seen.

    Args:
        config: With ``patch_size`` and ``num_channels``.
        inputs: Images.

    Returns:
        Rows and columns.

    Raises:
        ValueError: for a wrong shape or dtype, images smaller than a patch, or values that are not
            finite.
    """
    check_floating("inputs", inputs)
    shape, patch = jnp.shape(inputs), config.patch_size
    if len(shape) < 3 or shape[-1] != config.num_channels or min(shape[-3:-1]) < patch:
        raise ValueError(
            f"inputs: expected shape ('*batch', 'height >= {patch}', 'width >= {patch}', "
            f"{config.num_channels}), got {shape}"
        )
    check_finite("inputs", inputs)
    return shape[-3] // patch, shape[-2] // patch


def resize_matrix(old: int, new: int, method: str) -> Float[np.ndarray, "new old"]:
    """Weights with which ``new`` points of an axis read ``old`` ones, as PyTorch has them.

    Points stand in the middle of their cells. Without antialiasing, what would be read beyond an edge
    is the point at the edge; with it, the kernel is as wide as a new cell, and weights of what is
    there sum to one.

    Args:
        old: Number of points of the table.
        new: Number of points wanted.
        method: One of :data:`INTERPOLATIONS`.

    Returns:
        The weights, shape ``(new, old)``; rows sum to one.

    Raises:
        ValueError: for an unknown method.

    Example:
        >>> resize_matrix(2, 4, "bilinear")
        array([[1.  , 0.  ],
               [0.75, 0.25],
               [0.25, 0.75],
               [0.  , 1.  ]])
    """
    check_choice("interpolation", method, INTERPOLATIONS)
    kernel = _cubic if method.startswith("bicubic") else _triangle
    scale = old / new
    centre = (np.arange(new) + 0.5) * scale - 0.5
    if method.endswith("antialias"):
        distance = (np.arange(old)[None, :] - centre[:, None]) / max(scale, 1.0)
        weights = kernel(distance, _ANTIALIAS_SLOPE)
        return weights / weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((new, old))
    first = np.floor(centre).astype(int)
    for step in range(-1, 3):
        read = first + step
        weight = kernel(centre - read, _PLAIN_SLOPE)
        np.add.at(matrix, (np.arange(new), np.clip(read, 0, old - 1)), weight)
    return matrix


def resize_table(
    table: Float[Array, "cells d"], old: tuple[int, int], new: tuple[int, int], method: str
) -> Float[Array, "new_cells d"]:
    """A table with a row for each cell of a grid, row by row, brought to another grid.

    Args:
        table: The table, shape ``(old[0] * old[1], d)``.
        old: Rows and columns of its grid.
        new: Rows and columns wanted; the table itself for those it has.
        method: One of :data:`INTERPOLATIONS`.

    Returns:
        The table of the new grid, shape ``(new[0] * new[1], d)``, in the same dtype.
    """
    if old == new:
        return table
    dtype = accumulation_dtype(table)
    rows, columns = (
        jnp.asarray(resize_matrix(have, want, method), dtype)
        for have, want in zip(old, new, strict=True)
    )
    grid = table.reshape(*old, table.shape[-1]).astype(dtype)
    resized = jnp.einsum("ai,bj,ijd->abd", rows, columns, grid, precision="highest")
    return resized.reshape(-1, table.shape[-1]).astype(table.dtype)


def patch_offsets(grid: tuple[int, int]) -> Int[np.ndarray, "n n"]:
    """Row of a table of offsets for each query (row) and key (column), of CLS and a grid of patches.

    The table has a row for each offset from key to query between patches, rows then columns of the
    grid, and three more: for CLS that sees a patch, a patch that sees CLS, and CLS that sees itself.

    Args:
        grid: Rows and columns of patches.

    Returns:
        Rows of the table, shape ``(n, n)`` with ``n = 1 + rows * columns``.

    Example:
        >>> patch_offsets((1, 2))
        array([[5, 3, 3],
               [4, 1, 0],
               [4, 2, 1]])
    """
    rows, columns = grid
    place = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    offset = place[:, None] - place[None, :] + np.array([rows - 1, columns - 1])
    span = 2 * columns - 1
    count = (2 * rows - 1) * span
    index = np.full((len(place) + 1,) * 2, count + 2)
    index[1:, 1:] = offset[..., 0] * span + offset[..., 1]
    index[0, 1:], index[1:, 0] = count, count + 1
    return index


def offset_bias(
    table: Float[Array, "offsets H"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Array, "H n n"]:
    """Bias of the logits by head, query and key, from a table of offsets of another grid.

    Args:
        table: The table, shape ``((2 rows - 1) (2 columns - 1) + 3, H)``; see :func:`patch_offsets`.
        old: Rows and columns of its grid.
        new: Rows and columns wanted; offsets between patches are interpolated linearly.

    Returns:
        The bias, shape ``(H, n, n)``.
    """
    stored, wanted = ((2 * grid[0] - 1, 2 * grid[1] - 1) for grid in (old, new))
    between = resize_table(table[:-3], stored, wanted, "bilinear")
    rows = jnp.concatenate([between, table[-3:]])
    return jnp.moveaxis(rows[patch_offsets(new)], -1, 0)


def _cubic(x, slope):
    """Keys' kernel of support two with this slope at distance one."""
    x = np.abs(x)
    inner = ((slope + 2) * x - (slope + 3)) * x**2 + 1
    outer = slope * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0.0))


def _triangle(x, slope):
    del slope
    return np.maximum(1 - np.abs(x), 0.0)
