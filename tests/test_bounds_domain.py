import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import pad
from hypothesis import given
from hypothesis import strategies as st

from poolax import bounds


def test_cube():
    domain = bounds.cube(2.0, 9)
    assert domain.radius == 6.0
    assert domain.spread == 3.0
    corners = jnp.array(np.meshgrid(*[[0.0, 2.0]] * 9)).reshape(9, -1).T
    holds = bounds.domain_of(corners[None, :: len(corners) - 1])
    np.testing.assert_allclose([holds.radius, holds.spread], [6.0, 3.0], rtol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, jnp.bfloat16])
@pytest.mark.parametrize("given", [lambda high: high, np.asarray, jnp.asarray])
def test_a_cube_of_any_precision_holds_its_corners(dtype, given):
    domain = bounds.cube(given(dtype(2)), 8)
    assert 2 * np.sqrt(8) <= float(domain.radius) <= 2 * np.sqrt(8) * (1 + 1e-4)
    assert np.sqrt(8) <= float(domain.spread)


@given(seed=st.integers(0, 30), left=st.integers(0, 2), right=st.integers(0, 2))
def test_domain_of_tokens(seed, left, right):
    tokens = np.random.default_rng(seed).normal(size=(5, 3)).astype(np.float32)
    radius = np.linalg.norm(tokens, axis=1).max()
    spread = max(np.linalg.norm(a - b) for a in tokens for b in tokens) / 2
    for fill in (0.0, 1e6, np.nan):
        domain = bounds.domain_of(*pad(tokens, left, right, fill))
        assert radius <= domain.radius <= radius * (1 + 1e-4)
        assert spread <= domain.spread <= spread * (1 + 1e-4)


def test_spread_is_within_a_sequence():
    tokens = jnp.stack([jnp.full((4, 3), 5.0), jnp.full((4, 3), -5.0)])
    assert bounds.domain_of(tokens).spread == 0.0
    assert bounds.domain_of(tokens, jnp.zeros((2, 4), bool)).radius == 0.0
    gradient = jax.grad(lambda t: bounds.domain_of(t).spread + bounds.domain_of(t).radius)(tokens)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bounds.cube(-1.0, 3), r"high: expected a finite number >= 0, got -1"),
        (lambda: bounds.cube(1.0, 0), r"dim: expected a whole number >= 1, got 0"),
        (lambda: bounds.domain_of(np.zeros(3)), r"tokens: expected shape \(\*batch, n, d\)"),
        (lambda: bounds.domain_of(np.full((2, 3), np.nan)), r"tokens: expected finite values"),
        (
            lambda: bounds.domain_of(np.full((2, 3), 3e38, np.float32)),
            r"tokens: expected sizes for which float32 holds their norms, got inf",
        ),
        (lambda: bounds.cube(1e308, 9), r"high: expected sizes for which float64 holds the radius"),
        (lambda: bounds.domain_of(np.zeros((2, 3)), np.ones(2)), r"mask: expected dtype bool"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
