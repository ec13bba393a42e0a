import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import KINDS, POOLERS, assert_close, pad, random_variables

from poolax import pooling
from poolax.attention import MultiHeadAttention
from poolax.blocks import TBM, CenterNorm, FeedForward, PostLNBlock, PreLNBlock

DIM = 8


def tokens(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def test_center_norm(x64):
    x, scale, bias = tokens(0, 3, DIM), tokens(1, DIM), tokens(2, DIM)
    out = CenterNorm().apply({"params": {"scale": scale, "bias": bias}}, x)
    assert_close(out, scale * DIM / (DIM - 1) * (x - x.mean(-1, keepdims=True)) + bias, 1e-12)
    jacobian = jax.jacrev(lambda x: CenterNorm().apply({"params": {"scale": scale, "bias": bias}}, x))
    assert np.linalg.norm(jacobian(x[0]), 2) <= abs(scale).max() * DIM / (DIM - 1)
    constant = {"params": {"scale": jnp.full(DIM, 2.0), "bias": bias}}
    jacobian = jax.jacrev(lambda x: CenterNorm().apply(constant, x))(x[0])
    assert_close(np.linalg.norm(jacobian, 2), 2 * DIM / (DIM - 1), 1e-12)


def test_center_norm_needs_two_features():
    with pytest.raises(ValueError, match=r"d: expected d >= 2 for CenterNorm's d / \(d - 1\), got 1"):
        CenterNorm().init(jax.random.key(0), jnp.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"d: expected d >= 2"):
        TBM(1, pooling.MaxPool()).init(jax.random.key(0), jnp.zeros((3, 1)))


def test_feed_forward(x64):
    x = tokens(0, 5, DIM)
    single = FeedForward(use_bias=True)
    variables = random_variables(single, jax.random.key(0), x)
    p = variables["params"]
    assert_close(single.apply(variables, x), np.maximum(x @ p["kernel"] + p["bias"], 0), 1e-12)
    double = FeedForward(16, jnp.tanh, use_bias=True)
    variables = random_variables(double, jax.random.key(0), x)
    p = variables["params"]
    hidden = np.tanh(x @ p["hidden"]["kernel"] + p["hidden"]["bias"])
    assert_close(double.apply(variables, x), hidden @ p["out"]["kernel"] + p["out"]["bias"], 1e-12)
    with pytest.raises(ValueError, match=r"hidden_dim: .* >= 1, got 0"):
        FeedForward(0).init(jax.random.key(0), x)


@pytest.mark.parametrize("block", [PostLNBlock, PreLNBlock])
def test_blocks_wire_their_parts(block, x64):
    module = block(MultiHeadAttention(2), FeedForward(16), nn.LayerNorm(), CenterNorm())
    x = tokens(0, 5, DIM)
    mask = np.array([True, True, False, True, False])
    variables = random_variables(module, jax.random.key(0), x)
    assert set(variables["params"]) == {"attention", "ffn", "norm1", "norm2"}
    parts = {
        name: (lambda *a, m=part, n=name: m.apply({"params": variables["params"][n]}, *a))
        for name, part in (
            ("attention", MultiHeadAttention(2)),
            ("ffn", FeedForward(16)),
            ("norm1", nn.LayerNorm()),
            ("norm2", CenterNorm()),
        )
    }
    if block is PostLNBlock:
        middle = parts["norm1"](x + parts["attention"](x, mask))
        expected = parts["norm2"](middle + parts["ffn"](middle))
    else:
        middle = x + parts["attention"](parts["norm1"](x), mask)
        expected = middle + parts["ffn"](parts["norm2"](middle))
    out, weights = module.apply(variables, x, mask, return_weights=True)
    assert_close(out[mask], expected[mask], 1e-12)
    chex.assert_shape(weights, (2, 5, 5))


@pytest.mark.parametrize("block", [PostLNBlock, PreLNBlock])
def test_blocks_survive_garbage_at_masked_positions(block):
    module = block(MultiHeadAttention(2), FeedForward(), CenterNorm(), CenterNorm())
    x, mask = pad(tokens(0, 4, DIM).astype(np.float32), 2, 1, np.nan)
    variables = random_variables(module, jax.random.key(0), x)
    out = module.apply(variables, x, mask)
    assert np.isfinite(out).all()
    assert_close(out[mask], module.apply(variables, x[mask]), 2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", POOLERS)
def test_tbm_padding_and_batches(kind, name):
    model = TBM(2, POOLERS[name], KINDS[kind], use_bias=True)
    x = tokens(0, 4, DIM).astype(np.float32)
    variables = random_variables(model, jax.random.key(0), jnp.zeros((12, DIM)), scale=0.5)
    padded, mask = pad(x, 1, 2, np.nan)
    alone = model.apply(variables, x)
    together = model.apply(variables, jnp.stack([padded, padded]), jnp.stack([mask, ~mask & False]))
    assert_close(together[0], alone, 1e-4)
    assert not together[1].any()


@pytest.mark.parametrize("kind", KINDS)
def test_tbm_parameters(kind):
    model = TBM(2, POOLERS["wavg"], KINDS[kind], use_bias=True)
    params = model.init(jax.random.key(0), jnp.zeros((5, DIM)))["params"]
    attention = {"query", "value", "out"} | (set() if kind == "l2" else {"key"})
    assert set(params) == {"attention", "ffn", "norm1", "norm2", "pooler"}
    assert set(params["attention"]) == attention
    assert params["attention"]["query"]["kernel"].shape == (DIM, 2, 4)
    assert params["attention"]["out"]["kernel"].shape == (2, 4, DIM)
    assert set(params["ffn"]) == {"kernel", "bias"}
    plain = TBM(2, pooling.MaxPool(), KINDS[kind]).init(jax.random.key(0), jnp.zeros((5, DIM)))
    assert set(plain["params"]) == {"attention", "ffn", "norm1", "norm2"}
    assert all(set(part) == {"kernel"} for part in plain["params"]["attention"].values())


@pytest.mark.parametrize(
    ("model", "x", "mask", "message"),
    [
        (TBM(3, pooling.MaxPool()), np.zeros((4, DIM)), None, r"num_heads: .*d = 8, got 3"),
        (TBM(2, "avg"), np.zeros((4, DIM)), None, r"pooler: expected a Pooler, got 'avg'"),
        (TBM(2, pooling.MaxPool()), np.zeros(DIM), None, r"x: expected shape \(\*batch, n, d\)"),
        (TBM(2, pooling.MaxPool()), np.zeros((0, DIM)), None, r"x: .*got n = 0"),
        (TBM(2, pooling.MaxPool()), np.full((4, DIM), np.inf), None, r"x: expected finite"),
        (TBM(2, pooling.MaxPool()), np.zeros((4, DIM)), np.ones(4), r"mask: expected dtype bool"),
        (TBM(2, pooling.MaxPool()), np.zeros((4, DIM)), np.ones(3, bool), r"mask: .*got \(3,\)"),
    ],
)
def test_bad_input_is_named(model, x, mask, message):
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), x, mask)
