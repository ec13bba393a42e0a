"""Softmax weights whose logits lie in intervals around known ones.

Every function takes weights ``p`` at the known logits and how far each logit may rise and fall. No more
is needed of the logits, since weights change to ``p_k exp(s_k)`` over their sum.

Theory, section 5.5.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def weight_range(
    weights: Float[Array, "*batch n"], rise: Float[Array, "*batch n"], fall: Float[Array, "*batch n"]
) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch n"]]:
    """Smallest and largest weight of each entry, both attained.

    Args:
        weights: Softmax weights at the middle; zeros where nothing is seen.
        rise: How far each logit may rise, at least 0.
        fall: How far each may fall, at least 0.

    Returns:
        The smallest and the largest weights.
    """
    rise, fall = _held(rise), _held(fall)
    # An entry is largest where its own logit rises and all others fall, divided by its own factor.
    least_others = _others(weights * jnp.exp(-fall))
    high = _share(weights, jnp.exp(-rise) * least_others)
    most = jnp.max(rise, axis=-1, keepdims=True)
    most_others = _others(weights * jnp.exp(rise - most))
    # Of what would overflow nothing is known but that it is no less than zero; a slope of it is none.
    exponent = fall + most
    is_held = exponent < jnp.log(jnp.finfo(weights.dtype).max)
    grown = most_others * jnp.exp(jnp.where(is_held, exponent, 0))
    low = jnp.where(is_held, _share(weights, grown), 0)
    return jnp.minimum(low, weights), jnp.maximum(high, weights)


def largest_mean(
    weights: Float[Array, "*batch n"],
    rise: Float[Array, "*batch n"],
    fall: Float[Array, "*batch n"],
    values: Float[Array, "*batch n"],
) -> Float[Array, "*batch"]:
    """The largest ``sum_k p_k values_k`` over the box of logits, which is attained.

    With values in descending order it is the largest of the ``n + 1`` quotients in which the first
    ``k`` logits rise and the others fall. 0 where no weight is positive.
    """
    rise, fall = _held(rise), _held(fall)
    order = jnp.argsort(-values, axis=-1)
    values, weights, rise, fall = (
        jnp.take_along_axis(array, order, axis=-1) for array in (values, weights, rise, fall)
    )
    most = jnp.max(rise, axis=-1, keepdims=True)
    raised, lowered = weights * jnp.exp(rise - most), weights * jnp.exp(-fall - most)

    def totals(above, below):
        first = jnp.cumsum(above, axis=-1)
        # Sums from the end: a difference of sums would cancel.
        rest = jnp.flip(jnp.cumsum(jnp.flip(below, axis=-1), axis=-1), axis=-1)
        none = jnp.zeros_like(first[..., :1])
        return jnp.concatenate([none, first], axis=-1) + jnp.concatenate([rest, none], axis=-1)

    mass = totals(raised, lowered)
    moment = totals(raised * values, lowered * values)
    means = jnp.where(mass > 0, moment / jnp.where(mass > 0, mass, 1), -jnp.inf)
    return jnp.where(jnp.any(mass > 0, axis=-1), jnp.max(means, axis=-1), 0)


def _held(moves):
    """Moves of logits, infinite ones as large as makes the same weights: differences stay defined."""
    return jnp.minimum(moves, jnp.finfo(moves.dtype).max / 4)


def _others(parts):
    """The sum of all entries but one, for each of them."""
    before = jnp.cumsum(parts, axis=-1) - parts
    after = jnp.flip(jnp.cumsum(jnp.flip(parts, axis=-1), axis=-1), axis=-1) - parts
    return jnp.maximum(before, 0) + jnp.maximum(after, 0)


def _share(weight, others):
    total = weight + others
    return jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), 0)
