"""Local bounds by themselves; that they hold is tested with the global ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import KINDS, pad, random_tokens, random_variables

from poolax import blocks, bounds, pooling
from poolax.attention import (
    Cosine,
    DotProduct,
    DynamicScaling,
    LongRopeScaling,
    MultiHeadAttention,
    Rotary,
)
from poolax.bounds._kernels import read_kernels
from poolax.bounds._local_blocks import attention_blocks, blocks_of_row

DIM = 4


@pytest.mark.parametrize("rotary", [None, Rotary(3.0)])
@pytest.mark.parametrize("kind", [*KINDS, "cosine-plain"])
def test_blocks_bound_the_blocks(kind, rotary, x64):
    """Exact on the diagonal, never below off it, with causal masks, grouped heads and biases."""
    plain = Cosine(tau=2.0, nu=1.5, eps=0.01, plain_values=True)
    config = plain if kind == "cosine-plain" else KINDS[kind]
    if kind == "l2" and rotary is not None:
        pytest.skip("L2 attention has no rotary positions")
    for num_kv_heads in (1, 2) if kind != "l2" else (2,):
        layer = MultiHeadAttention(
            2, config, num_kv_heads=num_kv_heads, rotary=rotary, causal=True, use_bias=True
        )
        x = random_tokens(jax.random.key(0), 6, DIM, 1.0)
        variables = random_variables(layer, jax.random.key(1), x)
        _, weights = layer.apply(variables, x, return_weights=True)
        jacobian = jax.jit(jax.jacrev(lambda x, v=variables, m=layer: m.apply(v, x)))(x)
        exact = np.linalg.norm(np.asarray(jacobian).transpose(0, 2, 1, 3), 2, axis=(-2, -1))
        params = variables["params"]
        bias = jnp.repeat(params["value"]["bias"], 2 // num_kv_heads, axis=0)
        kernels = read_kernels(params, has_key=kind != "l2")
        found = attention_blocks(config, kernels, x, weights, value_bias=bias, turn=rotary)
        np.testing.assert_allclose(np.diag(found), np.diag(exact), rtol=1e-9)
        formed = blocks_of_row(config, kernels, x, weights, value_bias=bias, turn=rotary)(4)
        np.testing.assert_allclose(formed, jnp.moveaxis(jacobian[4], 0, -1), rtol=1e-9, atol=1e-12)
        assert (np.asarray(found) >= exact * (1 - 1e-9)).all()
        assert np.linalg.norm(found, 2) < 4 * np.linalg.norm(np.asarray(jacobian).reshape(24, 24), 2)


def test_one_head_attending_to_itself_is_exact(x64):
    """Far apart tokens see themselves alone: the Jacobian is that of the values."""
    kernel = jnp.eye(DIM)[:, None]
    x = 100.0 * jnp.eye(DIM)
    value = jnp.diag(jnp.arange(1.0, 5.0))[:, None]
    bound = bounds.local_attention(x, kernel, kernel, value, jnp.eye(DIM)[None])
    np.testing.assert_allclose(bound, 4.0, rtol=1e-9)


def test_a_form_that_overflows_leaves_the_others():
    """Of slopes whose squares leave the range, times a covariance of zero."""
    kernel = 1e15 * jnp.eye(DIM)[:, None]
    value = jnp.diag(jnp.arange(1.0, 5.0))[:, None]
    bound = bounds.local_attention(100.0 * jnp.eye(DIM), kernel, kernel, value, jnp.eye(DIM)[None])
    np.testing.assert_allclose(bound, 4.0, rtol=1e-3)


def test_ranks_are_promoted_by_name():
    x = random_tokens(jax.random.key(0), 6, DIM, 1.0)
    kernels = jnp.ones((DIM, 3, 2))
    with jax.numpy_rank_promotion("raise"):
        bounds.local_attention(x, kernels, kernels, kernels, jnp.ones((3, 2, DIM)))


def test_peaked_attention_loses_no_digits():
    """In float32 as in float64, where one minus the largest weight would cancel."""
    x = jnp.array([[6.0, 0.0], [-6.0, 0.1], [0.0, 5.0]])
    kernel = 2 * jnp.eye(2)[:, None]
    single = bounds.local_attention(x, kernel, kernel, kernel, jnp.eye(2)[None])
    with jax.enable_x64(True):
        arrays = [jnp.asarray(np.asarray(array, float)) for array in (x, kernel)]
        double = bounds.local_attention(
            arrays[0], arrays[1], arrays[1], arrays[1], jnp.eye(2, dtype=float)[None]
        )
    np.testing.assert_allclose(single, double, rtol=1e-4)


def test_padding_and_batches_change_nothing(x64):
    keys = jax.random.split(jax.random.key(0), 4)
    kernels = [jax.random.normal(key, (DIM, 2, 2)) for key in keys[:3]]
    out = jax.random.normal(keys[3], (2, 2, DIM))
    x = random_tokens(jax.random.key(1), 5, DIM, 1.0)
    alone = bounds.local_attention(x, *kernels, out)
    padded, mask = pad(x, 2, 3, np.nan)
    np.testing.assert_allclose(
        bounds.local_attention(padded, *kernels, out, mask=mask), alone, rtol=1e-9
    )
    several = bounds.local_attention(jnp.stack([x, 2 * x]), *kernels, out)
    assert several.shape == (2,)
    np.testing.assert_allclose(several[0], alone, rtol=1e-9)
    biased = bounds.local_attention(x, *kernels, out, bias=jnp.full((2, 5, 5), 3.0))
    np.testing.assert_allclose(biased, alone, rtol=1e-9)
    model = blocks.TBM(2, pooling.AveragePool(), use_bias=True)
    variables = random_variables(model, jax.random.key(2), x)
    np.testing.assert_allclose(
        bounds.local_tbm(model, variables, padded, mask).lipschitz,
        bounds.local_tbm(model, variables, x).lipschitz,
        rtol=1e-9,
    )


@pytest.mark.parametrize(
    "scaling", [DynamicScaling(8.0, 2), LongRopeScaling((1.0, 1.0), (8.0, 8.0), 4)]
)
def test_frequencies_that_depend_on_the_length(scaling, x64):
    """Two real tokens among eight: as the two alone, whose frequencies are those of short sequences."""
    rotary = Rotary(10.0, scaling)
    layer = MultiHeadAttention(1, rotary=rotary)
    x = 3 * jax.random.normal(jax.random.key(0), (2, 2, DIM))
    variables = random_variables(layer, jax.random.key(1), x, scale=3.0)
    kernels = {name: part["kernel"] for name, part in variables["params"].items()}
    alone = bounds.local_attention(x, **kernels, rotary=rotary)
    for left in (0, 3, 6):
        padded = jnp.pad(x, ((0, 0), (left, 6 - left), (0, 0)), constant_values=jnp.nan)
        mask = jnp.isfinite(padded[..., 0])
        bound = bounds.local_attention(padded, **kernels, rotary=rotary, mask=mask)
        np.testing.assert_allclose(bound, alone, rtol=1e-9)
    together = bounds.local_attention(jnp.pad(x, ((0, 0), (0, 6), (0, 0))), **kernels, rotary=rotary)
    assert (jnp.abs(together / alone - 1) > 1e-3).any()


def test_tokens_see_their_own_segment(x64):
    """Two segments are two sequences: the larger of their bounds."""
    keys = jax.random.split(jax.random.key(0), 5)
    kernels = [jax.random.normal(key, (DIM, 2, 2)) for key in keys[:3]]
    out = jax.random.normal(keys[3], (2, 2, DIM))
    x = random_tokens(keys[4], 5, DIM, 1.0)
    apart = [float(bounds.local_attention(part, *kernels, out)) for part in (x[:2], x[2:])]
    together = bounds.local_attention(x, *kernels, out, segments=jnp.asarray([0, 0, 1, 1, 1]))
    # The forms are not the larger of two, but no smaller than either and close.
    assert max(apart) * (1 - 1e-9) <= together <= 1.1 * max(apart)


def test_a_local_bound_is_the_product_of_its_factors(x64):
    model = blocks.TBM(2, pooling.MaxPool())
    x = random_tokens(jax.random.key(0), 5, DIM, 1.0)
    variables = random_variables(model, jax.random.key(1), x)
    bound = bounds.local_tbm(model, variables, x)
    product = bound.pooling_factor * bound.norm_factor * bound.c1 * bound.c2
    np.testing.assert_allclose(bound.lipschitz, product, rtol=1e-12)
    assert bound.method == "local"
    assert bound.gamma(1e-3, 1.0).gamma > 0


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_exact_and_finite(kind, x64):
    model = blocks.TBM(2, pooling.MaxPool(), KINDS[kind])
    x = random_tokens(jax.random.key(0), 5, DIM, 1.0)
    variables = random_variables(model, jax.random.key(1), x)

    def bound(variables):
        return bounds.local_tbm(model, variables, x).lipschitz

    direction = random_variables(model, jax.random.key(2), x)
    slope = jax.jvp(bound, (variables,), (direction,))[1]
    ahead, behind = (
        bound(jax.tree.map(lambda v, d, s=step: v + s * d, variables, direction))
        for step in (1e-6, -1e-6)
    )
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-4)
    for at in (variables, jax.tree.map(jnp.zeros_like, variables)):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(bound)(at)))


KERNEL = jnp.ones((DIM, 2, 2))
OUT = jnp.ones((2, 2, DIM))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: bounds.local_attention(jnp.ones(4), KERNEL, KERNEL, KERNEL, OUT),
            r"x: expected shape",
        ),
        (
            lambda: bounds.local_attention(jnp.full((3, 4), jnp.nan), KERNEL, KERNEL, KERNEL, OUT),
            r"x: expected finite values",
        ),
        (
            lambda: bounds.local_attention(
                jnp.ones((3, 4)), KERNEL, KERNEL, KERNEL, OUT, kind=KINDS["l2"]
            ),
            r"key: expected None for L2 attention",
        ),
        (
            lambda: bounds.local_attention(jnp.ones((3, 4)), KERNEL, KERNEL, KERNEL, OUT, kind=3),
            r"kind: expected DotProduct, L2 or Cosine",
        ),
        (
            lambda: bounds.local_tbm(blocks.TBM(2, pooling.AveragePool()), {}, jnp.ones((3, 4))),
            r"variables: expected what TBM.init returned",
        ),
        (
            lambda: bounds.local_tbm(DotProduct(), {}, jnp.ones((3, 4))),
            r"model: expected a TBM",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
