"""The full form of query attention pooling; SigLIP's own head is compared in ``test_parity_vision``."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_variables

from poolax import pooling

POOLER = pooling.from_name("map", num_heads=2, full=True, activation="relu")


def test_against_a_plain_forward(x64):
    z = jax.random.normal(jax.random.key(0), (5, 4))
    mask = np.array([True, False, True, True, False])
    variables = random_variables(POOLER, jax.random.key(1), z)
    p = jax.tree.map(np.asarray, variables["params"]["head"])
    assert {name: set(p[name]) for name in ("query", "key", "value", "out")} == {
        "query": {"kernel", "bias"}, "key": {"kernel"}, "value": {"kernel", "bias"},
        "out": {"kernel", "bias"},
    }  # fmt: skip
    assert p["mlp_in"]["kernel"].shape == (4, 16)
    read = np.zeros(4)
    attention = []
    for h in range(2):
        query = p["probe"] @ p["query"]["kernel"][:, h] + p["query"]["bias"][h]
        logits = np.asarray(z)[mask] @ p["key"]["kernel"][:, h] @ query / np.sqrt(2)
        weights = np.exp(logits) / np.exp(logits).sum()
        attention.append(weights)
        values = np.asarray(z)[mask] @ p["value"]["kernel"][:, h] + p["value"]["bias"][h]
        read += weights @ values @ p["out"]["kernel"][h]
    read += p["out"]["bias"]
    inner = (read - read.mean()) / np.sqrt(read.var() + 1e-6) * p["norm"]["scale"] + p["norm"]["bias"]
    hidden = np.maximum(inner @ p["mlp_in"]["kernel"] + p["mlp_in"]["bias"], 0)
    expected = read + hidden @ p["mlp_out"]["kernel"] + p["mlp_out"]["bias"]
    pooled, weights = POOLER.apply(variables, z, mask, return_weights=True)
    np.testing.assert_allclose(pooled, expected, atol=1e-12)
    np.testing.assert_allclose(weights[0][:, mask], attention, atol=1e-12)
    assert np.all(np.asarray(weights)[..., ~mask] == 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_queries": 2}, r"num_queries: expected 1 in the full form, got 2"),
        ({"num_heads": 3}, r"num_heads: .*d = 4, got 3"),
        ({"mlp_dim": 0}, r"mlp_dim: .*got 0"),
        ({"norm_eps": 0.0}, r"norm_eps: .*got 0"),
        ({"activation": "mish"}, r"activation: expected one of 'gelu', .*'mish'"),
    ],
)
def test_bad_options_are_named(options, message):
    pooler = pooling.from_name("map", full=True, **options)
    with pytest.raises(ValueError, match=message):
        pooler.init(jax.random.key(0), jnp.zeros((5, 4)))


def test_configurations_of_before_stay():
    assert pooling.to_config(pooling.QueryAttentionPool(2))["options"] == {
        "num_queries": 2,
        "num_heads": 1,
    }
    assert pooling.from_config(pooling.to_config(POOLER)) == POOLER
