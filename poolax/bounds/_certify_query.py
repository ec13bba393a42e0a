"""How low a score of query attention can get where each token, or all together, move little.

A slice of the output gives a quotient of sums over tokens, ``sum_k p_k e^{a.x_k} (v_k + f.x_k) / sum_k
p_k e^{a.x_k}`` with ``x_k`` the move of token ``k``. It is at least ``theta`` exactly where ``sum_k p_k
e^{a.x_k} (v_k - theta + f.x_k) >= 0``, and this sum is as small as it gets where each of its terms is:
a token matters only by its move along ``a`` and across it.

Theory, section 9.4.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._numerics import safe_norm

_ANGLES, _NEWTON = 16, 8
# Radii of single tokens down to a fortieth of that of all, and prices of their squares.
_RADII, _RATIO, _PRICES = 40, 1.1, 32


def lowest_score(
    weights: Float[Array, " n"],
    values: Float[Array, " n"],
    along_logits: Float[Array, " d"],
    along_values: Float[Array, " d"],
    epsilon: Float[Array, ""],
    geometry: str,
) -> Float[Array, ""]:
    r"""A lower bound of ``sum_k p_k v_k`` where tokens move by at most ``epsilon``.

    Args:
        weights: ``p``, zero at masked tokens.
        values: ``v``.
        along_logits: ``a``, the derivative of each logit by its token.
        along_values: ``f``, that of each value.
        epsilon: Radius, in all or for each token.
        geometry: ``"frobenius"`` or ``"tokens"``.

    Returns:
        The bound, up to the number of angles attained for ``"tokens"``.
    """
    rate, size = safe_norm(along_logits), safe_norm(along_values)
    along = jnp.sum(along_logits * along_values) / jnp.where(rate > 0, rate, 1)
    across = jnp.sqrt(jnp.maximum(jnp.square(size) - jnp.square(along), 0))
    tokens = geometry == "tokens"
    shares = jnp.ones(1) if tokens else _RATIO ** -jnp.arange(_RADII - 1.0, -1.0, -1.0)
    radii = epsilon * shares.astype(values.dtype)

    def smallest_sum(theta):
        """The sum's lower bound with values less ``theta``, and how fast it falls with ``theta``."""
        least, mass = _smallest_terms(values - theta, rate, along, across, radii)  # (n, R) each
        terms, masses = weights[:, None] * least, weights[:, None] * mass
        free, falling = jnp.sum(terms[:, -1]), jnp.sum(masses[:, -1])
        if tokens:
            return free, falling
        # For any price of the square of a move, the sum is at least that with moves paid for.
        square = jnp.square(epsilon)
        drop = jnp.sum(terms[:, 0] - terms[:, -1]) / jnp.maximum(square, _tiny(radii))
        prices = drop * jnp.logspace(-3, 2, _PRICES, dtype=radii.dtype)
        # Between two radii a term is no lower than at the larger, and no cheaper than at the smaller.
        inner = jnp.square(jnp.concatenate([jnp.zeros_like(radii[:1]), radii[:-1]]))
        paid, paid_masses = _least_of(
            terms[None] + prices[:, None, None] * inner[None, None],
            jnp.broadcast_to(masses[None], (_PRICES, *masses.shape)),
        )
        sums = jnp.sum(paid, axis=-1) - prices * square
        best = jnp.argmax(sums)
        better = sums[best] > free
        return (
            jnp.where(better, sums[best], free),
            jnp.where(better, jnp.sum(paid_masses[best]), falling),
        )

    def newton(_, theta):
        value, falling = smallest_sum(theta)
        return jnp.where(value < 0, theta + value / jnp.maximum(falling, least), theta)

    # The sum is concave in theta, and falls at least at this rate: its last value bounds the root.
    mass = jnp.sum(weights)
    least = jnp.maximum(mass * jnp.exp(-rate * epsilon), _tiny(radii))
    start = jnp.sum(weights * values) / jnp.where(mass > 0, mass, 1)
    theta = jax.lax.fori_loop(0, _NEWTON, newton, start)
    return theta + jnp.minimum(smallest_sum(theta)[0], 0) / least


def _least_of(values, masses):
    """The least value along the last axis, and the mass that stands with it.

    Not by differentiating a minimum: XLA may round what is compared in two ways, and find none.
    """
    best = jnp.argmin(values, axis=-1)[..., None]
    return tuple(jnp.take_along_axis(array, best, axis=-1)[..., 0] for array in (values, masses))


def _tiny(x) -> Any:
    return jnp.finfo(x.dtype).tiny


def _smallest_terms(values, rate, along, across, radii):
    """Lower bounds of ``e^{rate t} (v + along t - across sqrt(r^2 - t^2))`` over ``|t| <= r``.

    With the first factor where each stands, shape ``(n, R)`` both.

    Moves along ``a`` are cut into pieces of equal angles. The second factor is convex in ``t``, so that
    it is above its tangent in the middle of a piece; with the tangent the least value is known.
    """
    edges = jnp.sin(jnp.linspace(-math.pi / 2, math.pi / 2, _ANGLES + 1, dtype=radii.dtype))
    middles = jnp.linspace(-math.pi / 2, math.pi / 2, 2 * _ANGLES + 1, dtype=radii.dtype)[1::2]
    low, high = (radii[:, None] * ends[None] for ends in (edges[:-1], edges[1:]))  # (R, T)
    middle = radii[:, None] * jnp.sin(middles)[None]
    # The tangent of -sqrt(r^2 - t^2) at r sin(angle): slope tan(angle), at zero -r / cos(angle).
    slope = along + across * jnp.tan(middles)[None]  # (1, T)
    offset = values[:, None, None] - across * (radii[:, None] / jnp.cos(middles)[None])[None]

    # Where the product is stationary, if there is such a place.
    turns = (slope[None] != 0) & (rate > 0)
    stationary = -offset / jnp.where(turns, slope[None], 1) - 1 / jnp.where(rate > 0, rate, 1)
    inside = jnp.clip(jnp.where(turns, stationary, middle[None]), low[None], high[None])
    places = jnp.stack([jnp.broadcast_to(ends[None], inside.shape) for ends in (low, high)] + [inside])
    factors = jnp.exp(rate * places)
    products = factors * (offset[None] + slope[None, None] * places)
    flat = (*inside.shape[:-1], -1)
    return _least_of(*(jnp.moveaxis(array, 0, -1).reshape(flat) for array in (products, factors)))
