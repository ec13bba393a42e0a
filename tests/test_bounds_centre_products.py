"""Norms of products of layers at the centre of a ball, and bounds behind them on the ball."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import ALL_FAMILIES, inputs, scrambled

from poolax import backbones, bounds, pooling
from poolax._squaring import eigenvalue_above
from poolax.bounds import _centre_products, _local_whole
from poolax.bounds._layer_maps import layer_map, states_through


def at_input(name):
    """Layers of a small backbone, their attention, and what enters each."""
    backbone = scrambled(ALL_FAMILIES[name]())
    params = jax.tree.map(lambda leaf: leaf.astype(float), backbone.params)
    embeddings, mask = backbone.embed(params, inputs(name, 1))
    out = backbone.encode(params, embeddings, mask, return_weights=True)
    real = jnp.ones(embeddings.shape[1], bool) if mask is None else mask[0]
    maps, layers = iter(out.weights), list(backbone.layer_specs(params))
    attention = [next(maps)[0] if _centre_products.is_attention(spec) else None for spec in layers]
    states = states_through(layers, attention, embeddings[0], real)
    return layers, attention, states, real, out.weights


@contextlib.contextmanager
def bounds_of_norms(monkeypatch):
    """Bounds of the norms of blocks are taken, whatever their width, and nothing of it stays compiled."""
    with monkeypatch.context() as patched:
        patched.setattr(_local_whole, "_SMALL", 0)
        jax.clear_caches()
        yield
    jax.clear_caches()


@pytest.mark.parametrize("name", ["bert", pytest.param("decoder", marks=pytest.mark.slow)])
def test_norms_of_products(name, x64, monkeypatch):
    """Exact where they are formed, from one layer of attention to another, above elsewhere."""
    layers, attention, states, real, _ = at_input(name)
    table = np.asarray(_centre_products.product_norms(layers, attention, states, real))
    with bounds_of_norms(monkeypatch):
        above = np.asarray(_centre_products.product_norms(layers, attention, states, real))
    jacobians = []
    for spec, weights, x in zip(layers, attention, states, strict=False):
        sum_of, norm_of = layer_map(spec, x, weights, real)
        jacobians.append(jax.jacfwd(lambda x, s=sum_of, n=norm_of: n(s(x)))(x))  # (n, d, n, d)
    starts = [k for k, spec in enumerate(layers) if k == 0 or _centre_products.is_attention(spec)]
    for start in range(len(layers)):
        whole = jacobians[start]
        for end in range(start + 1, len(layers) + 1):
            if end > start + 1:
                whole = jnp.tensordot(jacobians[end - 1], whole, 2)
            true = np.linalg.norm(np.moveaxis(whole, 2, 1), 2, axis=(2, 3))
            assert (true <= table[start, end] * (1 + 1e-9)).all(), (start, end)
            assert (table[start, end] <= above[start, end] * (1 + 1e-9)).all()
            if start in starts and end in (*starts, len(layers)):
                np.testing.assert_allclose(table[start, end], true, rtol=1e-9, atol=1e-12)
                width = states[0].shape[1]
                assert (above[start, end] <= width ** (1 / 16) * true * (1 + 1e-9) + 1e-12).all()
    assert not table[2, 1].any()


def test_an_eigenvalue_from_above():
    row = jnp.arange(1.0, 5.0)
    # Of rank one it is exact, and of the identity as far above as can be; nothing is zero.
    np.testing.assert_allclose(eigenvalue_above(jnp.outer(row, row)), 30, rtol=1e-6)
    np.testing.assert_allclose(eigenvalue_above(3 * jnp.eye(16)), 3 * 16 ** (1 / 8), rtol=1e-6)
    assert eigenvalue_above(jnp.zeros((2, 2))) == 0
    assert jnp.isnan(eigenvalue_above(jnp.full((2, 2), jnp.nan)))


@pytest.mark.slow
@pytest.mark.parametrize("geometry", ["frobenius", "tokens"])
def test_products_certify_more_and_what_is_certified_holds(geometry, x64, monkeypatch):
    """Of an input that only just is not what it could be taken for."""
    layers, _, states, _, weights = at_input("bert")
    kernel = jax.random.normal(jax.random.key(2), (states[0].shape[1], 3), float)
    label = jnp.argmax(pooling.average_pool(states[-1]) @ kernel)
    certified = functools.partial(
        bounds.certify, pooling.AveragePool(), {"params": {"output": {"kernel": kernel}}}, states[0],
        label, geometry=geometry, layers=layers, weights=[maps[0] for maps in weights],
    )  # fmt: skip
    with_products = certified().radius
    monkeypatch.setattr("poolax.bounds._certify_layers.product_norms", lambda *_: None)
    assert with_products > 1.2 * certified().radius


def ledgers(layers, x, weights, real, epsilon, geometry):
    poolers = [None, pooling.AveragePool(), pooling.MaxPool()]
    maps = [maps[0] for maps in weights]
    tables = bounds.local_ledgers(
        layers, x, maps, real, poolers=poolers, epsilon=epsilon, geometry=geometry
    )
    return np.stack([table.lipschitz for table in tables])


def attained(blocks):
    """The largest ``|sum_k B_k x_k|`` over ``|x_k| <= 1`` that an ascent finds."""
    found = []
    for u in np.random.default_rng(0).normal(size=(20, blocks.shape[1])):
        for _ in range(300):
            moves = np.einsum("e,ned->nd", u, blocks)
            lengths = np.linalg.norm(moves, axis=1, keepdims=True)
            u = np.einsum("ned,nd->e", blocks, moves / np.where(lengths > 0, lengths, 1))
        found.append(np.linalg.norm(u))
    return max(found)


@pytest.mark.slow
@pytest.mark.parametrize("geometry", ["frobenius", "tokens"])
@pytest.mark.parametrize("name", ["vit", "bert", "gpt2", "gpt2-l2", "decoder"])
def test_ledgers_on_balls(name, geometry, x64, monkeypatch):
    """Never smaller than at the point alone, which is exact, never larger than without products."""
    layers, attention, states, real, weights = at_input(name)
    radii = (1e-11, 1e-4, 1e-2, 0.3)
    given = [(layers, states[0], weights, real, radius, geometry) for radius in (0, *radii)]
    at_point, *found = [ledgers(*one) for one in given]
    assert (np.diff([at_point, *found], axis=0) >= 0).all()
    given, found = given[1:], np.stack(found)
    monkeypatch.setattr("poolax.bounds._local_ledger.product_norms", lambda *_: None)
    without = np.stack([ledgers(*one) for one in given])
    assert (found <= without * (1 + 1e-9)).all()
    assert (found[0] < 0.9 * without[0]).all()

    def whole(x):
        for spec, maps, centre in zip(layers, attention, states, strict=False):
            sum_of, norm_of = layer_map(spec, centre, maps, real)
            x = norm_of(sum_of(x))
        return x

    jacobian = np.asarray(jax.jacfwd(whole)(states[0]))  # (n, d, n, d)
    blocks = np.linalg.norm(np.moveaxis(jacobian, 2, 1), 2, axis=(2, 3))
    exact = np.linalg.norm(blocks, 2) if geometry == "frobenius" else blocks.sum(axis=1).max()
    # An entry may be smaller yet by products of norms, which differ from it by rounding alone.
    np.testing.assert_allclose(found[0, 0], exact, rtol=1e-5)
    matrices = [jacobian]
    for pooler in (pooling.average_pool, pooling.max_pool):
        derivative = np.asarray(jax.jacrev(functools.partial(pooler, mask=real))(states[-1]))
        matrices.append(np.einsum("eid,idkf->ekf", derivative, jacobian)[None])
    for row, whole_of in zip(at_point, matrices, strict=True):
        # (m, e, n, d): outputs whose Euclidean norm counts each, or all of them together.
        if geometry == "frobenius":
            largest = np.linalg.norm(whole_of.reshape(-1, jacobian[0, 0].size), 2)
            np.testing.assert_allclose(row, largest, rtol=1e-9)
        else:
            largest = max(attained(np.moveaxis(one, 1, 0)) for one in whole_of)
            # Where the eigenvalue is not simple the best weights are off by up to this factor.
            assert largest * (1 - 1e-9) <= row <= np.sqrt(np.pi / 2) * largest


@pytest.mark.slow
def test_slopes_of_norms_of_products_are_finite(x64, monkeypatch):
    """Where blocks are zero, at masked tokens, as well."""
    layers, attention, states, _, _ = at_input("bert")
    real = jnp.arange(len(states[0])) > 0

    def total(x):
        at = states_through(layers, attention, x, real)
        return _centre_products.product_norms(layers, attention, at, real).sum()

    with bounds_of_norms(monkeypatch):
        assert jnp.isfinite(jax.jit(jax.grad(total))(states[0])).all()


@pytest.mark.slow
def test_ledgers_on_balls_are_functions(x64):
    """Of radii and inputs that are traced."""
    config = backbones.BertConfig(50, 12, width=8, num_layers=2, num_heads=2, mlp_dim=8)
    bert = backbones.Bert.init(config, jax.random.key(0))
    embeddings, _ = bert.embed(bert.params, jnp.array([[3, 4, 5]]))
    maps = bert.encode(bert.params, embeddings, return_weights=True).weights
    layers, weights = list(bert.layer_specs(bert.params)), [one[0] for one in maps]

    def bound(x, epsilon):
        options = {"pooler": pooling.AveragePool(), "epsilon": epsilon}
        return bounds.local_ledger(layers, x, weights, **options).log_lipschitz

    found = jax.jit(bound)(embeddings[0], 1e-3)
    np.testing.assert_allclose(found, bound(embeddings[0], 1e-3), rtol=1e-5)
