"""Rotary positions of the patches of an image."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from poolax import codec
from poolax._checks import check_count, check_number
from poolax._numerics import accumulation_dtype, with_leading_axes


@codec.register("rotary", "patches")
@dataclasses.dataclass(frozen=True, repr=False)
class PatchRotary:
    """Rotary positions of a grid of patches: pairs of features turn with the row or the column.

    The middles of the patches stand between -1 and 1 on each axis, whatever the size of the image.
    Feature ``j`` of a head is paired with ``j + d_h / 2`` and turns by ``2 pi y theta^(-4j / d_h)``
    for ``j < d_h / 4``, and the next quarter by the column ``x`` with the same frequencies. With
    ``counted_to = s`` row ``k`` of ``m`` stands at ``y = k s / m`` and turns by ``y theta^(-4j / d_h)``
    instead, as in EVA-02. The first tokens, which stand for no part of the image, do not turn.

    Attributes:
        theta: Base of the geometric frequencies, positive.
        num_prefix: Number of tokens in front of the patches.
        grid: Rows and columns of patches, row by row; ``None`` for a square.
        counted_to: Patches are counted from 0, of any grid as if it had so many rows and columns;
            ``None`` for places between -1 and 1.

    Example:
        >>> import jax.numpy as jnp
        >>> turned = PatchRotary(grid=(1, 2))(jnp.ones((3, 1, 4)))
        >>> turned[:, 0].round(3).tolist()  # CLS, then two patches side by side
        [[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 1.0, -1.0], [1.0, -1.0, 1.0, -1.0]]

    Reference:
        Siméoni et al., "DINOv3" (2025); Fang et al., "EVA-02" (2023); Heo et al., "Rotary Position
        Embedding for Vision Transformer" (ECCV 2024).
    """

    theta: float = 100.0
    num_prefix: int = 1
    grid: tuple[int, int] | None = None
    counted_to: int | None = codec.added(None)

    __repr__ = codec.brief  # type: ignore[assignment]

    def __post_init__(self):
        """Refuse a base that is not positive, and counts that are none."""
        check_number("theta", self.theta, above=0.0)
        check_count("num_prefix", self.num_prefix, at_least=0)
        for side in self.grid or ():
            check_count("grid", side)
        if self.counted_to is not None:
            check_count("counted_to", self.counted_to)

    @property
    def feature_scale(self) -> float:
        """What turned features are multiplied with."""
        return 1.0

    def __call__(
        self,
        x: Float[Array, "*batch n H d_h"],
        lengths: Int[Array, "*batch"] | None = None,
    ) -> Float[Array, "*batch n H d_h"]:
        """Turn the heads' features ``x`` by their places in the image.

        Args:
            x: Features, shape ``(*batch, n, H, d_h)``.
            lengths: Numbers of real tokens, on which nothing depends.

        Returns:
            The turned features.

        Raises:
            ValueError: if the tokens behind the first are not those of the grid, or the width of a head
                is no multiple of four.
        """
        del lengths
        num_tokens, head_dim = x.shape[-3], x.shape[-1]
        if head_dim % 4:
            raise ValueError(f"x: expected d_h to be a multiple of 4, got {head_dim}")
        rows, columns = self._grid_of(num_tokens)
        frequencies = self.theta ** (-4 * np.arange(head_dim // 4) / head_dim)
        axes = [self._places(side) for side in (rows, columns)]
        places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2, 1)
        angles = (places * frequencies).reshape(rows * columns, 1, head_dim // 2)
        angles = np.concatenate([np.zeros((num_tokens - len(angles), *angles.shape[1:])), angles])
        dtype = accumulation_dtype(x)
        cos, sin = (
            with_leading_axes(jnp.asarray(part(angles), dtype), x.ndim) for part in (np.cos, np.sin)
        )
        left, right = jnp.split(x.astype(dtype), 2, axis=-1)
        turned = jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
        return turned.astype(x.dtype)

    def _places(self, side):
        counted = np.arange(side) / max(side, 1)
        if self.counted_to is not None:
            return counted * self.counted_to
        return 2 * math.pi * (2 * counted + 1 / max(side, 1) - 1)

    def _grid_of(self, num_tokens):
        num_patches = max(num_tokens - self.num_prefix, 0)
        grid = (math.isqrt(num_patches),) * 2 if self.grid is None else self.grid
        if num_patches and grid[0] * grid[1] != num_patches:
            wanted = "a square" if self.grid is None else f"{grid[0]} x {grid[1]}"
            raise ValueError(
                f"x: expected {self.num_prefix} tokens and those of a grid, {wanted}, got n = "
                f"{num_tokens}"
            )
        return grid if num_patches else (0, 0)
