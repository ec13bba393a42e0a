"""From images of any size to the size that a checkpoint's processor brings them to."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from poolax import codec
from poolax._checks import check_choice, check_count, check_flag

RESAMPLES = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Filters by the numbers that Pillow, and with it configurations, have for them."""

_MODES = {1: "L", 3: "RGB"}


@codec.register("geometry", "image")
@dataclasses.dataclass(frozen=True)
class ImageGeometry:
    """How images are resized and cut: first one, then the other.

    By Pillow, whose results are whole numbers, as processors of the reference do it that need no
    torchvision; those that do resize in floating point, DINOv3's among them, differ by rounding.

    Attributes:
        resize: Length of the shorter edge, the longer one in proportion; or height and width; ``None``
            to leave the size.
        crop: Height and width that are cut out of the centre, with black around what is smaller;
            ``None`` for all of it.
        resample: Name of Pillow's filter, such as ``"bicubic"``.
        rounds_to_even: Whether a crop that would start between two pixels starts at the even one, as
            torchvision has it; otherwise at the first.

    Example:
        >>> wide = np.zeros((300, 500, 3), np.uint8)
        >>> dinov2 = ImageGeometry(resize=256, crop=(224, 224))
        >>> dinov2([wide]).shape, dinov2([wide], size=98).shape, dinov2([wide], size=(56, 84)).shape
        ((1, 224, 224, 3), (1, 98, 98, 3), (1, 56, 84, 3))
    """

    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    resample: str = "bicubic"
    rounds_to_even: bool = False

    def __post_init__(self):
        """Refuse sizes that are none, and unknown filters."""
        _check_size("resize", self.resize)
        if isinstance(self.crop, int):
            raise ValueError(f"crop: expected height and width, got {self.crop}")
        _check_size("crop", self.crop)
        check_choice("resample", self.resample, RESAMPLES)
        check_flag("rounds_to_even", self.rounds_to_even)

    def edges(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that an image of this size is resized to."""
        if self.resize is None:
            return height, width
        if not isinstance(self.resize, int):
            return self.resize
        # The longer edge is rounded down, as the reference does it.
        longer = int(self.resize * max(height, width) / min(height, width))
        return (longer, self.resize) if height > width else (self.resize, longer)

    def __call__(
        self, images: Sequence[Any], *, size: int | tuple[int, int] | None = None, channels: int = 3
    ) -> np.ndarray:
        """Bring images to their size.

        Args:
            images: Of Pillow, or arrays of whole numbers to 255, ``(height, width)`` or with channels
                on the last axis, in any sizes.
            size: Another size of the result: the side of the square that is cut out, to which what is
                resized stays in proportion; where nothing is cut, what edges are resized to. Or height
                and width, which images are scaled to cover and cut to.
            channels: 3 for red, green and blue, 1 for grey.

        Returns:
            Shape ``(N, height, width, channels)``, uint8.

        Raises:
            ValueError: for what is no image, sizes below one, other numbers of channels, or results of
                several sizes.
        """
        check_choice("channels", channels, _MODES)
        _check_size("size", size)
        geometry = self._sized(size) if isinstance(size, int) else self
        method = Image.Resampling[self.resample.upper()]
        fitted = []
        for given in images:
            image = _as_image(given, _MODES[channels])
            if isinstance(size, tuple):
                image = ImageOps.fit(image, (size[1], size[0]), method)
            else:
                image = geometry._fit(image, method)
            fitted.append(np.asarray(image, np.uint8).reshape(image.height, image.width, channels))
        sizes = sorted({image.shape[:2] for image in fitted})
        if len(sizes) != 1:
            raise ValueError(
                "images: expected at least one, and all of one size after resizing, got "
                f"{sizes or 'none'}"
            )
        return np.stack(fitted)

    def _sized(self, side):
        if self.crop is None:
            resize = side if isinstance(self.resize, int) else (side, side)
            return dataclasses.replace(self, resize=resize)
        share, edges = side / min(self.crop), self.resize
        if isinstance(edges, int):
            edges = max(round(edges * share), 1)
        elif edges is not None:
            edges = (max(round(edges[0] * share), 1), max(round(edges[1] * share), 1))
        return dataclasses.replace(self, resize=edges, crop=(side, side))

    def _fit(self, image, method):
        height, width = self.edges(image.height, image.width)
        if (height, width) != (image.height, image.width):
            image = image.resize((width, height), method)
        if self.crop is None:
            return image
        place = round if self.rounds_to_even else math.floor
        top, left = place((height - self.crop[0]) / 2), place((width - self.crop[1]) / 2)
        # What lies outside is black.
        return image.crop((left, top, left + self.crop[1], top + self.crop[0]))


def _check_size(name, size):
    for side in (size,) if isinstance(size, int) else (size or ()):
        check_count(name, side)


def _as_image(image, mode):
    if not isinstance(image, Image.Image):
        array = np.asarray(image)
        is_image = array.ndim in (2, 3) and array.shape[2:] in ((), (1,), (3,), (4,))
        if array.dtype != np.uint8 or not is_image:
            raise ValueError(
                "images: expected images of Pillow, or uint8 arrays of shape (height, width) or "
                f"(height, width, channels), got {array.dtype} {array.shape}"
            )
        image = Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)
    return image if image.mode == mode else image.convert(mode)
