"""Rows of L2 attention together, where every query sees every token.

Theory, section 8.19.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._numerics import safe_sqrt
from poolax.bounds._linalg import lambert_w

# Parts of the range of a row's sum, on each of which an upper bound of the maximum is taken.
_SUMS = 128
# Every weight of the slopes beside the values proves a bound.
_WEIGHTS = tuple(2 ** (exponent / 2) for exponent in range(-12, 5))


@functools.partial(jax.jit, static_argnames="through_metric")
def rows_together(
    num_tokens: Float[Array, ""], moved: Float[Array, " H"] | None, *, through_metric: bool
) -> Float[Array, " #H"]:
    r"""Mixing parts of all rows of L2 attention against the change of all tokens, in the metric.

    For any ``weight > 0``, with the sum ``Z`` of a row of the kernel ``exp(-|y_i - y_k|^2)``,

        ``sqrt(max_Z (1 + v(Z) / weight) sqrt(n / Z) sqrt(1 + 8 weight^2))``,

    ``v(Z)`` a bound of the variance of what row ``i`` averages: through the metric at most that of its
    squared distances, ``x log((n - 1) / x) / (1 + x)`` with ``x = Z - 1``, which is largest at the
    Lambert W function of ``(n - 1) / e``; and on a domain ``moved theta(1 / Z)``, for the query's own
    token has the weight ``1 / Z``.

    Args:
        num_tokens: Number of tokens ``n``.
        moved: ``|A_h| rho^2``, squares of half of the largest distance in the metric; ``None`` on all
            of space.
        through_metric: Whether values are those of the metric, and not plain.

    Returns:
        One number for each head, or one for all.
    """
    dtype = num_tokens.dtype
    steps = jnp.arange(_SUMS + 1, dtype=dtype) / _SUMS
    sums = jnp.power(num_tokens, steps)[None, None]
    # Intervals of Z; axes of all arrays are heads, weights and intervals.
    low, high = sums[..., :-1], sums[..., 1:]
    variances = []
    if through_metric:
        others = num_tokens - 1
        # Each interval's largest second moment: at the best sum if that lies in it, else at an end.
        x = jnp.clip(lambert_w(others / jnp.e), low - 1, high - 1)
        safe = jnp.where(x > 0, x, 1)
        logs = jnp.log(jnp.where(others > 0, others, 1) / safe)
        variances.append(jnp.where(x > 0, x * jnp.maximum(logs, 0) / (1 + x), 0))
    if moved is not None:
        heavy = 1 / jnp.minimum(high, 2)
        variances.append(moved[:, None, None] * (4 * heavy * (1 - heavy)))
    variance = functools.reduce(jnp.minimum, variances)
    weights = jnp.asarray(_WEIGHTS, dtype)[None, :, None]
    rows = (1 + variance / weights) * jnp.sqrt(num_tokens / low)
    rows = _taken(rows, jnp.argmax(rows, axis=-1))  # (#H, weights)
    found = rows * jnp.sqrt(1 + 8 * jnp.square(weights[..., 0]))
    return safe_sqrt(_taken(found, jnp.argmin(found, axis=-1)))


def _taken(values, places):
    """The values at these places of the last axis.

    The derivative of a maximum divides by how many numbers are it, which are none where a program
    computes them twice and rounds them otherwise.
    """
    return jnp.take_along_axis(values, places[..., None], axis=-1)[..., 0]
