"""How little moves a linear score of the coordinate-wise maximum of tokens.

Theory, section 9.3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax._numerics import safe_sqrt

# Steps of the price where all weights are one, and where they have been found.
_STEPS, _LAST = 12, 6
# The share of their weight that tokens have whatever they move.
_EVEN = 0.01


class _Problem(NamedTuple):
    """What has to be lost, and what stands in the way.

    Attributes:
        below: How far each token is below the maximum, infinite where it is masked.
        size: ``|u|``.
        falls: Where the maximum has to fall.
        margin: What the score has to lose.
    """

    below: Float[Array, "n d"]
    size: Float[Array, " d"]
    falls: Bool[Array, " d"]
    margin: Float[Array, ""]


class _Place(NamedTuple):
    """What a bound is taken at, whatever it is.

    Attributes:
        weights: ``mu``, of the tokens.
        price: ``lambda``, for a unit of score.
        moves: ``t``, how far maxima fall.
    """

    weights: Float[Array, " n"]
    price: Float[Array, ""]
    moves: Float[Array, " d"]


class _Seen(NamedTuple):
    """What is seen from there.

    Attributes:
        square: The bound of the weighted cost.
        by_token: The square of what each token moves.
        slopes: How fast each maximum moves with the price.
        offsets: How far it would move at price 0 at this rate.
    """

    square: Float[Array, ""]
    by_token: Float[Array, " n"]
    slopes: Float[Array, " d"]
    offsets: Float[Array, " d"]


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
    largest change of a token; any weights, any price for a unit of score and any ``t`` give a bound. In
    the Frobenius norm all weights are one and the bound is attained.

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
    below = jnp.where(real[:, None], jnp.max(seen, axis=0)[None] - seen, jnp.inf)
    size = jnp.abs(direction)
    problem = _Problem(below, size, direction > 0, margin)
    # At the best place the bound's derivative is that with the place held.
    fixed = jax.lax.stop_gradient(problem)
    found = _priced(fixed) if geometry == "frobenius" else _weighed(fixed, real)
    square = jnp.maximum(_look(problem, found).square, 0)
    return jnp.where(jnp.any(size > 0), safe_sqrt(square), jnp.inf)


def _priced(problem):
    """The best price and moves where all weights are one.

    Moves that solve the equations of tokens that were to be lowered are never below the true ones, and
    the price never above the best one: both approach them from that side, and get there.
    """

    def step(_, place):
        seen = _look(problem, place)
        return _towards(problem, place.weights, _balanced(problem, seen), seen)

    ones = jnp.ones_like(problem.below[:, 0])
    return jax.lax.fori_loop(0, _STEPS, step, _lone(problem, ones))


def _weighed(problem, real):
    """The best weights, price and moves that are found."""
    searches, weighings = _effort(problem.below.size)
    even = (real / jnp.maximum(jnp.sum(real), 1)).astype(problem.size.dtype)

    def step(number, found):
        turn, late = number // (searches + 1), number % (searches + 1)
        weighs = turn < weighings
        place, (low, high), best, at_best = found
        seen = _look(problem, place)
        better = seen.square > best
        best = jnp.maximum(best, seen.square)
        at_best = jax.tree.map(lambda new, old: jnp.where(better, new, old), place, at_best)
        # The best price is where what is bought passes the margin. What is bought jumps there, if
        # another token is the cheapest to raise.
        bought = jnp.sum(problem.size * (seen.slopes * place.price + seen.offsets))
        enough = bought >= problem.margin
        stale = jnp.where(enough, place.price <= low, place.price >= high)
        low, high = (
            jnp.where(enough, jnp.where(stale, place.price / 2, low), place.price),
            jnp.where(enough, place.price, jnp.where(stale, 2 * place.price, high)),
        )
        climbs = weighs & (late == searches)
        # With the weights the best price changes, by less and less.
        wider = jnp.where(climbs, 1 + max(searches, 1) / (1 + turn), 1)
        low, high = low / wider, high * wider
        wanted = _balanced(problem, seen)
        middle = jnp.sqrt(low) * jnp.sqrt(high)
        price = jnp.where((wanted > low) & (wanted < high), wanted, middle)
        # Tokens are weighed by what they move where enough is bought.
        price = jnp.where(weighs & (late + 1 == searches), high, price)
        weights = jnp.where(climbs, _climbed(place.weights, even, seen.by_token, turn), place.weights)
        weights = jnp.where(weighs, weights, at_best.weights)
        return _towards(problem, weights, price, seen), (low, high), best, at_best

    start = _lone(problem, even)
    ends = start.price / 4, 4 * start.price
    found = start, ends, jnp.zeros_like(start.price), start
    return jax.lax.fori_loop(0, (searches + 1) * weighings + _LAST, step, found)[-1]


def _effort(entries: int) -> tuple[int, int]:
    """How many prices are tried with the same weights, and how many weights.

    Of few coordinates each counts for much, and with it the price at which it jumps; of many the price
    settles while weights do.
    """
    if entries <= 1024:
        return 11, 24
    return (3, 24) if entries <= 8192 else (0, 32)


def _climbed(weights, even, by_token, turn):
    """Weights towards tokens that move most, by less and less: a concave function is climbed."""
    most = jnp.max(by_token)
    share = by_token / jnp.where(most > 0, most, 1) + 1e-3
    grown = weights * share ** (1 / (2 + turn))
    total = jnp.sum(grown)
    return (1 - _EVEN) * grown / jnp.where(total > 0, total, 1) + _EVEN * even


def _lone(problem, weights):
    """The best price and moves if the largest token of each coordinate were lowered alone."""
    least = jnp.maximum(jnp.sum(jnp.square(problem.size)), jnp.finfo(problem.size.dtype).tiny)
    moves = problem.margin * problem.size / least
    return _Place(weights, 2 * problem.margin * jnp.max(weights) / least, moves)


def _balanced(problem, seen):
    """The price at which as much is bought as has to be lost, at the rates seen."""
    rate = jnp.sum(problem.size * seen.slopes)
    missing = problem.margin - jnp.sum(problem.size * seen.offsets)
    return jnp.maximum(missing / jnp.where(rate > 0, rate, 1), 0)


def _towards(problem, weights, price, seen):
    """Weights, a price, and how far maxima fall there at the rates seen."""
    moves = jnp.where(problem.falls, seen.slopes * price + seen.offsets, 0)
    return _Place(weights, price, moves)


def _look(problem, place):
    """The bound at any place, and where to go from there."""
    below, size, falls, margin = problem
    weights, price, moves = place
    worth = price * size

    # A fall by t costs sum_i w_i max(t - gap_i, 0)^2: half its derivative, and that of this. Sums over
    # tokens are products with a vector, which are far faster on a CPU.
    over = jnp.maximum(moves[None] - below, 0)  # (n, d)
    half, mass = weights @ over, weights @ (below <= moves[None]).astype(weights.dtype)
    solid = jnp.where(mass > 0, mass, 1)
    # Where the derivative is not the worth the bound is lower by as much at most.
    apart = jnp.where(falls, 2 * half - worth, 0)
    excess = jnp.square(apart) * moves / (2 * jnp.where(half > 0, half, 1))
    excess = jnp.where(half > 0, excess, jnp.where(apart == 0, 0, jnp.inf))

    # A token that is ``gap`` below gains, over what a unit is worth, worth / 4 w - gap.
    steps = jnp.where(weights > 0, 1 / (4 * jnp.where(weights > 0, weights, 1)), 0)[:, None]
    gains = worth[None] * steps - below
    gain = jnp.max(gains, axis=0)
    step = jnp.max(jnp.where(gains == gain[None], steps, 0), axis=0)
    rises = gain > 0
    raised = jnp.where(rises, gain + worth * step, 0)
    lifts = (gains == gain[None]) & rises[None]

    cost = jnp.where(rises, jnp.square(worth) * step, 0)
    cost = jnp.where(falls, weights @ jnp.square(over), cost)
    bought = jnp.where(falls, moves, raised)
    moved = jnp.where(falls[None], over, jnp.where(lifts, 2 * worth[None] * steps, 0))
    return _Seen(
        square=jnp.sum(cost - excess) + price * (margin - jnp.sum(size * bought)),
        by_token=jnp.sum(jnp.square(moved), axis=-1),
        slopes=jnp.where(falls, size / (2 * solid), jnp.where(rises, 2 * size * step, 0)),
        offsets=jnp.where(falls, moves - half / solid, jnp.where(rises, gain - worth * step, 0)),
    )
