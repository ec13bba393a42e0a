"""Images cut into patches."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def patchify(images: Float[Array, "*batch h w c"], patch_size: int) -> Float[Array, "*batch n p"]:
    """Cut images into patches, row by row; a patch keeps the order (row, column, channel)."""
    *batch, height, width, channels = images.shape
    grid = images.reshape(
        *batch, height // patch_size, patch_size, width // patch_size, patch_size, channels
    )
    grid = jnp.swapaxes(grid, -4, -3)
    num_patches = (height // patch_size) * (width // patch_size)
    return grid.reshape(*batch, num_patches, patch_size * patch_size * channels)
