"""How little moves a linear score of the coordinate-wise maximum of tokens.

Theory, section 9.3.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_WEIGHINGS, _HALVINGS, _NEARBY = 24, 40, 12
# The share of their weight that tokens have whatever they move.
_EVEN = 0.01


def max_radius(
    z: Float[Array, "n d"],
    real: Bool[Array, " n"],
    direction: Float[Array, " d"],
    margin: Float[Array, ""],
    geometry: str,
) -> Float[Array, ""]:
    r"""A lower bound of the least change of ``z`` that lowers ``direction @ max(z)`` by ``margin``.

    A coordinate that is to fall by ``t`` costs what stands above, one that is to rise costs one token.
    With weights ``mu`` on the tokens that sum to one, the weighted cost is at most the square of the
    largest change of a token, and its least value is a concave maximum over one number, any value of
    which is a bound. In the Frobenius norm all weights are one and the bound is attained.

    Args:
        z: Tokens.
        real: True at real tokens.
        direction: ``u``.
        margin: What the score has to lose, above 0.
        geometry: ``"frobenius"`` or ``"tokens"``.

    Returns:
        The bound; infinite where no direction counts.
    """
    seen = jnp.where(real[:, None], z, -jnp.inf)
    top = jnp.max(seen, axis=0)
    order = jnp.argsort(-seen, axis=0)
    # Of the tokens in descending order, how far each is below the largest; (n, d).
    below = top[None] - seen
    gaps = jnp.take_along_axis(below, order, axis=0)
    falls, tiny = direction > 0, jnp.finfo(z.dtype).tiny
    size = jnp.abs(direction)

    def spent(weights, price):
        """Weighted cost of each token, its sum, and what it buys, at a price for a unit of score."""
        lowered = _lowering(weights[order], gaps)(price * size)
        raised, token = _raised_by(weights, below, price * size)
        moved = jnp.where(falls[None], lowered[None] - below, jnp.where(token, raised[None] + below, 0))
        each = jnp.square(jnp.maximum(moved, 0))  # (n, d)
        bought = jnp.sum(size * jnp.where(falls, lowered, raised))
        by_token = jnp.sum(each, axis=-1)
        return by_token, jnp.sum(weights * by_token), bought

    # At this price enough is bought even where all tokens have to be lowered.
    highest = 4 * z.shape[0] * margin / jnp.maximum(jnp.sum(jnp.square(size)), tiny)

    def at(weights, price):
        """The bound of the square at a price, whatever it is, and what each token moves there."""
        by_token, cost, bought = spent(weights, price)
        return cost + price * (margin - bought), by_token

    def halved(weights, low, high, halvings):
        """The best price for these weights."""
        lowered, raised = _lowering(weights[order], gaps), _raising(weights, below)

        def halve(_, ends):
            low, high = ends
            middle = (low + high) / 2
            worth = middle * size
            enough = jnp.sum(size * jnp.where(falls, lowered(worth), raised(worth))) >= margin
            return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

        return jax.lax.fori_loop(0, halvings, halve, (low, high))[1]

    if geometry == "frobenius":
        ones = jnp.ones(z.shape[0], z.dtype)
        square = at(ones, halved(ones, jnp.zeros_like(highest), highest, _HALVINGS))[0]
    else:
        count = jnp.maximum(jnp.sum(real), 1)
        even = jnp.where(real, 1 / count, 0).astype(z.dtype)

        def weigh(step, found):
            weights, best, price = found
            # Weights change little from step to step, and so does the price.
            price = halved(weights, price / 4, 4 * price, _NEARBY)
            square, by_token = at(weights, price)
            # Towards tokens that move most, by less and less: a concave function is climbed.
            most = jnp.max(by_token)
            share = by_token / jnp.where(most > 0, most, 1) + 1e-3
            grown = weights * share ** (1 / (2 + step))
            grown = grown / jnp.maximum(jnp.sum(grown), tiny)
            return (1 - _EVEN) * grown + _EVEN * even, jnp.maximum(best, square), price

        start = halved(even, jnp.zeros_like(highest), highest, _HALVINGS)
        found = (even, jnp.zeros((), z.dtype), start)
        square = jax.lax.fori_loop(0, _WEIGHINGS, weigh, found)[1]
    found = jnp.sqrt(jnp.maximum(square, 0))
    return jnp.where(jnp.any(size > 0), found, jnp.inf)


def _lowering(weights, gaps):
    """How far each maximum falls where lowering is worth so much a unit; tokens by rank, ``(n, d)``.

    The root of ``2 sum_i w_i max(t - gap_i, 0) = worth``: the least of those of all leading sums, each
    of which is linear in what it is worth.
    """
    mass = jnp.cumsum(weights, axis=0)
    moment = jnp.cumsum(jnp.where(jnp.isfinite(gaps), weights * gaps, jnp.inf), axis=0)
    slopes, offsets = 1 / (2 * mass), moment / mass
    return lambda worth: jnp.min(worth[None] * slopes + offsets, axis=0)


def _raising(weights, below):
    """How far each maximum rises where raising is worth so much a unit; see :func:`_raised_by`."""
    heavy = jnp.where(weights > 0, weights, 1)[:, None]
    steps = jnp.where((weights > 0)[:, None], 1 / (4 * heavy), 0)

    def raised(worth):
        # What each token gains, over what a unit is worth, is linear in that.
        gain = worth[None] * steps - below
        most = jnp.max(gain, axis=0)
        step = jnp.max(jnp.where(gain == most[None], steps, 0), axis=0)
        return jnp.where(most > 0, most + worth * step, 0)

    return raised


def _raised_by(weights, below, worth):
    """How far each maximum rises, and which token raises it, ``(d,)`` and ``(n, d)``.

    A token that is ``gap`` below gains ``worth t - w (t + gap)^2``; the one that gains most does it.
    """
    heavy = jnp.where(weights > 0, weights, 1)[:, None]
    by = jnp.where((weights > 0)[:, None], worth[None] / (2 * heavy) - below, -jnp.inf)
    gain = jnp.where(by > 0, worth[None] * (by - worth[None] / (4 * heavy)), -jnp.inf)
    best = jnp.argmax(gain, axis=0)
    raised = jnp.maximum(jnp.take_along_axis(by, best[None], axis=0)[0], 0)
    counts = jnp.max(gain, axis=0) > 0
    token = (jnp.arange(below.shape[0])[:, None] == best[None]) & counts[None]
    return jnp.where(counts, raised, 0), token
