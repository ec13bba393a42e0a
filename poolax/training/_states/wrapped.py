"""Token states made of those of another source."""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Bool

from poolax.training._states.sources import TokenSource


@dataclasses.dataclass(frozen=True)
class WrappedSource:
    """A source of the same tokens as another one.

    Attributes:
        source: The other source.
    """

    has_groups: ClassVar[bool] = False

    source: TokenSource

    @property
    def is_resident(self) -> bool:
        """Whether all states are in memory."""
        return self.source.is_resident

    @property
    def is_computed(self) -> bool:
        """Whether a backbone makes the states whenever they are read."""
        return self.source.is_computed

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all states."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the states."""
        return self.source.dtype

    @property
    def token_counts(self) -> tuple[int, int]:
        """Fewest and most real tokens of a sequence."""
        return self.source.token_counts

    @property
    def num_prefix(self) -> int:
        """Number of prefix tokens."""
        return self.source.num_prefix

    @property
    def mask(self) -> Bool[np.ndarray, "N *parts n"] | None:
        """True at real tokens of all examples."""
        return self.source.mask

    @property
    def has_masks(self) -> bool:
        """Whether states are fetched with a mask."""
        return self.source.has_masks
