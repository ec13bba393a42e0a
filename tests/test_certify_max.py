"""What moving maxima costs: by sorting, by answers that are known, and by differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from poolax.bounds._certify_max import max_radius


def by_sorting(z, direction, margin):
    """The radius in the Frobenius norm, columns sorted and the price searched for."""
    size = np.abs(direction)
    gaps = np.sort(z.max(axis=0) - z, axis=0)
    counts = np.arange(1, len(z) + 1)[:, None]

    def moves(price):
        falls = np.min((price * size / 2 + np.cumsum(gaps, axis=0)) / counts, axis=0)
        return np.where(direction > 0, falls, price * size / 2)

    most = 4 * len(z) * margin / np.sum(size**2)
    price = scipy.optimize.brentq(lambda p: size @ moves(p) - margin, 0, most, xtol=1e-300, rtol=1e-13)
    found = moves(price)
    falls = np.sum(np.maximum(found - gaps, 0) ** 2, axis=0)
    return np.sqrt(np.sum(np.where(direction > 0, falls, found**2)))


def test_the_frobenius_norm_is_that_of_sorted_columns(x64):
    """From margins at which one token moves to those at which all do, with ties and masks."""
    random = np.random.default_rng(0)
    z = random.normal(size=(24, 9, 5))
    z[::3] = np.round(z[::3])
    z[1, :, :] = z[1, :1]
    real = random.random((24, 9)) < 0.7
    real[:, 4] = True
    real[5] = np.arange(9) == 4
    direction = random.normal(size=(24, 5))
    direction[::4, 2] = 0
    margin = np.exp(random.uniform(-6, 6, 24))
    radius = jax.jit(jax.vmap(lambda *one: max_radius(*one, "frobenius")))
    found = radius(*map(jnp.asarray, (z, real, direction, margin)))
    truth = [
        by_sorting(one[kept], *rest)
        for one, kept, *rest in zip(z, real, direction, margin, strict=True)
    ]
    np.testing.assert_allclose(found, truth, rtol=1e-9)


@pytest.mark.parametrize(
    "dim", [pytest.param(dim, marks=pytest.mark.slow) for dim in (8, 300)] + [1200]
)
def test_tokens_that_are_the_largest_far_apart_share_by_their_norms(dim, x64):
    """Each moves as far as any, along what it is the largest of."""
    random = np.random.default_rng(1)
    owner = np.arange(dim) % 8
    z = np.where(owner == np.arange(8)[:, None], 100.0, 0.0) + random.random((8, dim))
    direction = random.normal(size=dim)
    norms = [np.linalg.norm(direction[owner == token]) for token in range(8)]
    arguments = jnp.asarray(z), jnp.ones(8, bool), jnp.asarray(direction), jnp.asarray(2.0)
    found = jax.jit(lambda *one: max_radius(*one, "tokens"))(*arguments)
    assert 0.999 * 2 / sum(norms) <= found <= 2 / sum(norms) * (1 + 1e-9)


def test_the_slope_is_that_of_differences(x64):
    random = np.random.default_rng(2)
    z, direction = jnp.asarray(random.normal(size=(6, 4))), jnp.asarray(random.normal(size=4))
    real = jnp.arange(6) > 0

    @jax.jit
    def radius(direction, margin):
        return max_radius(z, real, direction, margin, "frobenius")

    slope = jax.jit(jax.grad(radius, argnums=(0, 1)))(direction, 1.0)
    # A direction and a margin that grow together are the same question.
    np.testing.assert_allclose(slope[0] @ direction + slope[1], 0, atol=1e-9)
    difference = (radius(direction, 1 + 1e-4) - radius(direction, 1 - 1e-4)) / 2e-4
    np.testing.assert_allclose(slope[1], difference, rtol=1e-5)
