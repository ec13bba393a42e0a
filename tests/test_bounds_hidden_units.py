"""Hidden units behind attention on balls: nothing found moves or steepens them by more than is said."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from helpers import KINDS, random_variables

from poolax import pooling
from poolax.blocks import TBM
from poolax.bounds._ball_layers import LayerBall
from poolax.bounds._ball_ledger import Balls, carried, integrals
from poolax.bounds._ball_tbm import attention_of, layers_of
from poolax.bounds._hidden_units import hidden_units
from poolax.bounds._layer_maps import layer_map
from poolax.bounds._reach import Reach, row_norm

NUM_TOKENS, DIM = 5, 6
GEOMETRIES = ("frobenius", "tokens")
CASES = list(itertools.product(KINDS, GEOMETRIES, (0.0, 0.05, 1.0)))
DEFAULT = {("cosine", "tokens", 0.05)}


def on_largest_ball(layers, units, x, attention, real, radius, geometry):
    """Bounds of the units' derivatives by the input and of their moves, on the ball of a radius."""
    widths = jnp.full(4, radius / 4)
    balls = Balls.around(x, real, widths, geometry)
    layer = LayerBall(layers[0], x, attention, real)
    after, (sums, sum_reaches, _) = carried(layer, layers[0], balls)
    slopes = []
    for place in range(4):
        found = jax.tree.map(lambda leaf, place=place: leaf[place], sums)
        reaches = Reach(sum_reaches[place], geometry), Reach(balls.reaches[place], geometry)
        changes = units.changes(layers[0], layer, found, *reaches)
        slopes.append(units.on(changes, after.blocks[place], jnp.zeros(NUM_TOKENS))["hidden"])
    return slopes[-1], row_norm(geometry, integrals(widths, jnp.stack(slopes))[-1])


@pytest.mark.parametrize(
    ("kind", "geometry", "radius"),
    [case if case in DEFAULT else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_nothing_found_on_a_ball_is_above(kind, geometry, radius, x64):
    model = TBM(2, pooling.AveragePool(), KINDS[kind])
    x = jax.random.normal(jax.random.key(0), (NUM_TOKENS, DIM))
    params = random_variables(model, jax.random.key(1), x)["params"]
    layers, real = layers_of(model, params, x.dtype), jnp.ones(NUM_TOKENS, bool)
    attention = attention_of(model, params, x, real)
    units = hidden_units(layers, attention, x, real)
    slopes, moves = on_largest_ball(layers, units, x, attention, real, radius, geometry)
    kernel = params["ffn"]["kernel"]
    sum_of, norm_of = layer_map(layers[0], x, attention, real)

    def hidden(move):
        return norm_of(sum_of(x + move)) @ kernel  # (n, m)

    def found(move):
        steep = jnp.linalg.norm(jax.jacrev(hidden)(move), axis=-1)  # (n, m, n)
        return steep, jnp.abs(hidden(move) - hidden(jnp.zeros_like(x)))

    def shares(move):
        steep, moved = found(move)
        share = jnp.max(moved / moves) if radius else 0.0
        return jnp.max(steep / slopes) + share

    def onto_ball(move):
        sizes = jnp.linalg.norm(move, axis=-1, keepdims=True)
        size = jnp.linalg.norm(sizes) if geometry == "frobenius" else sizes
        return move * jnp.where(size > radius, radius / jnp.where(size > 0, size, 1), 1)

    @jax.jit
    def climb(move, _):
        step = jax.grad(shares)(move)
        step = step / jnp.maximum(jnp.linalg.norm(step), 1e-12)
        move = onto_ball(move + 0.3 * radius * step)
        return move, shares(move)

    starts = 10 * radius * jax.random.normal(jax.random.key(2), (6, NUM_TOKENS, DIM))
    best = 0.0
    for start in map(onto_ball, starts):
        end, _ = jax.lax.scan(climb, start, None, 15)
        steep, moved = found(end)
        assert (steep <= slopes * (1 + 1e-9)).all()
        assert (moved <= moves + 1e-12).all()
        best = max(best, float(jnp.max(steep / slopes)))
    # At the centre all is known.
    assert best > (0.99 if radius == 0 else 0.5 if radius < 1 else 0)


def test_layers_that_are_not_small_have_none():
    model = TBM(2, pooling.AveragePool())
    x = jnp.ones((NUM_TOKENS, DIM))
    params = random_variables(model, jax.random.key(1), x)["params"]
    layers, real = layers_of(model, params, x.dtype), jnp.ones(NUM_TOKENS, bool)
    attention = attention_of(model, params, x, real)
    assert hidden_units(layers, attention, x, real) is not None
    assert hidden_units(layers[:1], attention, x, real) is None
    assert hidden_units(layers[1:], None, x, real) is None
    assert hidden_units(layers, attention, jnp.ones((4097, 1)), real) is None
    assert hidden_units(layers, attention, jnp.ones((2, 129)), real) is None
