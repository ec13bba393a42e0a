"""Bounds with a budget for each token: what is found in that norm stays below them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import ALL_FAMILIES, inputs, scrambled
from helpers import KINDS, POOLERS, largest_in_ball, random_tokens, random_variables

from poolax import blocks, bounds

NUM_TOKENS, DIM, RADIUS, MOVED = 5, 4, 1.0, 0.3


def test_factors_of_poolers_and_parts_of_attention(x64):
    """Where each token has a budget, an average contracts no more than a single token does."""
    attention = bounds.AttentionBound(
        jnp.array(9.0), jnp.array(4.0), jnp.array(3.0), jnp.array(0.5), "sharp", "test", jnp.array(2.0)
    )
    assert attention.each_token == 2.5
    sizes = {"attention": attention, "ffn": 1.0, "dim": 64, "num_tokens": 16, "geometry": "tokens"}
    found = {name: bounds.pooled_block(name, **sizes) for name in ("first", "avg", "sum", "max")}
    single = (64 / 63) ** 2 * 3.5 * 2
    for name, factor in {"first": 1, "avg": 1, "sum": 16, "max": 4}.items():
        np.testing.assert_allclose(found[name].lipschitz, factor * single, rtol=1e-9)
    # A plain number is a constant in the same norm.
    number = bounds.pooled_block("sum", **(sizes | {"attention": 2.5}))
    np.testing.assert_allclose(number.lipschitz, 16 * single, rtol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"geometry": "cube"}, r"geometry: expected"),
        ({"method": "published", "attention": 1.0}, r"geometry: expected 'frobenius'.*nothing was pub"),
        (
            {"attention": bounds.AttentionBound(1.0, 1.0, 1.0, 1.0, "sharp", "test")},
            r"attention: expected one whose mixing_largest is known",
        ),
    ],
)
def test_what_is_not_known_is_refused(changes, message):
    sizes = {"attention": 1.0, "ffn": 1.0, "dim": 64, "num_tokens": 16, "geometry": "tokens"}
    with pytest.raises(ValueError, match=message):
        bounds.pooled_block("avg", **(sizes | changes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"), list(itertools.product(KINDS, ("last", "avg", "sum", "max", "attn", "map")))
)
def test_blocks(kind, name, x64):
    """An ascent in balls around an input stays below sharp and tight bounds of the domain of all."""
    model = blocks.TBM(2, POOLERS[name], KINDS[kind])
    x = random_tokens(jax.random.key(0), NUM_TOKENS, DIM, RADIUS)
    variables = random_variables(model, jax.random.key(1), x)
    found = largest_in_ball(lambda x: model.apply(variables, x), x, "tokens", jnp.asarray(MOVED))
    sizes = {"num_tokens": NUM_TOKENS, "radius": RADIUS + MOVED, "geometry": "tokens"}
    sharp, tight = (
        bounds.tbm(model, variables, method=method, **sizes).lipschitz for method in ("sharp", "tight")
    )
    assert 0 < found <= tight <= sharp * (1 + 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_FAMILIES)
def test_ledgers(name, x64):
    """And at an input every family's states, moved along the best of many directions."""
    backbone = scrambled(ALL_FAMILIES[name]())
    params = jax.tree.map(lambda leaf: leaf.astype(float), backbone.params)
    embeddings, _ = backbone.embed(params, inputs(name, 1))
    x = embeddings.reshape(-1, *embeddings.shape[-2:])[:1]

    def states(x):
        return backbone.encode(params, x, None).states.reshape(-1, x.shape[-1])

    jacobian = jax.jit(jax.jacrev(states))(x)  # (m, e, 1, n, d)
    jacobian = np.asarray(jacobian)[:, :, 0]
    largest = 0.0
    for block in jacobian:
        moves = np.ones(x.shape[1:]) / np.sqrt(x.shape[-1])
        for _ in range(4):
            back = np.einsum("eko,e->ko", block, np.einsum("eko,ko->e", block, moves))
            moves = back / np.maximum(np.linalg.norm(back, axis=-1, keepdims=True), 1e-300)
        largest = max(largest, np.linalg.norm(np.einsum("eko,ko->e", block, moves)))
    domain = bounds.domain_of(x[0])
    sizes = {"num_tokens": x.shape[1], "radius": domain.radius, "spread": domain.spread}
    for method in ("sharp", "tight"):
        table = bounds.ledger(
            iter(backbone.layer_specs(params)), **sizes, method=method, geometry="tokens"
        )
        assert largest > 0
        assert np.log(largest) <= table.log_lipschitz
