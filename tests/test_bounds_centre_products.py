"""Norms of products of layers at the centre of a ball, and bounds behind them on the ball."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import ALL_FAMILIES, inputs, scrambled

from poolax import bounds, pooling
from poolax._squaring import eigenvalue_above
from poolax.bounds import _centre_products
from poolax.bounds._layer_maps import layer_map


def at_input(name):
    """Layers of a small backbone, their attention, and what enters each."""
    backbone = scrambled(ALL_FAMILIES[name]())
    params = jax.tree.map(lambda leaf: leaf.astype(float), backbone.params)
    embeddings, mask = backbone.embed(params, inputs(name, 1))
    out = backbone.encode(params, embeddings, mask, return_weights=True)
    real = jnp.ones(embeddings.shape[1], bool) if mask is None else mask[0]
    maps, layers = iter(out.weights), list(backbone.layer_specs(params))
    attention = [next(maps)[0] if _centre_products.is_attention(spec) else None for spec in layers]
    states = [embeddings[0]]
    for spec, weights in zip(layers, attention, strict=True):
        sum_of, norm_of = layer_map(spec, states[-1], weights, real)
        states.append(norm_of(sum_of(states[-1])))
    return layers, attention, states, real, out.weights


@pytest.mark.parametrize("name", ["bert", pytest.param("decoder", marks=pytest.mark.slow)])
def test_norms_of_products(name, x64, monkeypatch):
    """Exact where they are formed, from one layer of attention to another, above elsewhere."""
    layers, attention, states, real, _ = at_input(name)
    table = np.asarray(_centre_products.product_norms(layers, attention, states, real))
    # Bounds of the norms are taken from this width on, whatever the width.
    monkeypatch.setattr(_centre_products, "_SMALL", 0)
    jax.clear_caches()
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
