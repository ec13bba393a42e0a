"""Images that are read, decoded and brought to one size when they are indexed."""

import abc
import functools
import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath
from PIL import Image, ImageOps

from poolax._checks import check_choice, check_count
from poolax._images import decode_image
from poolax._paths import size_and_time
from poolax._splits import row_digests
from poolax.data._damage import RESTORE, damaged_data
from poolax.data._encoded import EncodedImages, Fit

_FITS: dict[str, Any] = {"crop": ImageOps.fit, "pad": ImageOps.pad}
IMAGE_SIZE = 224
VOID = 255

GEOMETRY = {
    "size": f"pixels a side that images are brought to, {IMAGE_SIZE} by default",
    "fit": (
        '"crop" (default): shorter side to size, centre cut out; "pad": longer side to size, black '
        "beside it"
    ),
}
GEOMETRY_TEXT = f"RGB, shorter side to {IMAGE_SIZE} pixels (bicubic), centre cut out"


def decode(encoded: bytes, name: str) -> Image.Image:
    """An image from the bytes of its file, or one error that names the file."""
    return decode_image(encoded, name, RESTORE)


def fit_image(image: Image.Image, size: int, fit: Fit) -> np.ndarray:
    """An image in RGB, square and of the given size.

    Args:
        image: Any size and mode.
        size: Pixels a side of the result.
        fit: ``"crop"`` scales the shorter side to ``size`` and cuts the centre; ``"pad"`` scales the
            longer side and adds black on both sides of the shorter one. Bicubic.

    Returns:
        Shape ``(size, size, 3)``, uint8.

    Example:
        >>> wide = Image.new("L", (40, 20), 255)
        >>> fit_image(wide, 10, "crop")[..., 0].min(), fit_image(wide, 10, "pad")[..., 0].mean()
        (np.uint8(255), np.float64(127.5))
    """
    return np.asarray(_FITS[fit](image.convert("RGB"), (size, size), method=Image.Resampling.BICUBIC))


def fit_labels(labels: np.ndarray, size: int, fit: Fit) -> np.ndarray:
    """Labels of pixels in the same geometry as :func:`fit_image`: nearest pixel, void where padded.

    Args:
        labels: Shape ``(height, width)``, uint8.
        size: Pixels a side of the result.
        fit: As in :func:`fit_image`.

    Returns:
        Shape ``(size, size)``, uint8; 255 (void) in what was padded.
    """
    options: dict[str, Any] = {"color": VOID} if fit == "pad" else {}
    image = Image.fromarray(labels)
    fitted = _FITS[fit](image, (size, size), method=Image.Resampling.NEAREST, **options)
    return np.asarray(fitted)


class Images(EncodedImages):
    """Images of one size, decoded when they are indexed, a batch by several threads.

    Attributes:
        shape: ``(N, size, size, 3)``.
        dtype: uint8.
        fit: How they are brought to that size.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, num_images: int, *, size: int, fit: Fit):
        check_count("size", size)
        check_choice("fit", fit, _FITS)
        self.shape = (num_images, size, size, 3)
        self.fit = fit

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """What an error calls an image."""

    @abc.abstractmethod
    def content(self) -> str:
        """A text that changes with the images."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of content and geometry."""
        text = f"{self.shape} {self.fit} {self.content()}"
        return hashlib.sha256(text.encode()).hexdigest()

    def content_digests(self, indices: np.ndarray) -> list[bytes]:
        """A digest of the file of each image, in any geometry."""
        with ThreadPoolExecutor() as threads:
            files = threads.map(self.encoded, np.asarray(indices).tolist())
            return [hashlib.sha256(file).digest() for file in files]

    def __len__(self) -> int:
        """The number of images."""
        return self.shape[0]

    def __getitem__(self, indices: Any, /) -> np.ndarray:
        """The images at an index, slice, index array or mask, channels last."""
        chosen = np.arange(len(self))[indices]
        if chosen.ndim == 0:
            return self._image(int(chosen))
        if chosen.size == 0:
            return np.zeros((0, *self.shape[1:]), self.dtype)
        with ThreadPoolExecutor() as threads:
            return np.stack(list(threads.map(self._image, chosen.tolist())))

    def _image(self, index: int) -> np.ndarray:
        image = decode(self.encoded(index), self.name(index))
        return fit_image(image, self.shape[1], self.fit)


class ImageFiles(Images):
    """Image files below a directory, local or in a bucket.

    Args:
        directory: The directory.
        files: Path of each file below it.
        size: Pixels a side that images are brought to.
        fit: How, see :func:`fit_image`.

    Raises:
        ValueError: when indexed, if a file is missing or cannot be decoded; it names the file.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        files: Sequence[str],
        *,
        size: int = IMAGE_SIZE,
        fit: Fit = "crop",
    ):
        super().__init__(len(files), size=size, fit=fit)
        self._directory = epath.Path(directory)
        self._files = tuple(files)

    def encoded(self, index: int) -> bytes:
        """The bytes of an image's file."""
        return read_bytes(self._directory / self._files[index])

    def name(self, index: int) -> str:
        """The path of an image's file."""
        return str(self._directory / self._files[index])

    def content(self) -> str:
        """Names and lengths of the files."""
        with ThreadPoolExecutor() as threads:
            lengths = threads.map(self._length, range(len(self)))
            return "\n".join(f"{file} {n}" for file, n in zip(self._files, lengths, strict=True))

    def _length(self, index: int) -> int:
        path = self._directory / self._files[index]
        try:
            return size_and_time(path)[0]
        except FileNotFoundError as error:
            raise damaged_data(path, "expected an image file, which is missing") from error


class ImageArrays(Images):
    """Images of an array in another size than their own.

    Args:
        images: Shape ``(N, height, width, 3)``, uint8.
        size: Pixels a side that images are brought to.
        fit: How, see :func:`fit_image`.
    """

    def __init__(self, images: np.ndarray, *, size: int, fit: Fit = "crop"):
        super().__init__(len(images), size=size, fit=fit)
        self._images = images

    def content_digests(self, indices: np.ndarray) -> list[bytes]:
        """A digest of the pixels of each image."""
        return row_digests(self._images[indices])

    def encoded(self, index: int) -> bytes:
        """An image as PNG."""
        file = io.BytesIO()
        Image.fromarray(self._images[index]).save(file, "PNG")
        return file.getvalue()

    def name(self, index: int) -> str:
        """The number of an image."""
        return f"image {index}"

    def content(self) -> str:
        """SHA-256 of the array."""
        return hashlib.sha256(np.ascontiguousarray(self._images).data).hexdigest()

    def _image(self, index: int) -> np.ndarray:
        return fit_image(Image.fromarray(self._images[index]), self.shape[1], self.fit)


def read_bytes(path: epath.Path) -> bytes:
    """The bytes of a file, or one error that says it is missing."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise damaged_data(path, "expected an image file, which is missing") from error
