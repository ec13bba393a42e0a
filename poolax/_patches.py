"""Images cut into patches."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def patchify(images: Float[Array, "*batch h w c"], patch_size: int) -> Float[Array, "*batch n p"]:
    """Cut images into patches, row by row; a patch keeps the order (row, column, channel).

    What is left over at the right and at the bottom belongs to no patch.
    """
    *batch, height, width, channels = images.shape
    rows, columns = height // patch_size, width // patch_size
    images = images[..., : rows * patch_size, : columns * patch_size, :]
    grid = images.reshape(*batch, rows, patch_size, columns, patch_size, channels)
    grid = jnp.swapaxes(grid, -4, -3)
    return grid.reshape(*batch, rows * columns, patch_size * patch_size * channels)
