"""What a backbone gives: token states."""

from flax import struct
from jaxtyping import Array, Bool, Float


@struct.dataclass
class TokenStates:
    """What a backbone makes of a batch of inputs.

    Attributes:
        states: Token states, shape ``(*batch, n, d)``.
        mask: True at real tokens, shape ``(*batch, n)``; ``None`` if all are real.
        num_prefix: Number of tokens in front that stand for no part of the input (CLS, registers).
        weights: Attention of each layer, shape ``(*batch, H, n, n)`` each, or by window
            ``(*batch, windows, H, m, m)``; ``None`` unless asked for.
    """

    states: Float[Array, "*batch n d"]
    mask: Bool[Array, "*batch n"] | None
    num_prefix: int = struct.field(pytree_node=False)
    weights: tuple[Float[Array, "*batch H n n"], ...] | None = None
