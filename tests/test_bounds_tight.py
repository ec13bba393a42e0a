"""What method="tight" is proved to be: its parts by themselves, and where it is attained."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import KINDS, POOLERS, random_tokens, random_variables

from poolax import blocks, bounds, empirical, pooling
from poolax.attention import L2, Cosine, DotProduct, MultiHeadAttention
from poolax.bounds._ffn import gated_lipschitz, two_layer_lipschitz
from poolax.bounds._heads import kappa, whole_sequence
from poolax.bounds._linalg import spectral_norm

DIM = 4


def test_kappa_is_the_largest_of_its_expression(x64):
    p = np.linspace(1e-6, 1, 100_001)
    for t in (0.0, 0.3, 0.5, 0.51, 1.0, 7.0, 300.0):
        for share in (1.0, 0.8, 0.5, 0.2, 0.01):
            allowed = np.append(p[p <= share], share)
            variance = np.where(allowed > 0.5, 4 * allowed * (1 - allowed), 1)
            best = np.sqrt(np.max(allowed * (1 + variance * t**2)))
            found = kappa(jnp.asarray(t), share)
            np.testing.assert_allclose(found, best, rtol=1e-4)
            assert found >= best * (1 - 1e-12)
            assert found <= np.sqrt(1 + t**2) * (1 + 1e-12)


def test_rows_together_attain_their_form(x64):
    """The top eigenvalue of the quadratic form, by brute force."""
    for n, mixing, own in ((1, 1.0, 0.5), (2, 1.0, 3.0), (7, 0.3, 2.0), (50, 1.0, 0.0), (5, 0.0, 2.0)):
        first = np.eye(n)[0]
        rows = mixing * np.ones((n, 1)) * first + own * np.eye(n)
        expected = np.linalg.norm(rows, 2)
        np.testing.assert_allclose(whole_sequence(n, mixing, own), expected, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_weak_attention_attains_the_tight_bound(kind, x64):
    """As logits vanish attention becomes the average, whose norm is one; sharp says sqrt(n)."""
    n = 9
    kernel = jnp.eye(DIM)[:, None]
    weak = 1e-3 * kernel
    kernels = {"query": weak, "key": weak, "value": kernel, "out": jnp.eye(DIM)[None]}
    config = {"dot": DotProduct(), "l2": L2(plain_values=True), "cosine": Cosine(1e-4, 1.0, 1.0)}[kind]
    if kind == "l2":
        del kernels["key"]
    layer = MultiHeadAttention(1, config)
    params = {name: {"kernel": array} for name, array in kernels.items()}
    # Normalised values move most where they vanish.
    x = random_tokens(jax.random.key(0), n, DIM, 1e-3 if kind == "cosine" else 1.0)
    measured = empirical.jacobian_norm(lambda x: layer.apply({"params": params}, x), x)
    sizes = {"num_tokens": n, "radius": 1.0}
    full = bounds.attention(config, kernels, **sizes, method="tight", pattern="full")
    sharp = bounds.attention(config, kernels, **sizes)
    assert measured <= full.sequence <= 1.001 * measured
    assert sharp.sequence >= 2.9 * measured


@pytest.mark.parametrize("name", ["avg", "sum", "wavg", "map", "max"])
def test_a_pattern_that_is_known_never_hurts(name, x64):
    model = blocks.TBM(2, POOLERS[name])
    variables = random_variables(model, jax.random.key(0), jnp.zeros((12, DIM)), scale=0.3)
    curve = jax.vmap(
        lambda n, radius: bounds.tbm(model, variables, num_tokens=n, radius=radius, method="tight"),
    )
    for radius in (1e-3, 1.0):
        counts = jnp.arange(1, 12)
        tight = curve(counts, jnp.full(11, radius)).lipschitz
        ranged = bounds.tbm(
            model, variables, num_tokens=bounds.TokenRange(1, 11), radius=radius, method="tight"
        )
        assert (tight <= ranged.lipschitz * (1 + 1e-12)).all()


def test_heads_combine_below_both_sharp_forms(x64):
    keys = jax.random.split(jax.random.key(0), 4)
    query, key, value = (jax.random.normal(k, (24, 6, 4)) for k in keys[:3])
    kernels = {"query": query, "key": key, "value": value}
    kernels["out"] = jax.random.normal(keys[3], (6, 4, 24))
    sizes = {"num_tokens": 50, "radius": 1e-4}
    sharp = bounds.attention(DotProduct(), kernels, **sizes)
    tight = bounds.attention(DotProduct(), kernels, **sizes, method="tight")
    assert tight.sequence < 0.95 * sharp.sequence
    # With logits near zero the heads alone differ: the largest map from one average for each head.
    stacked = jnp.einsum("dhk,hke->hde", value, kernels["out"])
    assert tight.mixing >= spectral_norm(jnp.sum(stacked, axis=0))


def test_feed_forward_layers(x64):
    rng = np.random.default_rng(0)
    first, second = jnp.asarray(rng.normal(size=(5, 9))), jnp.asarray(rng.normal(size=(9, 5)))
    gelu = functools.partial(jax.nn.gelu, approximate=False)
    points = jnp.asarray(rng.normal(size=(200, 5)) * rng.uniform(0, 3, (200, 1)))
    jacobian = jax.vmap(jax.jacrev(lambda x: gelu(x @ first) @ second))(points)
    measured = jnp.linalg.norm(jacobian, 2, (-2, -1)).max()
    sharp, tight = (two_layer_lipschitz(first, second, 1.1289042, tight=flag) for flag in (False, True))
    assert measured <= tight < sharp
    # Linear in the middle: only the product counts, and half of it is exact.
    assert two_layer_lipschitz(first, 0 * second, 1.0, tight=True) == 0

    hidden, bias = jnp.asarray(rng.normal(size=(5, 9))), jnp.asarray(rng.normal(size=9))
    silu = jax.nn.silu

    def gated(x):
        return (silu(x @ first + bias) * (x @ hidden - bias)) @ second

    points = points / jnp.linalg.norm(points, axis=1, keepdims=True) * 2.0
    measured = jnp.linalg.norm(jax.vmap(jax.jacrev(gated))(points), 2, (-2, -1)).max()
    assert measured <= gated_lipschitz(first, hidden, second, 1.0998394, jnp.asarray(2.0), bias, -bias)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["avg", "max"])
def test_adversarial_weights_stay_below(kind, name, x64):
    """Inputs and weights searched together for the largest measured over tight."""
    model = blocks.TBM(1, pooling.from_name(name), KINDS[kind])
    x = random_tokens(jax.random.key(0), 5, DIM, 1.0)
    variables = random_variables(model, jax.random.key(1), x)

    @jax.jit
    def search(x, variables):
        return empirical.maximize_jacobian_norm(
            lambda variables, x: model.apply(variables, x),
            x,
            project=empirical.project_to_ball(1.0),
            key=jax.random.key(2),
            num_restarts=6,
            num_steps=60,
            variables=variables,
            bound=lambda v: bounds.tbm(model, v, num_tokens=5, radius=1.0, method="tight").lipschitz,
        )

    found = search(x, variables)
    assert 0.5 < found.ratio <= 1
