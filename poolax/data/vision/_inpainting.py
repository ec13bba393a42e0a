"""Inpainting: predict the pixels of regions that the input does not show."""

import dataclasses
import functools
import hashlib
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from poolax._checks import check_choice, check_count
from poolax._dataset import Dataset
from poolax._inputs import content_digests
from poolax.data.vision._grid import batches, grid_of, white_of

OUTPUT_GRID = 32
Mask = Literal["center", "blocks"]


def inpainting(
    dataset: Dataset,
    *,
    output_grid: int = OUTPUT_GRID,
    mask: Mask = "center",
    num_blocks: int | None = None,
    block: int = 16,
    fill: float = 0.5,
    seed: int = 0,
    full_resolution: bool = False,
) -> Dataset:
    """A data set whose inputs hide a quarter of the pixels and whose targets are what was hidden.

    Targets are pixels on a grid, each the mean over its cell, as shares of white. They depend on the
    seed and on the number of an example alone, not on the order of reading or on subsets.

    Args:
        dataset: Square images ``(N, side, side, channels)``.
        output_grid: Cells a side of the targets, at most ``side``; it divides ``side``.
        mask: ``"center"`` hides one centred square of half the side, a quarter of the area;
            ``"blocks"`` hides, in each example others, some of the blocks that tile the image.
        num_blocks: How many blocks are hidden; ``None`` for a quarter of them.
        block: Pixels a side of a block; it divides ``side``.
        fill: What hidden pixels are set to, as a share of white.
        seed: Seed of the blocks.
        full_resolution: Whether targets are single pixels instead of cells of the grid.

    Returns:
        The data set with masked inputs, read when indexed if they were before, and float32 targets
        ``(N, k)``. For ``"center"`` they are those of the square, row by row, channels last. For
        ``"blocks"`` they are those of the whole grid, NaN where a cell is not hidden entirely.
        Images of no split are not read, and NaN throughout.

    Raises:
        ValueError: if grid, square or blocks do not fit the images.

    Example:
        >>> from poolax.data import digits
        >>> data = inpainting(digits())
        >>> data.inputs.shape, data.targets.shape
        ((1797, 8, 8, 1), (1797, 16))
        >>> data.inputs[0, :, :, 0].astype(int)[2:4]
        array([[0, 3, 8, 8, 8, 8, 8, 0],
               [0, 4, 8, 8, 8, 8, 8, 0]])
    """
    # What earlier programs say.
    chosen = "center" if mask == "centre" else mask
    check_choice("mask", chosen, ("center", "blocks"))
    if not 0 <= fill <= 1:
        raise ValueError(f"fill: expected a number from 0 to 1, got {fill}")
    grid, side = grid_of(dataset, None if full_resolution else output_grid)
    white = white_of(dataset)
    if chosen == "center":
        if num_blocks is not None:
            raise ValueError('num_blocks: expected none for mask="center", got it')
        if grid % 4:
            raise ValueError(
                f"output_grid: expected a multiple of 4 for a centred quarter of the area, got {grid}"
            )
        masks = _Centre(side)
        hidden = "one centred square of a quarter of the area"
    else:
        masks = _blocks(side, block, num_blocks, seed)
        hidden = f"{masks.num_blocks} of {masks.num_tiles} blocks of {block} pixels a side, seed {seed}"
    inputs = MaskedImages(dataset.inputs, masks, _value(fill, white, dataset.inputs))
    note = (
        f"inpainting: {hidden} set to {fill:g} of white ({white:g}); targets: means over the cells of "
        f"a {grid} by {grid} grid of {side // grid} pixels a side, shares of white"
    )
    return dataclasses.replace(
        dataset,
        inputs=inputs[:] if isinstance(dataset.inputs, np.ndarray) else inputs,
        targets=_targets(dataset, masks, grid, white),
        num_classes=None,
        class_names=None,
        notes=(*dataset.notes, note),
    )


class MaskedImages:
    """Images whose hidden pixels are filled when they are indexed.

    Attributes:
        shape: As of the images.
        dtype: As of the images.
    """

    def __init__(self, images: Any, masks: "_Centre | _Blocks", fill: np.generic):
        self._images, self._masks, self._fill = images, masks, fill
        self.shape = images.shape
        self.dtype = fill.dtype

    def content_digests(self, indices: np.ndarray) -> list[bytes]:
        """A digest of each image as it is without a mask, which would give its pixels away."""
        return content_digests(self._images, indices)

    def __len__(self) -> int:
        """The number of images."""
        return self.shape[0]

    def __getitem__(self, indices: Any, /) -> np.ndarray:
        """The masked images at an index, slice, index array or mask."""
        chosen = np.arange(len(self))[indices]
        hidden = self._masks(np.atleast_1d(chosen)).reshape(*chosen.shape, *self.shape[1:3], 1)
        return np.where(hidden, self._fill, self._images[indices])

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of images, masks and fill."""
        text = f"{self._images.fingerprint} {self._masks} {self._fill}"
        return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class _Centre:
    """The centred square of half the side, the same in each example."""

    side: int

    def __call__(self, indices: np.ndarray) -> Bool[np.ndarray, "batch side side"]:
        low, high = self.side // 4, self.side // 4 + self.side // 2
        hidden = np.zeros((self.side, self.side), bool)
        hidden[low:high, low:high] = True
        return np.broadcast_to(hidden, (len(indices), self.side, self.side))


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """Some of the blocks that tile an image, drawn for each example from its number and the seed."""

    side: int
    block: int
    num_blocks: int
    seed: int

    @property
    def num_tiles(self) -> int:
        """How many blocks tile an image."""
        return (self.side // self.block) ** 2

    def __call__(self, indices: np.ndarray) -> Bool[np.ndarray, "batch side side"]:
        tiles = np.zeros((len(indices), self.num_tiles), bool)
        for row, index in enumerate(indices.tolist()):
            rng = np.random.default_rng((self.seed, index))
            tiles[row, rng.choice(self.num_tiles, self.num_blocks, replace=False)] = True
        across = self.side // self.block
        square = tiles.reshape(-1, across, across)
        return square.repeat(self.block, axis=1).repeat(self.block, axis=2)


def _blocks(side: int, block: int, num_blocks: int | None, seed: int) -> _Blocks:
    check_count("block", block)
    check_count("seed", seed, at_least=0)
    if side % block or side == block:
        raise ValueError(f"block: expected a divisor of {side} pixels a side below it, got {block}")
    tiles = (side // block) ** 2
    if num_blocks is None:
        num_blocks = tiles // 4 or 1
    check_count("num_blocks", num_blocks)
    if num_blocks >= tiles:
        raise ValueError(f"num_blocks: expected fewer than the {tiles} of an image, got {num_blocks}")
    return _Blocks(side, block, num_blocks, seed)


def _value(fill: float, white: float, images: Any) -> np.generic:
    """The fill in the images' own units and dtype."""
    dtype = np.dtype(images.dtype)
    return dtype.type(round(fill * white) if dtype.kind in "iu" else fill * white)


def _targets(
    dataset: Dataset, masks: _Centre | _Blocks, grid: int, white: float
) -> Float[np.ndarray, "batch k"]:
    """Cells of the grid that are hidden."""
    side, channels = dataset.inputs.shape[1], dataset.inputs.shape[3]
    low, high = (grid // 4, grid // 4 + grid // 2) if isinstance(masks, _Centre) else (0, grid)
    targets = np.full((len(dataset.inputs), (high - low) ** 2 * channels), np.nan, np.float32)
    cell = side // grid
    for chosen, images in batches(dataset):
        tiled = images.reshape(-1, grid, cell, grid, cell, channels)
        means = np.mean(tiled, axis=(2, 4), dtype=np.float64) / white
        hidden = np.asarray(masks(chosen).reshape(-1, grid, cell, grid, cell).all(axis=(2, 4)))
        if isinstance(masks, _Blocks) and not hidden.reshape(len(chosen), -1).any(axis=1).all():
            raise ValueError(
                f"block: expected blocks that hide a cell of {cell} pixels a side, got {masks.block}"
            )
        scored = np.where(hidden[..., None], means, np.nan)[:, low:high, low:high]
        targets[chosen] = scored.reshape(len(chosen), -1)
    return targets
