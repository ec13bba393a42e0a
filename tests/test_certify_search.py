"""Radii at which bounds of slopes use margins up, searched for on growing balls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolax.bounds._certify_slopes import crossing, search
from poolax.bounds._reach import Reach, cross, pair


def radius_of(slope, most, margin=1.0):
    def found_on(widths):
        return crossing(widths, slope(jnp.cumsum(widths)), jnp.asarray(margin))

    return search(found_on, jnp.asarray(most), traced=True)


@pytest.mark.parametrize("size", [1e-25, 1.0])
def test_the_radius_of_a_slope_that_grows(size):
    """Where ``r + 24 r^2`` is the margin 1, in units of ``size``, from below and nearly there."""
    truth = size * (np.sqrt(97) - 1) / 48
    found = radius_of(lambda r: (1 + 48 * r / size) / size, 1.0)
    assert 0.93 * truth <= found <= truth * (1 + 1e-6)


def test_a_slope_that_is_known_on_tiny_balls_alone():
    found = radius_of(lambda r: jnp.where(r < 1e-30, 1.0, jnp.inf), 1.0)
    assert 0.8e-30 <= found <= 1e-30


@pytest.mark.parametrize("scale", [1e-25, 1.0])
def test_moves_of_two_tokens(scale):
    """Of the norm of ``u a_i + w a_j`` for rows ``a`` of the reach, at radii whose squares underflow."""
    matrix = np.abs(np.random.default_rng(0).normal(size=(3, 3)))
    reach = Reach(jnp.asarray(matrix * scale, jnp.float32), "frobenius")
    first, second = (np.abs(np.random.default_rng(k).normal(size=(2, 3))) for k in (1, 2))
    found = pair(reach.cosines, reach.radii, 1, jnp.asarray(first), jnp.asarray(second)) / scale
    truth = np.linalg.norm(first[..., None] * matrix[1] + second[..., None] * matrix, axis=-1)
    np.testing.assert_allclose(found, truth, rtol=1e-5)
    products = np.linalg.norm(matrix, axis=1) * np.linalg.norm(matrix[1]) + matrix @ matrix[1]
    if scale == 1:
        np.testing.assert_allclose(cross(reach.cosines, reach.radii, 1), products / 2, rtol=1e-5)
    each = Reach(reach.matrix, "tokens")
    found = pair(each.cosines, each.radii, 1, jnp.asarray(first), jnp.asarray(second)) / scale
    radii = matrix.sum(-1)
    np.testing.assert_allclose(found, first * radii[1] + second * radii[None], rtol=1e-5)
    assert not jnp.isnan(
        jax.grad(lambda m: pair(Reach(m, "frobenius").cosines, jnp.zeros(3), 1, 1.0, 1.0).sum())(
            jnp.zeros((3, 3))
        )
    ).any()
