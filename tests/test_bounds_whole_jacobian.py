"""The Jacobian of many layers, formed as a product, and norms of sums where each token has a budget."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolax import pooling
from poolax.bounds._local_pooled import PoolerAt
from poolax.bounds._local_whole import composed, rounding_of
from poolax.bounds._summed_norm import summed_norm
from poolax.bounds._whole_jacobian import product_of


def groups_of(count, tokens, width, size=1.0):
    """Jacobians of random groups of layers, of which each keeps about what it gets."""
    keys = jax.random.split(jax.random.key(count), count)
    eye = jnp.einsum("ik,de->ikde", jnp.eye(tokens), jnp.eye(width))
    shape = (tokens, tokens, width, width)
    return [size * (eye + jax.random.normal(key, shape) / width) for key in keys]


def matrix_of(blocks):
    """As a matrix that acts on rows, in double precision."""
    size = blocks.shape[0] * blocks.shape[-1]
    return np.transpose(np.asarray(blocks, np.float64), (1, 2, 0, 3)).reshape(size, size)


@pytest.mark.parametrize("count", [1, 5])
def test_products_are_off_by_no_more_than_they_say(count):
    groups = groups_of(count, 3, 4)
    whole = product_of(groups)
    exact = functools.reduce(np.matmul, map(matrix_of, groups))
    found = matrix_of(whole.blocks) * np.exp(float(whole.log_scale))
    off = np.abs(found - exact).reshape(3, 4, 3, 4).transpose(2, 0, 1, 3)  # output token first
    off = np.linalg.norm(off, 2, axis=(2, 3)) / np.exp(float(whole.log_scale))
    # The logarithm of the scale is rounded as well.
    assert (off <= whole.lost + 1e-6).all()
    norm = np.linalg.norm(exact, 2)
    assert np.log(norm) <= whole.log_norm("frobenius") <= np.log(norm) + 1e-4
    average = PoolerAt.of(pooling.average_pool, jnp.zeros((3, 4)))
    pooled = np.linalg.norm(exact.reshape(12, 3, 4).mean(axis=1), 2)
    assert np.log(pooled) <= whole.log_pooled_norm(average, "frobenius") <= np.log(pooled) + 1e-4


def test_products_stay_in_range():
    """Of groups whose product is beyond single precision."""
    small, large = (product_of(groups_of(4, 2, 3, size)).log_norm("frobenius") for size in (1, 1e15))
    np.testing.assert_allclose(large, small + 4 * np.log(1e15), rtol=1e-5)
    assert product_of([jnp.zeros((2, 2, 3, 3))] * 3).log_norm("tokens") == -np.inf


def test_sums_are_taken_part_by_part():
    first, second = groups_of(2, 3, 67)
    np.testing.assert_allclose(
        matrix_of(composed(first, second)), matrix_of(first) @ matrix_of(second), atol=1e-5
    )
    assert rounding_of(first) == (101 + 2) * np.finfo(np.float32).eps
    assert rounding_of(first[:, :, :4, :4]) == 13 * np.finfo(np.float32).eps


def attained(blocks, key):
    """The largest ``|sum_k B_k x_k|`` that an ascent finds, blocks as (n, e, d)."""
    u = jax.random.normal(key, (50, blocks.shape[1]), blocks.dtype)
    for _ in range(200):
        moves = jnp.einsum("re,ned->rnd", u, blocks)
        lengths = jnp.linalg.norm(moves, axis=-1, keepdims=True)
        u = jnp.einsum("ned,rnd->re", blocks, moves / jnp.where(lengths > 0, lengths, 1))
    return float(jnp.max(jnp.linalg.norm(u, axis=-1)))


@pytest.mark.parametrize("shape", [(5, 3, 4), (1, 3, 2), (6, 70, 2)])
def test_sums_with_a_budget_for_each_token(shape, x64):
    blocks = jax.random.normal(jax.random.key(0), shape, float).at[shape[0] // 2 + 1 :].multiply(0.1)
    norms = jnp.linalg.norm(blocks, 2, axis=(1, 2))
    found = float(summed_norm(blocks, norms))
    largest = attained(blocks, jax.random.key(1))
    assert largest <= found <= min(1.02 * largest, float(norms.sum()) * (1 + 1e-9))
    # Bounds of norms may be far off, and tokens of which nothing is read count for nothing.
    padded = jnp.concatenate([blocks, jnp.zeros_like(blocks)])
    starts = jnp.concatenate([3 * norms[::-1], jnp.zeros_like(norms)])
    assert largest <= summed_norm(padded, starts) <= 1.1 * largest


def test_sums_of_nothing():
    nothing = jnp.zeros((3, 2, 2))
    assert summed_norm(nothing, jnp.zeros(3)) == 0
    slope = jax.grad(lambda blocks: summed_norm(blocks, jnp.zeros(3)))(nothing)
    assert jnp.isfinite(slope).all()
