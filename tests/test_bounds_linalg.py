import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from poolax.bounds._linalg import lambert_w, product_norm, round_up, spectral_norm


def test_lambert_w(x64):
    x = np.concatenate([[0.0], np.logspace(-12, 300, 200)])
    expected = scipy.special.lambertw(x).real
    np.testing.assert_allclose(lambert_w(jnp.asarray(x)), expected, rtol=1e-13)
    slope = jax.vmap(jax.grad(lambert_w))(jnp.asarray(x[:100]))
    expected = np.exp(-expected[:100]) / (1 + expected[:100])
    np.testing.assert_allclose(slope, expected, rtol=1e-12)
    assert jax.grad(lambert_w)(0.0) == 1.0


def test_lambert_w_in_single_precision():
    x = np.logspace(-6, 30, 100).astype(np.float32)
    np.testing.assert_allclose(lambert_w(jnp.asarray(x)), scipy.special.lambertw(x).real, rtol=1e-6)


@pytest.mark.parametrize("shapes", [((7, 3), (7, 3)), ((4, 9), (6, 9)), ((5, 1), (2, 1))])
def test_product_norm(shapes, x64):
    rng = np.random.default_rng(0)
    left, right = (jnp.asarray(rng.normal(size=(2, *shape))) for shape in shapes)
    dense = left @ jnp.swapaxes(right, -1, -2)
    np.testing.assert_allclose(product_norm(left, right), spectral_norm(dense), rtol=1e-12)
    ours = jax.grad(lambda a, b: product_norm(a, b).sum(), (0, 1))(left, right)
    dense = jax.grad(lambda a, b: spectral_norm(a @ jnp.swapaxes(b, -1, -2)).sum(), (0, 1))(left, right)
    for one, other in zip(ours, dense, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_norms_have_finite_gradients_at_zero():
    zero = jnp.zeros((4, 3))
    gradients = jax.grad(product_norm, (0, 1))(zero, zero), jax.grad(spectral_norm)(zero)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_rounding_goes_up():
    assert round_up(jnp.float32(1.0)) > 1.0
    assert round_up(jnp.float32(1.0)) < 1.0 + 1e-5
