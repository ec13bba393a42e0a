"""Bounds of attention modules: what is read off a module, and what has to be said beside a kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import KINDS, exact_norm, random_tokens, random_variables

from poolax import blocks, bounds, pooling
from poolax.attention import Cosine, DotProduct, MultiHeadAttention, Rotary, YarnScaling

DIM = 4
SIZES = {"num_tokens": 6, "radius": 1.0, "spread": 0.7}
YARN = Rotary(2.0, YarnScaling(4.0, 8, magnitude=1.5))


def a_layer(kind=DotProduct(), **options):
    layer = MultiHeadAttention(2, kind, **options)
    return layer, random_variables(layer, jax.random.key(0), jnp.zeros((6, DIM)))


@pytest.mark.parametrize("method", ["sharp", "tight"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, {"pattern": "sequence"}),
        ({"causal": True, "num_kv_heads": 1}, {"pattern": "sequence"}),
        ({"window": 3}, {"num_tokens": 3}),
        ({"window": 9, "causal": True}, {"pattern": "sequence"}),
        ({"rotary": Rotary(2.0)}, {"rotary": True, "pattern": "sequence"}),
        ({"rotary": YARN, "window": 2}, {"rotary": YARN, "num_tokens": 2}),
    ],
)
def test_a_module_says_what_a_kind_has_to_be_told(method, options, said, x64):
    layer, variables = a_layer(use_bias=True, **options)
    found = bounds.attention(layer, variables, **SIZES, method=method)
    told = bounds.attention(layer.kind, variables["params"], **(SIZES | said), method=method)
    assert found == told
    traced = jax.jit(lambda n: bounds.attention(layer, variables, **(SIZES | {"num_tokens": n})))(6)
    np.testing.assert_allclose(
        traced.sequence, bounds.attention(layer, variables, **SIZES).sequence, rtol=1e-12
    )


def test_the_scale_of_turned_features_counts(x64):
    """As kernels of queries and keys that are larger by it."""
    _, variables = a_layer(rotary=YARN)
    kernels = {name: part["kernel"] for name, part in variables["params"].items()}
    scaled = kernels | {name: 1.5 * kernels[name] for name in ("query", "key")}
    expected = bounds.dot_product_attention(**scaled, **SIZES, rotary=True)
    np.testing.assert_allclose(
        bounds.dot_product_attention(**kernels, **SIZES, rotary=YARN), expected, rtol=1e-12
    )
    assert expected > 1.2 * bounds.dot_product_attention(**kernels, **SIZES, rotary=True)


def test_rotary_positions_that_nobody_mentions(x64):
    """Turned keys of one direction: kernels alone do not show them, the module does."""
    flat = jnp.zeros((DIM, 1, DIM)).at[0, 0, 0].set(1.0)
    across = jnp.zeros((DIM, 1, DIM)).at[0, 0, 2].set(3.0)
    kernels = {"query": 3.0 * flat, "key": across, "value": jnp.eye(DIM)[:, None]}
    kernels["out"] = jnp.eye(DIM)[None]
    variables = {"params": {name: {"kernel": kernel} for name, kernel in kernels.items()}}
    layer = MultiHeadAttention(1, rotary=Rotary(1.0))
    sizes = {"num_tokens": 3, "radius": 2.0}
    measured = max(
        exact_norm(lambda x: layer.apply(variables, x), random_tokens(key, 3, DIM, 2.0))
        for key in jax.random.split(jax.random.key(0), 20)
    )
    # Without turning, queries and keys of different features have no logits at all.
    assert bounds.attention(DotProduct(), kernels, **sizes).sequence < 1.001 * 3**0.5 < measured
    assert measured <= bounds.attention(layer, variables, **sizes, method="tight").sequence


@pytest.mark.parametrize(
    ("options", "said", "message"),
    [
        ({}, {"rotary": True}, r"rotary: expected None beside a module, .* got True"),
        ({"window": 2}, {"pattern": "sequence"}, r"pattern: expected 'any' for a sliding window"),
        ({"window": 2}, {"pattern": "full"}, r"pattern: expected 'any' for a sliding window"),
        ({"causal": True}, {"pattern": "full"}, r"pattern: .* for causal attention, got 'full'"),
        ({}, {"pattern": "all"}, r"pattern: expected one of 'any', 'sequence', 'full', got 'all'"),
        ({"kind": Cosine(), "rotary": Rotary()}, {}, r"rotary: expected False for Cosine"),
    ],
)
def test_what_contradicts_a_module_is_named(options, said, message):
    layer, variables = a_layer(**options)
    with pytest.raises(ValueError, match=message):
        bounds.attention(layer, variables, **SIZES, **said)


def test_variables_that_are_not_the_modules_are_named():
    layer, variables = a_layer()
    for wrong in (variables["params"], {}, None, {"params": {}}):
        with pytest.raises(ValueError, match=r"variables: expected what MultiHeadAttention.init"):
            bounds.attention(layer, wrong, **SIZES)
    for options in ({"num_heads": 1}, {"num_kv_heads": 1}):
        with pytest.raises(ValueError, match=r"variables/(query|value): expected the 1 heads of"):
            bounds.attention(layer.clone(**options), variables, **SIZES)
    with pytest.raises(ValueError, match=r"rotary: expected a Rotary, True or False, got 2.0"):
        bounds.attention(DotProduct(), variables["params"], **SIZES, rotary=2.0)
    with pytest.raises(ValueError, match=r"kind: expected DotProduct, L2 or Cosine, or a Multi"):
        bounds.attention(3, variables["params"], **SIZES)


@pytest.mark.parametrize("kind", KINDS)
def test_biases_that_are_zero_are_none(kind):
    """A fresh module with biases has the published bound of one without; a traced bias may be any."""
    layer = MultiHeadAttention(2, KINDS[kind], use_bias=True)
    variables = layer.init(jax.random.key(0), jnp.zeros((6, DIM)))
    bare = {name: {"kernel": part["kernel"]} for name, part in variables["params"].items()}

    def published(variables):
        return bounds.attention(layer, variables, **SIZES, method="published").sequence

    expected = bounds.attention(layer.kind, bare, **SIZES, method="published").sequence
    assert published(variables) == expected
    kernels_alone = jax.jit(lambda bare: published(_with_zeros(bare)))
    np.testing.assert_allclose(kernels_alone(bare), expected, rtol=1e-6)
    with pytest.raises(
        ValueError, match=r"method: expected 'sharp' or 'tight' for attention with bias"
    ):
        jax.jit(published)(variables)
    moved = jax.tree.map(lambda leaf: leaf + 1e-30, variables)
    with pytest.raises(
        ValueError, match=r"method: expected 'sharp' or 'tight' for attention with bias"
    ):
        published(moved)
    model = blocks.TBM(2, pooling.AveragePool(), KINDS[kind], use_bias=True)
    variables = model.init(jax.random.key(0), jnp.zeros((6, DIM)))
    assert bounds.tbm(model, variables, **SIZES, method="published").lipschitz > 0


def _with_zeros(bare):
    def filled(name, kernel):
        return {
            "kernel": kernel,
            "bias": np.zeros(kernel.shape[2:] if name == "out" else kernel.shape[1:]),
        }

    return {"params": {name: filled(name, part["kernel"]) for name, part in bare.items()}}


@pytest.mark.parametrize("method", ["published", "sharp", "tight"])
def test_a_fresh_initialisation_is_a_kink(method, x64):
    """Raising one of equal scales raises the bound, lowering does not lower it; grad lies between.

    The tight bound folds the scales into matrices, of which none stands out.
    """
    model = blocks.TBM(2, pooling.AveragePool())
    variables = model.init(jax.random.key(0), jnp.zeros((6, DIM)))

    def bound(first):
        scales = jnp.ones(DIM).at[0].set(first)
        params = variables["params"] | {"norm1": variables["params"]["norm1"] | {"scale": scales}}
        return bounds.tbm(model, {"params": params}, **SIZES, method=method).lipschitz

    step = 1e-6
    above, below = ((bound(1 + sign * step) - bound(1.0)) / (sign * step) for sign in (1, -1))
    slope = jax.grad(bound)(1.0)
    assert above >= slope >= below
    assert (below <= 0.8 * above) == (method != "tight")
    # Away from the kink it is the derivative.
    np.testing.assert_allclose(
        jax.grad(bound)(1.1), (bound(1.1 + step) - bound(1.1 - step)) / (2 * step), rtol=1e-4
    )


def test_where_no_bound_is_known_the_error_says_so():
    sizes = {"num_tokens": 4, "radius": 1.0}

    def variables(model):
        return model.init(jax.random.key(0), jnp.ones((4, 8)))

    latent = blocks.TBM(2, pooling.from_name("attn"))
    biased = blocks.TBM(2, pooling.AveragePool(), use_bias=True)
    shown = jax.tree.map(lambda leaf: leaf + 0.1, variables(biased))
    odd = blocks.TBM(2, pooling.AveragePool(), activation=jnp.sin)
    cases = [
        (latent, variables(latent), "published", "LatentAttentionPool: nothing was published"),
        (biased, shown, "published", "attention with biases"),
        (odd, variables(odd), "sharp", "activation: expected one whose Lipschitz constant"),
    ]
    for model, own, method, message in cases:
        with pytest.raises(bounds.NoBoundError, match=message):
            bounds.tbm(model, own, **sizes, method=method)
    with pytest.raises(ValueError, match="num_tokens") as caught:
        bounds.tbm(latent, variables(latent), num_tokens=0, radius=1.0, method="published")
    assert not isinstance(caught.value, bounds.NoBoundError)
