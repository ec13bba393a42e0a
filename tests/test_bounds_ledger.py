"""Ledgers of whole backbones, on domains and at given inputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import ALL_FAMILIES, inputs, scrambled

from poolax import bounds, pooling
from poolax._layer_specs import AttentionSpec, ConvolutionSpec, LayerSpec, MergeSpec
from poolax.attention import L2, DotProduct
from poolax.bounds._linalg import spectral_norm

LOCAL = [name for name in ALL_FAMILIES if name not in ("swin", "lipsformer", "timesfm")]
PADDED = ("bert", "decoder", "gpt2-l2")


def at_input(name):
    """Backbone in double precision, embeddings of one input, its mask, and the map to states."""
    backbone = scrambled(ALL_FAMILIES[name]())
    params = jax.tree.map(lambda leaf: leaf.astype(float), backbone.params)
    embeddings, mask = backbone.embed(params, inputs(name, 1))
    if name in PADDED:
        mask = jnp.arange(embeddings.shape[1])[None] < 5
    x = embeddings.reshape(-1, *embeddings.shape[-2:])[0]
    mask = None if mask is None else mask.reshape(-1, mask.shape[-1])[0]

    def states(x):
        batched = None if mask is None else mask[None]
        out = backbone.encode(params, x[None], batched).states[0]
        return out if mask is None else jnp.where(mask[:, None], out, 0)

    return backbone, params, x, mask, states


@pytest.mark.parametrize("name", ALL_FAMILIES)
def test_sandwich(name, x64):
    """measured <= tight <= sharp, and the token states lie in the domain that is propagated."""
    backbone, params, x, mask, states = at_input(name)
    out = states(x)
    jacobian = jax.jit(jax.jacrev(states))(x)
    measured = np.log(np.linalg.norm(np.asarray(jacobian).reshape(out.size, -1), 2))
    domain = bounds.domain_of(x, mask)
    reached = bounds.domain_of(out, mask if mask is None or out.shape == x.shape else None)
    logs = {}
    for method in ("sharp", "tight"):
        sizes = {"num_tokens": x.shape[0], "radius": domain.radius, "spread": domain.spread}
        table = bounds.ledger(iter(backbone.layer_specs(params)), **sizes, method=method)
        logs[method] = table.log_lipschitz
        assert reached.radius <= table.domain.radius
        assert reached.spread <= table.domain.spread
        factors = sum(row.log_factor for row in table.rows)
        np.testing.assert_allclose(table.log_lipschitz, factors, rtol=1e-9)
        for before, after in zip(table.rows, table.rows[1:], strict=False):
            np.testing.assert_allclose(before.radius_out, after.radius_in, rtol=1e-12)
    assert measured <= logs["tight"] <= logs["sharp"]


@pytest.mark.parametrize("name", LOCAL)
def test_local_sandwich(name, x64):
    """local is what is measured, and below tight, for token states and for poolers on them."""
    backbone, params, x, mask, states = at_input(name)
    batched = None if mask is None else mask[None]
    weights = [
        maps[0] for maps in backbone.encode(params, x[None], batched, return_weights=True).weights
    ]
    specs = backbone.layer_specs(params)
    table = bounds.local_ledger(specs, x, weights, mask)
    np.testing.assert_allclose(table.states, states(x), atol=1e-12)
    jacobian = np.asarray(jax.jit(jax.jacrev(states))(x))
    width = x.shape[-1]
    measured = np.linalg.norm(jacobian.reshape(x.size, -1), 2)
    assert np.log(measured) <= table.log_lipschitz <= sum(row.log_factor for row in table.rows) + 1e-9
    np.testing.assert_allclose(table.lipschitz, measured, rtol=1e-9)
    domain = bounds.domain_of(x, mask)
    count = x.shape[0] if mask is None else int(mask.sum())
    sizes = {"num_tokens": count, "radius": domain.radius, "spread": domain.spread}
    assert table.log_lipschitz <= bounds.ledger(specs, **sizes, method="tight").log_lipschitz
    if name not in ("bert", "decoder"):
        return
    for pooler in (pooling.AveragePool(), pooling.MaxPool(), pooling.LastPool()):
        pooled = bounds.local_ledger(specs, x, weights, mask, pooler=pooler)
        derivative = jax.jacrev(lambda z, p=pooler: p.apply({}, z, mask))(states(x))
        whole = np.einsum("eid,idkf->ekf", derivative, jacobian).reshape(width, -1)
        measured = np.linalg.norm(whole, 2)
        assert measured <= pooled.lipschitz
        np.testing.assert_allclose(pooled.lipschitz, measured, rtol=1e-9)
        assert pooled.rows[-1].name == "pooler"
        assert (
            pooled.log_lipschitz
            <= table.log_lipschitz
            + np.log(np.linalg.norm(np.asarray(derivative).reshape(width, -1), 2))
            + 1e-9
        )


@pytest.mark.slow
@pytest.mark.parametrize(("geometry", "rtol"), [("frobenius", 1e-3), ("tokens", 0.1)])
def test_slopes_at_a_point(geometry, rtol, x64):
    """They are those of the bound, and finite at masked tokens as well; compiled and for many inputs.

    In tokens they are so for weights of tokens that are the best ones, of which those found fall short.
    """
    backbone, params, x, mask, _ = at_input("bert")
    specs = backbone.layer_specs(params)

    def bound(x):
        maps = backbone.encode(params, x[None], mask[None], return_weights=True).weights
        options = {"pooler": pooling.AveragePool(), "geometry": geometry}
        weights = [one[0] for one in maps]
        return bounds.local_ledger(specs, x, weights, mask, **options).log_lipschitz

    way = jnp.where(mask[:, None], jax.random.normal(jax.random.key(1), x.shape, float), 0)
    slope = jax.jit(jax.grad(bound))(x)
    assert jnp.isfinite(slope).all()
    assert not slope[5:].any()
    low, high = jax.jit(jax.vmap(bound))(jnp.stack([x - 1e-5 * way, x + 1e-5 * way]))
    np.testing.assert_allclose(jnp.vdot(slope, way), (high - low) / 2e-5, rtol=rtol)


def test_depth_does_not_overflow():
    backbone = ALL_FAMILIES["bert"]()
    specs = 16 * backbone.layer_specs(backbone.params)
    for method in ("sharp", "tight"):
        table = bounds.ledger(specs, num_tokens=7, radius=3.0, method=method)
        assert np.isfinite(table.log_lipschitz)
        assert table.log_lipschitz > 90
        assert table.lipschitz == np.inf
        with jax.enable_x64(True):
            double = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, float)), specs)
            exact = bounds.ledger(double, num_tokens=7, radius=3.0, method=method)
        np.testing.assert_allclose(table.log_lipschitz, exact.log_lipschitz, rtol=1e-4)
        for single, reference in zip(table.rows, exact.rows, strict=True):
            np.testing.assert_allclose(single.log_factor, reference.log_factor, atol=1e-4)


def test_norms_of_large_matrices_are_certified():
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(size, 1100)))[0] for size in (1100, 1300))
    for values in (np.linspace(0, 1, 1100), np.r_[np.ones(50), np.zeros(1050)], 1e-3 * np.ones(1100)):
        matrix = ((left * values) @ right.T).astype(np.float32)
        found = float(spectral_norm(jnp.asarray(matrix)))
        assert values.max() * (1 - 1e-6) <= found <= values.max() * (1 + 1e-4)


BERT = ALL_FAMILIES["bert"]()
SPECS = BERT.layer_specs(BERT.params)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bounds.ledger([], num_tokens=3, radius=1.0), r"layers: expected at least one layer"),
        (lambda: bounds.ledger([1], num_tokens=3, radius=1.0), r"layers: expected LayerSpec records"),
        (lambda: bounds.ledger(SPECS, num_tokens=0, radius=1.0), r"num_tokens: .*>= 1, got 0"),
        (lambda: bounds.ledger(SPECS, num_tokens=3, radius=-1.0), r"radius: .*>= 0, got -1"),
        (
            lambda: bounds.ledger(SPECS, num_tokens=3, radius=1.0, method="published"),
            r"method: expected one of 'sharp', 'tight', got 'published'",
        ),
        (
            lambda: bounds.ledger(
                [
                    dataclasses.replace(
                        SPECS[1], branch=dataclasses.replace(SPECS[1].branch, activation=jnp.exp)
                    )
                ],
                num_tokens=3,
                radius=1.0,
            ),
            r"activation: expected one whose Lipschitz constant is known",
        ),
        (
            lambda: bounds.local_ledger(SPECS, jnp.ones((3, 16)), []),
            r"weights: expected a map of shape \(2, 3, 3\) for 'block_0/attention', got none",
        ),
        (
            lambda: bounds.local_ledger(SPECS[1:2], jnp.ones((3, 16)), [jnp.ones((2, 3, 3))]),
            r"weights: expected one map for each attention layer, got 1",
        ),
        (
            lambda: bounds.local_ledger(SPECS, jnp.ones((1, 3, 16)), []),
            r"embeddings: expected shape \(n, d\), got \(1, 3, 16\)",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_layers_without_a_bound_say_so():
    kernel = {"kernel": jnp.ones((8, 2, 4))}
    kernels = {"query": kernel, "key": kernel, "value": kernel}
    kernels["out"] = {"kernel": jnp.ones((2, 4, 8))}
    merge = MergeSpec({"kernel": jnp.ones((32, 16))}, 4)
    convolution = ConvolutionSpec({"depthwise": {"kernel": jnp.ones((3, 3, 8))}}, jax.nn.relu)
    cases = [
        (
            AttentionSpec(DotProduct(), kernels, partition=4),
            "layers: .* attend over the whole sequence",
        ),
        (convolution, "layers: expected attention .* got ConvolutionSpec"),
        (merge, "layers: expected attention .* got MergeSpec"),
    ]
    for branch, message in cases:
        with pytest.raises(bounds.NoBoundError, match=message):
            bounds.local_ledger([LayerSpec("a", branch)], jnp.ones((4, 8)), [])
    unknown = LayerSpec("a", "rotation")
    with pytest.raises(bounds.NoBoundError, match=r"branch: expected one whose bound .* got str"):
        bounds.ledger([unknown], num_tokens=4, radius=1.0)
    del kernels["key"]
    with pytest.raises(bounds.NoBoundError, match="rotary: expected False for L2"):
        bounds.attention(L2(), kernels, num_tokens=4, rotary=True)
