"""What a pooler leaves of a Jacobian whose blocks are bounded.

Theory, section 5.4.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax.bounds._linalg import spectral_norm
from poolax.bounds._local_whole import raised_norm
from poolax.bounds._reach import pooled_norm_of, row_norm


def pooled_norm(
    matrix: Float[Array, "n n"],
    pool: Callable[[Array], Array],
    states: Float[Array, "n d"],
    geometry: str = "frobenius",
    limits: Sequence[tuple[Float[Array, ""], Float[Array, "n n d d"] | None]] = (),
) -> Float[Array, ""]:
    """Bound of a pooled Jacobian from block norms and the pooler's own derivative at the states.

    Args:
        matrix: Bounds of the norms of the blocks of the Jacobian of the states.
        pool: The pooler.
        states: What it pools.
        geometry: What norm changes of the input are measured in.
        limits: Bounds of the norm of the whole Jacobian, or of all before what comes last, with the
            blocks of that, output token first; in the Frobenius norm.

    Returns:
        ``min(|c^T matrix|, |pooler| |matrix|, limit |pooler blocks|)``, ``c_i`` the norm of the
        pooler's derivative with respect to token ``i``, and in the second the rows with ``c_i > 0``
        alone.
    """
    derivative = jax.jacrev(pool)(states)  # (d, n, d)
    by_token = jnp.moveaxis(derivative, 1, 0)  # (n, d, d)
    read = jax.lax.map(spectral_norm, by_token)  # c, (n,)
    whole = spectral_norm(derivative.reshape(derivative.shape[0], -1))  # of one matrix (d, n d)
    rows = jnp.where(read[:, None] > 0, matrix, 0)
    bounds = [row_norm(geometry, read @ matrix), whole * pooled_norm_of(geometry, rows)]
    for limit, blocks in limits:
        if blocks is None:
            bounds.append(limit * whole)
        else:
            behind = jnp.einsum("eid,ikcd->ekc", derivative, blocks)
            bounds.append(limit * raised_norm(behind.reshape(behind.shape[0], -1)))
    return functools.reduce(jnp.minimum, bounds)
