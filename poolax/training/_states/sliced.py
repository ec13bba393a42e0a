"""Some of the layers of a source whose states of several layers stand side by side."""

import dataclasses

import numpy as np
from jaxtyping import Int

from poolax.training._states.host import HostStates
from poolax.training._states.sources import MemorySource, TokenSource
from poolax.training._states.views import View
from poolax.training._states.wrapped import WrappedSource


@dataclasses.dataclass(frozen=True)
class SlicedSource(WrappedSource):
    """Some entries of the width of another source's states.

    Attributes:
        view: Which entries; tokens are not left out here.
    """

    view: View

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all states."""
        return self.view.shape(self.source.shape)

    def fetch(self, positions: Int[np.ndarray, " num"]) -> HostStates:
        """States of some examples, in this order."""
        tokens = self.source.fetch(positions)
        return HostStates(self.view.take(tokens.states), tokens.mask)


def sliced(source: TokenSource, view: View) -> TokenSource:
    """The entries of a source that a view sees; in memory no copy where they are side by side."""
    if not view.columns:
        return source
    if isinstance(source, MemorySource) and len(view.columns) == 1:
        return dataclasses.replace(source, states=view.take(source.states))
    return SlicedSource(source, view)
