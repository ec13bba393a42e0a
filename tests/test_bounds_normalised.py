"""Bounds of attention with normalised queries and keys, and with capped logits, against Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import decoder_switched, scrambled
from helpers import exact_norm, random_tokens, random_variables

from poolax import bounds
from poolax.attention import MultiHeadAttention, QueryGrowth, Rotary, YarnScaling

KEY = jax.random.key(0)
WIDTH, NUM_TOKENS, RADIUS = 6, 4, 2.0
LAYERS = {
    "norms": {"query_key_eps": 0.3},
    "norms-small-eps": {"query_key_eps": 1e-3, "rotary": Rotary(10.0)},
    "norms-kv": {"query_key_eps": 1.0, "num_kv_heads": 1, "causal": True},
    "norms-scaled": {"query_key_eps": 0.3, "rotary": Rotary(10.0, num_turned=2), "head_dim": 4},
    "cap": {"soft_cap": 0.5, "use_bias": True},
    "cap-rotary": {"soft_cap": 2.0, "rotary": Rotary(10.0), "head_dim": 2},
    "turned": {"query_key_eps": 0.3, "query_key_turned": True, "rotary": Rotary(10.0)},
    "turned-stretched": {
        "query_key_eps": 0.3,
        "query_key_turned": True,
        "rotary": Rotary(10.0, YarnScaling(4.0, 2, magnitude=0.3)),
    },
    "from-one": {"query_key_eps": 0.3, "query_key_from_one": True, "num_kv_heads": 1},
    "growth": {"query_growth": QueryGrowth(3.0, 2), "use_bias": True},
    "growth-norms": {"query_growth": QueryGrowth(3.0, 2), "query_key_eps": 0.3, "rotary": Rotary(10.0)},
    "both": {"soft_cap": 1.0, "query_key_eps": 0.3},
}


@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
def test_jacobians_are_below_the_bound(options, x64):
    layer = MultiHeadAttention(2, **({"head_dim": 2} | options), param_dtype=jnp.float64)
    variables = random_variables(layer, KEY, jnp.zeros((1, WIDTH)))
    sizes = {}
    for method in ("sharp", "tight"):
        bound = bounds.attention(layer, variables, num_tokens=NUM_TOKENS, radius=RADIUS, method=method)
        sizes[method] = float(bound.sequence)
    assert 0 < sizes["tight"] <= sizes["sharp"] * (1 + 1e-9)
    norm = jax.jit(
        lambda x: jnp.linalg.norm(
            jax.jacfwd(lambda x: layer.apply(variables, x))(x).reshape(x.size, -1), 2
        )
    )
    found = []
    for seed, size in enumerate((0.01, 0.1, 0.5, 1.0) * 6):
        tokens = size * random_tokens(jax.random.key(seed), NUM_TOKENS, WIDTH, RADIUS)
        found.append(float(norm(tokens)))
    assert max(found) <= sizes["tight"]
    # A bound that forgot a norm's slope, or took a cap's for more than one, would be far from these.
    assert max(found) > 0.005 * sizes["tight"]
    with pytest.raises(
        bounds.NoBoundError, match=r"method: .*norms of queries|method: .*capped|rotary|biases|grow"
    ):
        bounds.attention(layer, variables, num_tokens=4, radius=1.0, method="published")


def test_a_cap_beyond_all_logits_changes_nothing(x64):
    plain = MultiHeadAttention(2, rotary=Rotary(10.0), head_dim=2, param_dtype=jnp.float64)
    variables = random_variables(plain, KEY, jnp.zeros((1, WIDTH)))
    capped = plain.clone(soft_cap=1e6)
    x = random_tokens(KEY, NUM_TOKENS, WIDTH, RADIUS)
    np.testing.assert_allclose(capped.apply(variables, x), plain.apply(variables, x), rtol=1e-9)
    one, other = (
        bounds.attention(layer, variables, num_tokens=NUM_TOKENS, radius=RADIUS).sequence
        for layer in (plain, capped)
    )
    assert float(one) == float(other)


@pytest.mark.parametrize("method", ["sharp", "tight"])
def test_ledgers_of_backbones_with_all_of_it(method, x64):
    backbone = scrambled(decoder_switched())
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), backbone.params)
    ids = jnp.arange(5)
    embeddings, _ = backbone.embed(params, ids)
    radius = float(jnp.linalg.norm(embeddings, axis=-1).max())
    specs = backbone.layer_specs(params)
    table = bounds.ledger(specs, num_tokens=5, radius=radius, method=method)
    measured = exact_norm(lambda x: backbone.encode(params, x).states, embeddings)
    assert np.log(measured) <= float(table.log_lipschitz)
    weights = backbone.encode(params, embeddings, return_weights=True).weights
    with pytest.raises(bounds.NoBoundError, match=r"query_key_eps: .*norms of queries and keys"):
        bounds.local_ledger(specs, embeddings, weights)
