"""From raw images to what backbones of images take."""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax import codec
from poolax._checks import check_number
from poolax._numerics import with_leading_axes
from poolax.backbones._preprocess import Preprocess


@codec.register("preprocess", "image")
@dataclasses.dataclass(frozen=True)
class ImagePreprocess(Preprocess):
    """From pixel values to the model's input: ``(scale * pixels - mean) / std``.

    Attributes:
        scale: What brings pixels to the range from 0 to 1.
        mean: What is subtracted then, one number or one a channel.
        std: What is divided by then, one number or one a channel.
    """

    scale: float = 1 / 255
    mean: float | tuple[float, ...] = 0.5
    std: float | tuple[float, ...] = 0.5

    def __post_init__(self):
        """Refuse what is no number, or nothing to divide by."""
        for name in ("scale", "mean", "std"):
            values = getattr(self, name)
            for value in values if isinstance(values, tuple) else (values,):
                check_number(name, value, above=0 if name == "std" else -math.inf)

    def __call__(self, images: Array) -> Float[Array, "..."]:
        """Preprocess ``images``, any dtype, channels on the last axis, in float32."""
        images = jnp.asarray(images, jnp.float32)
        mean, std = (
            with_leading_axes(jnp.asarray(value, jnp.float32), images.ndim)
            for value in (self.mean, self.std)
        )
        return (images * self.scale - mean) / std
