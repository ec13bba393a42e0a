"""Bounds of a backbone layer by layer."""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, ArrayLike, Float

from poolax.records._domains import Domain


@struct.dataclass
class LedgerRow:
    """What one layer does to changes and to the domain.

    Attributes:
        name: Where the layer stands.
        log_branch: Logarithm of the Lipschitz constant of the attention, feed-forward or other layer
            between its norms; 0 where there is none.
        log_norm: Logarithm of the Lipschitz constant of its norms.
        log_factor: Logarithm of the Lipschitz constant of the whole layer, residual included.
        radius_in: Largest norm of a token that comes in.
        spread_in: Half of the largest distance of two tokens that come in.
        radius_out: Largest norm of a token that comes out.
        spread_out: Half of the largest distance of two tokens that come out.
        num_tokens: Largest number of tokens that come in.
    """

    name: str = struct.field(pytree_node=False)
    log_branch: Float[Array, ""]
    log_norm: Float[Array, ""]
    log_factor: Float[Array, ""]
    radius_in: Float[ArrayLike, ""]
    spread_in: Float[ArrayLike, ""]
    radius_out: Float[ArrayLike, ""]
    spread_out: Float[ArrayLike, ""]
    num_tokens: Float[ArrayLike, ""]


@struct.dataclass
class Ledger:
    """Lipschitz bound of a backbone, from its embeddings to its token states, layer by layer.

    Attributes:
        rows: One row for each layer, in the order in which they act; the pooler's last if there is one.
        log_lipschitz: Logarithm of the bound of the whole, which does not overflow: the product of all
            factors, or for a local ledger less.
        domain: Domain of the token states.
        method: ``"sharp"``, ``"tight"`` or ``"local"``.
        states: Token states, for a local ledger.
    """

    rows: tuple[LedgerRow, ...]
    log_lipschitz: Float[Array, ""]
    domain: Domain
    method: str = struct.field(pytree_node=False)
    states: Float[Array, "n d"] | None = None

    @property
    def lipschitz(self) -> Float[Array, ""]:
        """The product; infinite where it exceeds the range of its dtype."""
        return jnp.exp(self.log_lipschitz)
