"""Token states in units of their own spread, for heads that are trained to the end."""

import dataclasses
import math

import numpy as np
from jaxtyping import Int

from poolax.training._scaling import Scaling
from poolax.training._states.host import HostStates
from poolax.training._states.sources import TokenSource
from poolax.training._states.wrapped import WrappedSource

_BATCH = 256


@dataclasses.dataclass(frozen=True)
class ScaledSource(WrappedSource):
    """Another source's states less a mean, divided by a deviation, for each entry of the width.

    Attributes:
        scaling: The mean and the deviation.
        kept: States in these units, where they are made once; ``None`` makes them as they are fetched.
    """

    scaling: Scaling
    kept: np.ndarray | None = None

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the states."""
        return np.dtype(np.float32)

    def fetch(self, positions: Int[np.ndarray, " num"]) -> HostStates:
        """States of some examples, in this order; zeros where tokens are not real."""
        if self.kept is not None:
            mask = self.source.mask
            return HostStates(self.kept[positions], None if mask is None else mask[positions])
        tokens = self.source.fetch(positions)
        mean, deviation = (part.astype(np.float32) for part in self.scaling)
        states = (np.asarray(tokens.states, np.float32) - mean) / deviation
        if tokens.mask is not None:
            states = np.where(tokens.mask[..., None], states, np.float32(0))
        return HostStates(states, tokens.mask)


def scaled(source: TokenSource, examples: Int[np.ndarray, " num"], *, budget: int = 0) -> ScaledSource:
    """A source's states in units of the mean and deviation over all real tokens of some examples.

    Args:
        source: The states.
        examples: Over whose tokens.
        budget: Bytes for states that are made once, where those of the source are in memory.
    """
    count, total, squares = 0, 0.0, 0.0
    shift = None
    for start in range(0, len(examples), _BATCH):
        tokens = source.fetch(np.sort(examples[start : start + _BATCH]))
        rows = np.asarray(tokens.states, np.float64)
        rows = rows.reshape(-1, rows.shape[-1]) if tokens.mask is None else rows[tokens.mask]
        if shift is None:
            # Squares of differences from about the mean lose no digits.
            shift = rows.mean(axis=0)
        count += len(rows)
        total = total + (rows - shift).sum(axis=0)
        squares = squares + np.square(rows - shift).sum(axis=0)
    if shift is None:
        raise ValueError("examples: expected at least one, got none")
    offset = total / count
    variance = squares / count - np.square(offset)
    found = ScaledSource(source, Scaling.of_moments(shift + offset, variance))
    if source.is_resident and 4 * math.prod(source.shape) <= budget:
        return dataclasses.replace(found, kept=found.fetch(np.arange(source.shape[0])).states)
    return found
