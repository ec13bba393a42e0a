import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from poolax import bounds
from poolax._decompositions import MOST_TO_DECOMPOSE
from poolax.bounds import _linalg
from poolax.bounds._combine import stacked_norm
from poolax.bounds._linalg import lambert_w, product_norm, round_up, spectral_norm, top_eigenpair


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


LARGE = {
    "falling": lambda rng: rng.normal(size=(1100, 1200)) / np.arange(1, 1201) ** 0.5,
    "flat at the top": lambda rng: rng.normal(size=(1200, 1100)),
    "of rank one": lambda rng: np.outer(rng.normal(size=1100), rng.normal(size=1100)),
    "huge": lambda rng: 1e30 * rng.normal(size=(1100, 1100)) / np.arange(1, 1101),
}


@pytest.mark.parametrize("name", LARGE)
def test_norms_of_large_matrices_are_certified_from_above(name):
    matrix = LARGE[name](np.random.default_rng(0)).astype(np.float32)
    assert min(matrix.shape) > _linalg._MOST_FOR_EIGENVALUES
    exact = np.linalg.norm(matrix.astype(np.float64), 2)
    found = float(spectral_norm(jnp.asarray(matrix)))
    assert exact <= found <= exact * (1 + 5e-4)


def test_a_large_matrix_of_zeros():
    zero = jnp.zeros((1100, 1100))
    norm, gradient = jax.value_and_grad(spectral_norm)(zero)
    assert float(norm) < 1e-15
    assert np.isfinite(gradient).all()


def test_stacked_heads_are_certified_from_above(monkeypatch):
    """The way of large widths, taken at a small one: above the exact norm, with its gradient."""
    rng = np.random.default_rng(0)
    values = jnp.asarray(rng.normal(size=(4, 96, 8)), jnp.float32)
    out = jnp.asarray(rng.normal(size=(4, 8, 96)), jnp.float32)
    weights = jnp.asarray(rng.uniform(size=4), jnp.float32)
    exact, gradients = jax.value_and_grad(stacked_norm, (0, 1, 2))(values, out, weights)
    rows = np.sqrt(weights)[:, None, None] * np.asarray(values @ out, np.float64)
    np.testing.assert_allclose(exact, np.linalg.norm(rows.reshape(-1, 96), 2), rtol=1e-5)
    monkeypatch.setattr(_linalg, "_MOST_FOR_EIGENVALUES", 10)
    found, certified = jax.value_and_grad(stacked_norm, (0, 1, 2))(values, out, weights)
    assert exact <= found <= exact * (1 + 1e-4)
    for one, other in zip(gradients, certified, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3 * np.abs(one).max())


SPECTRA = {
    "falling": np.linspace(1, 0, 100),
    "flat at the top": np.linspace(1, 0.999, 100),
    "a close pair": np.array([1, 1 - 1e-7, *[0.3] * 98]),
    "equal": np.ones(100),
    "of rank one": np.eye(100)[0],
    "nothing": np.zeros(100),
}


@pytest.mark.parametrize("double", [False, True])
def test_norms_of_what_is_squared_instead_of_decomposed(double):
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(size, 100)))[0] for size in (100, 130))
    assert min(len(left), len(right)) > MOST_TO_DECOMPOSE
    with jax.enable_x64(double):
        dtype = jnp.result_type(float)
        rows = np.stack([left * values @ right.T for values in SPECTRA.values()])
        scales = np.array([1.0, 1e-30, 1e30])[:, None, None, None]
        norms = np.asarray(spectral_norm(jnp.asarray(scales * rows, dtype)), np.float64)
        expected = scales[..., 0, 0] * [values.max() for values in SPECTRA.values()]
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(norms, expected, rtol=100 * eps)
        for matrix, values in zip(rows, SPECTRA.values(), strict=True):
            value, vector = top_eigenpair(jnp.asarray(matrix @ matrix.T, dtype))
            assert abs(value - values.max() ** 2) <= 100 * eps
            length = np.linalg.norm(matrix.T @ np.asarray(vector, np.float64))
            assert length >= (1 - 1e-4) * values.max()
        broken = spectral_norm(jnp.asarray(rows[0], dtype).at[3, 4].set(jnp.nan))
        assert not np.isfinite(broken)
        matrix = jnp.asarray(rows[0], dtype)
        expected = np.outer(left[:, 0], right[:, 0])
        np.testing.assert_allclose(jax.grad(spectral_norm)(matrix), expected, atol=1e-3)


def test_the_largest_numbers_of_the_dtype():
    """A division by them multiplies with an inverse that devices take for zero."""
    for size in (1e37, 1e38, 3e38):
        matrix = jnp.asarray([[size, 0.0], [0.0, 1.0]], jnp.float32)
        np.testing.assert_allclose(spectral_norm(matrix), size, rtol=1e-6)
        domain = bounds.domain_of(matrix)
        np.testing.assert_allclose(domain.radius, size, rtol=1e-4)
        np.testing.assert_allclose(domain.spread, size / 2, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, np.float32])
def test_norms_of_matrices_in_few_bits(dtype):
    matrix = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(dtype)
    found = spectral_norm(matrix)
    assert found.dtype == jnp.float32
    expected = np.linalg.norm(matrix.astype(np.float64), 2, axis=(-2, -1))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_norms_of_what_is_no_matrix_are_refused():
    for matrix in ([[1.0, 2.0]], np.ones((2, 2), int), np.ones(3), 1.0, np.ones((0, 3)), "matrix"):
        with pytest.raises(ValueError, match=r"^matrix: expected"):
            spectral_norm(matrix)
