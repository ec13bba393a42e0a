"""A linear classifier of single tokens, beside which pooled segmentation is set."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax import codec


@codec.register("head", "TokenHead")
class TokenHead(nn.Module):
    """Classify each patch token of an image; its logits fill the cells of the grid that it covers.

    This pools nothing: it says what the token states hold that a pooled vector has to carry.

    Attributes:
        num_classes: Number of classes.
        output_grid: Side of the square grid of labels.

    Parameters: ``output`` with kernel and bias.

    Example:
        >>> import jax
        >>> head = TokenHead(num_classes=3, output_grid=4)
        >>> z = jnp.ones((2, 9, 8))
        >>> head.apply(head.init(jax.random.key(0), z), z).shape
        (2, 48)
    """

    num_classes: int
    output_grid: int

    @nn.compact
    def __call__(
        self, z: Float[Array, "*batch n d"], mask: Bool[Array, "*#batch n"] | None = None
    ) -> Float[Array, "*batch k"]:
        """Patch tokens, row by row, to logits ``(*batch, output_grid^2 num_classes)``.

        Args:
            z: Patch tokens of a square image, without prefix tokens.
            mask: ``None``: images have no padding.

        Returns:
            The logits.

        Raises:
            ValueError: for a mask, or tokens that are no square.
        """
        if mask is not None:
            raise ValueError("mask: expected None, for patches of an image are all real, got an array")
        side = math.isqrt(z.shape[-2])
        if side**2 != z.shape[-2]:
            raise ValueError(f"z: expected a square number of patch tokens, got n = {z.shape[-2]}")
        logits = nn.Dense(self.num_classes, name="output")(z)
        logits = logits.reshape(*z.shape[:-2], side, side, self.num_classes)
        # The patch that covers the centre of each cell.
        patch = (2 * jnp.arange(self.output_grid) + 1) * side // (2 * self.output_grid)
        return logits[..., patch[:, None], patch, :].reshape(*z.shape[:-2], -1)
