"""Starts of a search: the kinds of points where Jacobians of attention and of poolers are large."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._numerics import safe_norm
from poolax.empirical._projections import Projection

# How far outside the domain lies what is projected to its boundary, in sizes of the domain.
_FAR = 10
# Orders of magnitude over which starts near zero are spread.
_DECADES = 4


def draw_starts(
    x0: Float[Array, "..."], project: Projection, key: jax.Array, num_restarts: int
) -> tuple[Float[Array, "restarts ..."], Float[Array, ""]]:
    """Draw points of the domain, of four kinds, the first of them ``x0``; and the size of the domain.

    Around ``x0``; on the boundary; tokens in two clusters on the boundary, some all in one; and near
    zero on a logarithmic scale, where cosine attention is steepest. They are as large as the domain,
    whose size is felt by projecting a point far outside; where that is not projected they are as large
    as ``x0``.
    """
    noise_key, token_key, sign_key, share_key, size_key = jax.random.split(key, 5)
    dtype, token = x0.dtype, x0.shape[-1:]
    each = (num_restarts, *(1 for _ in x0.shape))
    noise = jax.random.normal(noise_key, (num_restarts, *x0.shape), dtype)
    size = _extent(project, x0, noise[0])
    tokens = jax.random.normal(token_key, (*each[: len(each) - len(token)], *token), dtype)
    share = jax.random.uniform(share_key, each, dtype, maxval=0.7)
    signs = jax.random.uniform(sign_key, (num_restarts, *x0.shape[:-1], *(1 for _ in token)), dtype)
    clusters = jnp.where(signs < share, -tokens, tokens) + 0.05 * noise
    near_zero = 10 ** (-_DECADES * jax.random.uniform(size_key, each, dtype)) * noise
    centre = x0[None]
    kinds = (
        centre + size * noise,
        centre + _FAR * size * noise,
        centre + _FAR * size * clusters,
        size * near_zero,
    )
    # Those around x0 are half of all: where a function is rugged, no other point is better than chance.
    turns = jnp.array([0, 1, 0, 2, 0, 3])
    kind = turns[jnp.arange(num_restarts) % len(turns)].reshape(each)
    starts = jnp.select([kind == index for index in range(len(kinds))], kinds)
    return jax.vmap(project)(starts.at[0].set(x0)), size


def _extent(project, x0, direction):
    """Root mean square of the entries at the edge of the domain, or of ``x0`` if there is no edge."""
    size = root_mean_square(x0)
    size = jnp.where(size > 0, size, 1)
    far = 1000 * size
    edge = root_mean_square(project(x0 + far * direction))
    return jnp.where((edge > 0) & (edge < far / 10), edge, size)


def root_mean_square(x: Float[Array, "..."]) -> Float[Array, ""]:
    """Root of the mean of the squared entries."""
    return safe_norm(x) / math.sqrt(x.size)
