"""Bounds of blocks, poolers and backbones on a ball: attacks inside of it stay below them."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import ALL_FAMILIES, inputs, scrambled
from helpers import KINDS, POOLERS, largest_in_ball, pad, random_tokens, random_variables

from poolax import bounds, pooling
from poolax._activations import gelu, gelu_tanh, quick_gelu
from poolax._layer_specs import DictionarySpec, FeedForwardSpec, NormSpec
from poolax._numerics import safe_norm
from poolax.blocks import TBM
from poolax.bounds._ball_dictionary import DictionaryBall, dictionary_at
from poolax.bounds._ball_norms import norm_on_ball
from poolax.bounds._ball_tokens import TokensBall
from poolax.bounds._local_layers import tokens_at
from poolax.bounds._local_norms import norm_at
from poolax.bounds._slope_range import slope_range

NUM_TOKENS, DIM = 4, 4
RADII = (0.02, 0.3)
GEOMETRIES = ("frobenius", "tokens")


@pytest.mark.parametrize("activation", [nn.relu, jnp.tanh, gelu, gelu_tanh, nn.silu, quick_gelu])
def test_slopes_on_intervals(activation, x64):
    """Against a fine grid, on intervals that hold turning points and such that do not."""
    grid = jnp.linspace(-6, 6, 24_001)
    slopes = np.asarray(jax.jvp(activation, (grid,), (jnp.ones_like(grid),))[1])
    places = np.array([-6.0, -2.4, -1.5, -1.41, -0.2, 0.1, 1.3, 1.42, 2.3, 2.5, 5.0])
    ends = [pair for pair in itertools.product(places, places) if pair[0] < pair[1]]
    low, high = slope_range(activation, *(jnp.asarray(side) for side in zip(*ends, strict=True)))
    for number, (first, last) in enumerate(ends):
        inside = slopes[(np.asarray(grid) >= first) & (np.asarray(grid) <= last)]
        assert low[number] - 1e-12 <= inside.min() <= low[number] + 1e-3
        assert high[number] - 1e-3 <= inside.max() <= high[number] + 1e-12


@pytest.mark.parametrize("kind", ["layer", "rms", "center"])
def test_norms_on_a_ball(kind, x64):
    x = random_tokens(jax.random.key(0), 3, DIM, 1.0)
    spec = NormSpec(kind, jnp.array([1.0, -2.0, 0.5, 0.1]), None, eps=0.01)
    moved = jnp.array([0.01, 0.3, 2.0])
    found = norm_on_ball(spec, x, moved)
    centre = norm_at(spec, x)[1]
    directions = jax.random.normal(jax.random.key(1), (40, 3, DIM))
    directions /= jnp.linalg.norm(directions, axis=-1, keepdims=True)
    for direction in directions:
        after = norm_at(spec, x + moved[:, None] * direction)[1]
        for token in range(3):
            now, before = after.matrix(token), centre.matrix(token)
            assert np.linalg.norm(now, 2) <= found.steepest[token] * (1 + 1e-9)
            assert np.linalg.norm(now - before, 2) <= found.change[token] * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("gated", [False, True])
def test_feed_forward_layers_on_a_ball(gated, x64):
    """Jacobians change by less than is said, and by no less than a twentieth where all may change."""
    keys = jax.random.split(jax.random.key(2), 4)
    x = random_tokens(keys[0], 3, DIM, 1.0)
    shapes = {"hidden": (DIM, 6), "out": (6, DIM)} | ({"gate": (DIM, 6)} if gated else {})
    params = {
        name: {"kernel": jax.random.normal(key, shape, float), "bias": jnp.full(shape[1], 0.1)}
        for (name, shape), key in zip(shapes.items(), keys[1:], strict=False)
    }
    spec = FeedForwardSpec(params, nn.silu if gated else nn.relu)
    _, jacobian, middle = tokens_at(spec, x)
    ball = TokensBall(spec, 1.0, x, middle)
    moved = jnp.array([0.01, 0.2, 1.0])
    change, largest = ball.on(moved)
    covectors = random_tokens(keys[3], 3, DIM, 1.0)
    along = ball.along(covectors)(moved)[0]
    ratios = []
    directions = jax.random.normal(jax.random.key(1), (40, 3, DIM))
    directions /= jnp.linalg.norm(directions, axis=-1, keepdims=True)
    for direction in directions:
        now = tokens_at(spec, x + moved[:, None] * direction)[1]
        for token in range(3):
            apart = np.asarray(now(token) - jacobian(token))
            assert np.linalg.norm(now(token), 2) <= largest[token] * (1 + 1e-9)
            assert np.linalg.norm(apart, 2) <= change[token] * (1 + 1e-9) + 1e-12
            assert np.linalg.norm(apart @ covectors[token]) <= along[token] * (1 + 1e-9) + 1e-12
            ratios.append(np.linalg.norm(apart, 2) / max(change[token], 1e-9))
    assert max(ratios) > 0.05


def test_a_dictionary_on_a_ball(x64):
    """Jacobians of what tokens read change by less than is said, and not by far less."""
    keys = jax.random.split(jax.random.key(2), 5)
    x = random_tokens(keys[0], 3, DIM, 1.0)
    spec = DictionarySpec(*jax.random.normal(keys[1], (2, 2, 5, DIM), float))
    weights = dictionary_at(spec, x)[2]["weights"]
    ball = DictionaryBall(spec, 1.0, weights)
    moved = jnp.array([0.01, 0.2, 1.0])
    covectors = random_tokens(keys[3], 3, DIM, 1.0)
    change, largest = ball.on(moved)
    along, largest_along = ball.along(covectors)(moved)

    @jax.jit
    def jacobians(x):
        # Rows are changes, as in the bounds.
        out = jax.vmap(jax.jacrev(lambda x: dictionary_at(spec, x[None])[0][0]))(x)
        return jnp.swapaxes(out, 1, 2)

    centre = jacobians(x)
    np.testing.assert_allclose(centre[0], dictionary_at(spec, x)[1](0), rtol=1e-9)
    directions = jax.random.normal(keys[4], (40, 3, DIM))
    directions /= jnp.linalg.norm(directions, axis=-1, keepdims=True)
    at = jax.vmap(lambda direction: jacobians(x + moved[:, None] * direction))(directions)
    apart = at - centre
    norms = {
        "largest": (jnp.linalg.norm(at, 2, axis=(-2, -1)), largest),
        "change": (jnp.linalg.norm(apart, 2, axis=(-2, -1)), change),
        "largest_along": (safe_norm(jnp.einsum("sido,io->sid", at, covectors), -1), largest_along),
        "along": (safe_norm(jnp.einsum("sido,io->sid", apart, covectors), -1), along),
    }
    for name, (found, bound) in norms.items():
        assert (found <= bound * (1 + 1e-9)).all(), name
        assert (jnp.max(found, axis=0) >= 0.05 * bound).all(), name


def tbm_of(kind, pooler):
    model = TBM(2, POOLERS[pooler], KINDS[kind])
    x = random_tokens(jax.random.key(0), NUM_TOKENS, DIM, 1.5)
    return model, random_variables(model, jax.random.key(1), x), x


# The rest cost two compilations each.
TBMS = {("dot", "max", "frobenius")}


@pytest.mark.parametrize(
    ("kind", "pooler", "geometry"),
    [
        case if case in TBMS else pytest.param(*case, marks=pytest.mark.slow)
        for case in itertools.product(KINDS, POOLERS, GEOMETRIES)
    ],
)
def test_one_block_models(kind, pooler, geometry, x64):
    model, variables, x = tbm_of(kind, pooler)
    bound = jax.jit(
        lambda radius: bounds.local_tbm(model, variables, x, epsilon=radius, geometry=geometry)
    )

    def apply(x):
        return model.apply(variables, x)

    last = 0.0
    for radius in RADII:
        now = bound(radius).lipschitz
        found = largest_in_ball(apply, x, geometry, jnp.asarray(radius))
        assert found <= now, f"{found} above {now} at {radius}"
        assert now >= last
        last = now
    if (kind, pooler, geometry) in TBMS:
        # A small ball is hardly worse than its centre.
        at = bounds.local_tbm(model, variables, x, geometry=geometry).lipschitz
        assert 0.99 * at <= bound(1e-7).lipschitz <= 1.5 * at


@pytest.mark.slow
def test_padding_of_one_block_models(x64):
    model, variables, x = tbm_of("dot", "max")
    padded, mask = pad(x, 0, 1, np.nan)
    found = [
        bounds.local_tbm(model, variables, *given, epsilon=0.1, geometry="tokens").lipschitz
        for given in ((x,), (padded, mask))
    ]
    np.testing.assert_allclose(*found, rtol=1e-9)


def test_the_integral_is_below_the_last_value(x64):
    assert 1.5 <= bounds.largest_move(lambda radius: 1 + radius, 1.0, steps=50) <= 1.52
    assert bounds.largest_move(lambda radius: jnp.inf * radius, 0.0) == jnp.inf
    for options in ({"epsilon": -1.0}, {"epsilon": 1.0, "steps": 0}):
        with pytest.raises(ValueError, match=r"epsilon: expected|steps: expected"):
            bounds.largest_move(lambda radius: radius, **options)


LEDGERS = [name for name in ALL_FAMILIES if name not in ("swin", "lipsformer", "timesfm")]


@pytest.mark.parametrize(
    ("name", "geometry"),
    list(itertools.product(LEDGERS, GEOMETRIES)),
)
@pytest.mark.slow
def test_backbones(name, geometry, x64):
    backbone = scrambled(ALL_FAMILIES[name]())
    params = jax.tree.map(lambda leaf: leaf.astype(float), backbone.params)
    embeddings, mask = backbone.embed(params, inputs(name, 1))
    x = embeddings.reshape(-1, *embeddings.shape[-2:])[0]
    mask = None if mask is None else mask.reshape(-1, mask.shape[-1])[0]
    batched = None if mask is None else mask[None]
    maps = backbone.encode(params, x[None], batched, return_weights=True).weights
    pooler = pooling.AveragePool()

    def pooled(x):
        return pooler.apply({}, backbone.encode(params, x[None], batched).states[0], mask)

    specs = backbone.layer_specs(params)
    options = {"pooler": pooler, "geometry": geometry}
    for radius in (1e-3, 0.05):
        found = largest_in_ball(pooled, x, geometry, jnp.asarray(radius))
        table = bounds.local_ledger(specs, x, [one[0] for one in maps], mask, epsilon=radius, **options)
        assert np.log(found) <= table.log_lipschitz, radius
