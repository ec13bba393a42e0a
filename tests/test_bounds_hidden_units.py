"""Hidden units behind attention on balls: nothing found moves or steepens them by more than is said."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from families import ALL_FAMILIES, inputs, scrambled
from helpers import KINDS, random_variables

from poolax import pooling
from poolax._numerics import divisor, safe_norm
from poolax.blocks import TBM
from poolax.bounds._ball_layers import LayerBall
from poolax.bounds._ball_ledger import Balls, carried, integrals
from poolax.bounds._ball_norms import norm_on_ball
from poolax.bounds._ball_tbm import attention_of, layers_of
from poolax.bounds._hidden_units import hidden_units
from poolax.bounds._layer_maps import layer_map
from poolax.bounds._local_norms import norm_at
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
        moved = Reach(after.reaches[place], geometry).radii
        bent = norm_on_ball(layers[1].norm_before, after.x, moved).change
        slopes.append(units.on(changes, after.blocks[place], bent))
    moves = {
        name: row_norm(geometry, integrals(widths, jnp.stack([one[name] for one in slopes]))[-1])
        for name in slopes[-1]
    }
    return slopes[-1], moves


def assert_nothing_is_above(layers, x, attention, geometry, radius):
    """Searches the ball; returns how much of a bound of a derivative is found."""
    real = jnp.ones(x.shape[0], bool)
    units = hidden_units(layers, attention, x, real)
    slopes, moves = on_largest_ball(layers, units, x, attention, real, radius, geometry)
    kernels = {name: layers[1].branch.params[name]["kernel"] for name in slopes}
    sum_of, norm_of = layer_map(layers[0], x, attention, real)

    def hidden(move):
        inner = norm_at(layers[1].norm_before, norm_of(sum_of(x + move)))[0]
        return {name: inner @ kernel for name, kernel in kernels.items()}  # (n, m)

    centre = hidden(jnp.zeros_like(x))

    def found(move):
        jacobians = jax.jacrev(hidden)(move)
        steep = jax.tree.map(lambda jacobian: safe_norm(jacobian, axis=-1), jacobians)
        return steep, jax.tree.map(lambda one, other: jnp.abs(one - other), hidden(move), centre)

    def shares(move):
        steep, moved = found(move)
        pairs = [(steep, slopes), (moved, moves)] if radius else [(steep, slopes)]
        # No token that is not seen moves a unit.
        return sum(
            jnp.max(jnp.where(other[name] > 0, one[name] / divisor(other[name]), 0))
            for one, other in pairs
            for name in kernels
        )

    def onto_ball(move):
        sizes = jnp.linalg.norm(move, axis=-1, keepdims=True)
        size = jnp.linalg.norm(sizes) if geometry == "frobenius" else sizes
        return move * jnp.where(size > radius, radius / jnp.where(size > 0, size, 1), 1)

    @jax.jit
    def climb(move, _):
        step = jax.grad(shares)(move)
        step = step / jnp.maximum(jnp.linalg.norm(step), 1e-12)
        return onto_ball(move + 0.3 * radius * step), None

    best = 0.0
    for start in map(onto_ball, 10 * radius * jax.random.normal(jax.random.key(2), (6, *x.shape))):
        end, _ = jax.lax.scan(climb, start, None, 15)
        steep, moved = found(end)
        for name in kernels:
            assert (steep[name] <= slopes[name] * (1 + 1e-9)).all()
            assert (moved[name] <= moves[name] + 1e-12).all()
            best = max(best, float(jnp.max(steep[name] / divisor(slopes[name]))))
    return best


@pytest.mark.parametrize(
    ("kind", "geometry", "radius"),
    [case if case in DEFAULT else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_nothing_found_on_a_ball_is_above(kind, geometry, radius, x64):
    model = TBM(2, pooling.AveragePool(), KINDS[kind])
    x = jax.random.normal(jax.random.key(0), (NUM_TOKENS, DIM))
    params = random_variables(model, jax.random.key(1), x)["params"]
    attention = attention_of(model, params, x, None)
    best = assert_nothing_is_above(layers_of(model, params, x.dtype), x, attention, geometry, radius)
    # At the centre all is known.
    assert best > (0.99 if radius == 0 else 0.5 if radius < 1 else 0)


@pytest.mark.slow
@pytest.mark.parametrize("radius", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", ["bert", "vit", "decoder"])
def test_nothing_is_above_where_tokens_are_normalised(name, geometry, radius, x64):
    """Behind attention, before the hidden units, and before both with a gate."""
    backbone = scrambled(ALL_FAMILIES[name]())
    params = jax.tree.map(lambda leaf: leaf.astype(float), backbone.params)
    embeddings, mask = backbone.embed(params, inputs(name, 1))
    maps = backbone.encode(params, embeddings, mask, return_weights=True).weights
    layers, x = list(backbone.layer_specs(params)), embeddings[0]
    best = assert_nothing_is_above(layers[:2], x, maps[0][0], geometry, radius)
    assert best > (0.99 if radius == 0 else 0)


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
