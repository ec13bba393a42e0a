"""Images that stand in files, which array records keep as they are."""

import abc
from typing import Literal

Fit = Literal["crop", "pad"]


class EncodedImages(abc.ABC):
    """Abstract inputs that are images in files, brought to one size when they are read.

    Attributes:
        shape: ``(N, size, size, 3)``.
        fit: How they are brought to that size.
    """

    shape: tuple[int, ...]
    fit: Fit

    @abc.abstractmethod
    def encoded(self, index: int) -> bytes:
        """The file of an image as it is, in its own size."""
