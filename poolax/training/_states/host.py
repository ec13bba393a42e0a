"""Token states on the host."""

import dataclasses

import numpy as np

from poolax.records import TokenStates


@dataclasses.dataclass(frozen=True)
class HostStates:
    """Token states on the host.

    Attributes:
        states: Shape ``(N, *parts, n, d)``.
        mask: True at real tokens, shape ``(N, *parts, n)``; ``None`` if all are real.
    """

    states: np.ndarray
    mask: np.ndarray | None

    @classmethod
    def of(cls, tokens: TokenStates) -> "HostStates":
        """Those that a program gave."""
        mask = None if tokens.mask is None else np.asarray(tokens.mask)
        return cls(np.asarray(tokens.states), mask)
