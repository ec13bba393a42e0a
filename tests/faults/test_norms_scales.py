"""Norms and rotary positions give the right value for tokens of any size."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolax import attention
from poolax.blocks import TBM, CenterNorm, FeedForward, LayerNorm, PreLNBlock, RMSNorm
from poolax.pooling import AveragePool

WIDTH = 24
SCALES = 10.0 ** np.arange(-30, 31, 2)
DTYPES = pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
# How far float32 with a result in either dtype is from what is right, relative to the largest entry.
TOLERANCE = 2e-6


def tokens(dtype, largest=1e30):
    """A token of each size, and what single precision makes of it."""
    rows = np.random.default_rng(0).normal(size=(len(SCALES), WIDTH))
    x = jnp.asarray(rows / np.abs(rows).max() * SCALES[:, None] * (largest / 1e30), dtype)
    return x, np.asarray(x, np.float64)


def layer(x, eps):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def rms(x, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def center(x, eps):
    del eps
    return WIDTH / (WIDTH - 1) * (x - x.mean(-1, keepdims=True))


NORMS = {
    "layer": (LayerNorm(use_fast_variance=False), nn.LayerNorm(use_fast_variance=False), layer),
    "fast layer": (LayerNorm(), nn.LayerNorm(), layer),
    "rms": (RMSNorm(), nn.RMSNorm(), rms),
    "center": (CenterNorm(), None, center),
}


@DTYPES
@pytest.mark.parametrize("name", NORMS)
def test_norms_are_right_at_every_size(name, dtype, attack):
    norm, of_flax, right = NORMS[name]
    x, exact = tokens(dtype)
    variables = norm.init(jax.random.key(0), x)
    found = np.asarray(jax.jit(functools.partial(norm.apply, variables))(x), np.float64)
    expected = right(exact, 1e-6)
    error = np.abs(found - expected).max(-1) / np.abs(expected).max(-1)
    attack(
        f"{name} norm in {dtype.__name__} at sizes from 1e-30 to 1e30",
        [
            None if e < TOLERANCE else f"{s:g}: off by {e:.1e}"
            for s, e in zip(SCALES, error, strict=True)
        ],
    )
    if of_flax is not None:
        same = np.abs(exact).max(-1) < 2.0**50
        theirs = np.asarray(jax.jit(functools.partial(of_flax.apply, variables))(x), np.float64)
        np.testing.assert_array_equal(found[same], theirs[same])


@pytest.mark.parametrize("name", NORMS)
def test_norms_and_their_derivatives_are_finite_up_to_the_end(name):
    norm, _, right = NORMS[name]
    x, exact = tokens(jnp.float32, largest=1.7e38)
    variables = norm.init(jax.random.key(0), x)

    def fn(x):
        return norm.apply(variables, x)

    found = np.asarray(fn(x), np.float64)
    np.testing.assert_allclose(found[-1], right(exact, 1e-6)[-1], rtol=1e-5)
    gradient = jax.grad(lambda x: jnp.sum(fn(x)[:, 0]))(x)
    assert np.isfinite(np.asarray(gradient)).all()


def test_a_constant_token_of_any_size_is_zero():
    x = jnp.asarray(2.0 ** np.arange(-90, 100, 10)[:, None] * np.ones((1, 16)), jnp.float32)
    for norm in (LayerNorm(use_fast_variance=False), CenterNorm()):
        out = norm.apply(norm.init(jax.random.key(0), x), x)
        np.testing.assert_array_equal(out, np.zeros_like(x))


SCALINGS = [
    None,
    attention.LinearScaling(4.0),
    attention.DynamicScaling(8.0, 2),
    attention.YarnScaling(4.0, 4),
    attention.LongRopeScaling((1.0,) * 4, (8.0,) * 4, 4),
    attention.Llama3Scaling(8.0, 1.0, 4.0, 4),
]


@DTYPES
def test_rotary_positions_keep_the_length_of_tokens_of_every_size(dtype, attack):
    rows = np.random.default_rng(0).normal(size=(len(SCALES), 5, 1, 8))
    x = jnp.asarray(rows / np.abs(rows).max() * SCALES[:, None, None, None], dtype)
    lengths = np.sqrt(np.sum(np.asarray(x, np.float64) ** 2, axis=-1))
    tolerance = 1e-5 if dtype == jnp.float32 else 1e-2
    outcomes = []
    for scaling in SCALINGS:
        for theta in (2.0, 1e4, 1e30):
            rotary = attention.Rotary(theta, scaling)
            turned = np.sqrt(np.sum(np.asarray(rotary(x), np.float64) ** 2, axis=-1))
            error = np.max(np.abs(turned / (rotary.feature_scale * lengths) - 1))
            outcomes.append(None if error < tolerance else f"{rotary}: off by {error:.1e}")
    attack(f"rotary positions in {dtype.__name__} at sizes from 1e-30 to 1e30", outcomes)


def test_a_base_that_tells_no_frequencies_apart_is_named():
    with pytest.raises(ValueError, match=r"theta: expected .*1"):
        attention.Rotary(1.0, attention.YarnScaling(4.0, 4))
    assert np.isfinite(attention.Rotary(1.0)(jnp.ones((3, 1, 4)))).all()


def test_blocks_of_huge_tokens_give_a_value_or_say_that_they_overflow():
    x = 1e30 * jax.random.normal(jax.random.key(0), (5, 8))
    block = PreLNBlock(attention.MultiHeadAttention(2), FeedForward(16), LayerNorm(), RMSNorm())
    out = block.apply(block.init(jax.random.key(1), x), x)
    assert np.isfinite(np.asarray(out)).all()
    model = TBM(num_heads=2, pooler=AveragePool())
    variables = model.init(jax.random.key(1), x / 1e30)
    with pytest.raises(ValueError, match=r"^x: "):
        model.apply(variables, x)
