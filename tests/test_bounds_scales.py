"""Bounds of kernels, tokens and numbers that are far from one: no square may leave float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import POOLERS, random_variables

from poolax import blocks, bounds
from poolax.attention import DotProduct
from poolax.bounds._combine import combination
from poolax.bounds._kernels import Kernels


@pytest.mark.parametrize("method", ["published", "sharp", "tight"])
def test_logits_of_tiny_kernels_and_huge_tokens(method):
    """Query and key over s and tokens times s leave attention as it is."""
    query, key, identity = np.diag([30.0, 0.0]), np.diag([1.0, 0.0]), np.eye(2)
    found = []
    for scale in (1e-14, 1e-7, 1.0, 1e7, 1e14):
        parts = {"query": query / scale, "key": key / scale, "value": identity}
        kernels = {
            name: jnp.asarray(np.stack([part] * 2, axis=1), "f4") for name, part in parts.items()
        }
        kernels["out"] = jnp.asarray(np.stack([identity] * 2), "f4")
        sizes = {"num_tokens": 2, "radius": scale, "method": method}
        found.append(float(bounds.attention(DotProduct(), kernels, **sizes).sequence))
    np.testing.assert_allclose(found, found[2], rtol=1e-4)
    # What an input attains.
    assert min(found) > 21.3


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_local_bounds_hold_for_values_of_any_size(scale):
    x = jax.random.normal(jax.random.key(0), (4, 3))
    query, key, value = jax.random.normal(jax.random.key(1), (3, 3, 2, 2))
    out = jax.random.normal(jax.random.key(2), (2, 2, 3))
    expected = bounds.local_attention(x, query, key, value, out)
    found = bounds.local_attention(x, query, key, scale * value, out)
    # Some forms may be out of range, but not all, and none is below.
    assert 0.999 * expected <= found / scale <= 3 * expected


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_values_of_any_size_combine_tightly(scale):
    """No looser for values of one head that are far from those of the other, or of both."""
    rng = np.random.default_rng(0)
    values, out = rng.normal(size=(2, 2, 3, 2)).astype("f4")
    out = np.swapaxes(out, 1, 2)

    def by_value(factors):
        scaled = values * np.reshape(factors, (2, 1, 1))
        kernels = Kernels(values, values, scaled, out, None, None, has_bias=False)
        return combination(kernels, DotProduct(), tight=True).by_value

    expected = by_value(np.ones(2, "f4"))
    for factors in ((scale, scale), (1.0, scale)):
        np.testing.assert_allclose(by_value(np.float32(factors)), expected, rtol=1e-4)


def test_a_block_of_tiny_parameters_is_not_certified_to_be_constant():
    model = blocks.TBM(2, POOLERS["avg"])
    variables = random_variables(model, jax.random.key(0), jnp.zeros((12, 8)))
    scaled = jax.tree.map(lambda leaf: 1e-20 * leaf, variables)
    bound = bounds.tbm(model, scaled, num_tokens=6, radius=1.0)
    assert bound.lipschitz > 0
    assert -120 < bound.log_lipschitz < -80
    assert bound.gamma(1e-3, 1.0).gamma > 0


def test_more_tokens_than_there_are_numbers():
    bound = bounds.pooled_block("avg", attention=3.0, ffn=1.0, dim=64, num_tokens=1e300)
    assert 0 < bound.lipschitz < 1e-15
    assert bound.gamma(1e-30, 1.0).gamma > 0


def test_the_cube_holds_its_corners_in_every_precision():
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        domain = bounds.cube(dtype(2.0), 8)
        assert 32**0.5 <= float(domain.radius) <= 32**0.5 * (1 + 1e-4)
