"""From raw images to what backbones of images take."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from PIL import Image

from poolax import codec
from poolax._checks import check_number
from poolax._numerics import with_leading_axes
from poolax.backbones._geometry import ImageGeometry
from poolax.backbones._preprocess import Preprocess


@codec.register("preprocess", "image")
@dataclasses.dataclass(frozen=True)
class ImagePreprocess(Preprocess):
    """From pixel values to the model's input: ``(scale * pixels - mean) / std``.

    Arrays of images have a size, which they keep. Lists of images are brought to that of the
    checkpoint's processor first, on the host.

    Attributes:
        scale: What brings pixels to the range from 0 to 1.
        mean: What is subtracted then, one number or one a channel.
        std: What is divided by then, one number or one a channel.
        geometry: How images of a list are resized and cut; ``None`` to leave them as they are. Records
            of arrays, to which nothing of it is done, do not have it.

    Example:
        >>> prepare = ImagePreprocess(geometry=ImageGeometry(resize=8, crop=(6, 6)))
        >>> photos = [np.zeros((20, 30, 3), np.uint8), np.zeros((16, 9, 3), np.uint8)]
        >>> prepare(photos).shape, prepare(photos, size=12).shape
        ((2, 6, 6, 3), (2, 12, 12, 3))
        >>> prepare(np.stack([photos[0]] * 2)).shape
        (2, 20, 30, 3)
    """

    scale: float = 1 / 255
    mean: float | tuple[float, ...] = 0.5
    std: float | tuple[float, ...] = 0.5
    geometry: ImageGeometry | None = codec.added(None, repr=False)

    def __post_init__(self):
        """Refuse what is no number, or nothing to divide by."""
        for name in ("scale", "mean", "std"):
            values = getattr(self, name)
            for value in values if isinstance(values, tuple) else (values,):
                check_number(name, value, above=0 if name == "std" else -math.inf)

    def __call__(
        self, images: Any, *, size: int | tuple[int, int] | None = None
    ) -> Float[Array, "..."]:
        """Preprocess images.

        Args:
            images: An array of any dtype, channels on the last axis, or a list of images in any sizes.
            size: Another size of the result, as for :class:`ImageGeometry`; also for arrays.

        Returns:
            The model's input in float32.

        Raises:
            ValueError: for what is no image, or for images of a list that come to several sizes.
        """
        if size is not None or isinstance(images, (Sequence, Image.Image)):
            images = self.collect([images] if isinstance(images, Image.Image) else images, size=size)
        images = jnp.asarray(images, jnp.float32)
        mean, std = (
            with_leading_axes(jnp.asarray(value, jnp.float32), images.ndim)
            for value in (self.mean, self.std)
        )
        return (images * self.scale - mean) / std

    def collect(self, raw: Sequence[Any], *, size: int | tuple[int, int] | None = None) -> np.ndarray:
        """Images of a list as one array of pixels, brought to one size by ``geometry``.

        Args:
            raw: The images.
            size: Another size of the result.

        Returns:
            Shape ``(N, height, width, channels)``, uint8; arrays of one size as they are where there is
            no ``geometry``.

        Raises:
            ValueError: for what is no image, or for images that come to several sizes.
        """
        if self.geometry is None and size is None and _are_arrays_of_one_size(raw):
            return np.asarray(raw)
        channels = len(self.mean) if isinstance(self.mean, tuple) else 3
        return (self.geometry or ImageGeometry())(raw, size=size, channels=channels)

    def describe_for(self, shape: tuple[int, ...]) -> Any:
        """See :class:`Preprocess`; of arrays, which keep their size."""
        return Preprocess.describe_for(dataclasses.replace(self, geometry=None), shape)


def _are_arrays_of_one_size(images):
    if any(isinstance(image, Image.Image) for image in images):
        return False
    return len({np.shape(image) for image in images}) == 1
