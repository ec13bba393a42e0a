"""Where a bound holds: the tokens, and how many of them."""

from flax import struct
from jaxtyping import Array, ArrayLike, Float, Int


@struct.dataclass
class Domain:
    """Where a bound holds: tokens with ``|x_i| <= radius`` and ``|x_i - x_j| <= 2 spread``.

    Attributes:
        radius: Largest token norm.
        spread: Half of the largest distance between two tokens of one sequence.
    """

    radius: Float[Array, ""] | float
    spread: Float[Array, ""] | float


@struct.dataclass
class TokenRange:
    """All numbers of valid tokens from ``low`` to ``high``, both included.

    A padded batch holds sequences of several lengths. A bound taken at the longest does not hold
    for the shorter ones, whose average moves more; a bound for a range holds for every length in
    it.

    Attributes:
        low: Fewest valid tokens, at least one.
        high: Most valid tokens.
    """

    low: Int[ArrayLike, ""]
    high: Int[ArrayLike, ""]
