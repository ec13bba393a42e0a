"""What a pooler leaves of a Jacobian whose blocks are bounded.

Theory, section 5.4.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from poolax.bounds._linalg import spectral_norm
from poolax.bounds._reach import pooled_norm_of, row_norm


@struct.dataclass
class PoolerAt:
    """A pooler at given token states.

    Attributes:
        derivative: Its derivative.
        read: The norms of its derivatives with respect to each token.
    """

    derivative: Float[Array, "e n d"]
    read: Float[Array, " n"]

    @classmethod
    def of(cls, pool: Callable[[Array], Array], states: Float[Array, "n d"]) -> "PoolerAt":
        """Of a pooler at the states it pools."""
        derivative = jax.jacrev(pool)(states)
        return cls(derivative, jax.lax.map(spectral_norm, jnp.moveaxis(derivative, 1, 0)))

    def norm_behind(self, matrix: Float[Array, "n n"], geometry: str) -> Float[Array, ""]:
        """Bound of the pooled Jacobian from block norms of that of the states.

        Args:
            matrix: Bounds of the norms of the blocks.
            geometry: ``"frobenius"`` or ``"tokens"``.

        Returns:
            ``min(|c^T matrix|, |pooler| |matrix|)``, ``c_i`` the norm of the derivative with respect to
            token ``i``, and in the second the rows with ``c_i > 0`` alone.
        """
        whole = spectral_norm(self.derivative.reshape(self.derivative.shape[0], -1))  # (e, n d)
        rows = jnp.where(self.read[:, None] > 0, matrix, 0)
        by_token = row_norm(geometry, self.read @ matrix)
        return jnp.minimum(by_token, whole * pooled_norm_of(geometry, rows))
