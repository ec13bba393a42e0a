"""Bounds of kernels, tokens and numbers that are far from one: no square may leave float32."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import KINDS, POOLERS, random_variables

from poolax import blocks, bounds
from poolax.attention import L2, DotProduct
from poolax.bounds import METHODS
from poolax.bounds._combine import combination
from poolax.bounds._kernels import Kernels

SCALES = (1e-15, 1e-7, 1.0, 1e7, 1e15)
TINY = float(np.finfo(np.float32).tiny)


def kernels_of(kind, dtype, scale):
    names = ("query", "value", "out") if isinstance(kind, L2) else ("query", "key", "value", "out")
    rng = np.random.default_rng(0)
    shapes = {name: (2, 2, 4) if name == "out" else (4, 2, 2) for name in names}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return {name: jnp.asarray(array.astype(dtype) * dtype(scale)) for name, array in arrays.items()}


CASES = [
    pytest.param(name, method, marks=[] if (name, method) == ("dot", "tight") else pytest.mark.slow)
    for name, method in itertools.product(KINDS, METHODS)
    if method != "published" or not getattr(KINDS[name], "plain_values", False)
]


@pytest.mark.parametrize(("name", "method"), CASES)
def test_single_precision_is_never_below_double_precision(name, method):
    def bound(dtype, scale, radius):
        # What float32 makes of the scales is what they are.
        scale, radius = (dtype(np.float32(number)) for number in (scale, radius))
        sizes = {"num_tokens": 5, "radius": radius, "method": method}
        return bounds.attention(KINDS[name], kernels_of(KINDS[name], dtype, scale), **sizes)

    for scale, radius in itertools.product(SCALES, SCALES):
        single = bound(np.float32, scale, radius)
        with jax.enable_x64(True):
            double = bound(np.float64, scale, radius)
        for part in ("sequence", "per_token", "mixing", "own"):
            if getattr(double, part) is None:
                continue
            found, exact = (float(getattr(record, part)) for record in (single, double))
            case = (scale, radius, part, found, exact)
            assert found > 0, case
            if exact < TINY:
                assert found <= 2 * TINY or part == "own", case
                continue
            assert found >= exact, case
            # Where slopes squared overflow heads are no longer taken together; the own part is no
            # smaller than what rounding leaves beside the other.
            if part != "own":
                assert found <= exact * (1.2 if scale * scale * radius * radius > 1e18 else 1.001) or (
                    np.isinf(found) and exact > 1e37
                ), case


@pytest.mark.parametrize("method", METHODS)
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


@pytest.mark.parametrize("method", ["sharp", pytest.param("tight", marks=pytest.mark.slow)])
def test_a_block_at_every_scale(method):
    model = blocks.TBM(2, POOLERS["avg"])
    variables = random_variables(model, jax.random.key(0), jnp.zeros((12, 8)))
    for scale in (1e-20, 1e-15, 1e-7, 1.0, 1e15):
        scaled = jax.tree.map(lambda leaf, scale=scale: scale * leaf, variables)
        bound = bounds.tbm(model, scaled, num_tokens=6, radius=1.0, method=method)
        assert bound.lipschitz > 0
        assert not np.isnan(bound.log_lipschitz)
        if 2 * TINY < bound.lipschitz < np.inf:
            np.testing.assert_allclose(np.log(bound.lipschitz), bound.log_lipschitz, rtol=1e-4)
        assert bound.gamma(1e-3, 1.0).gamma > 0


def test_a_block_of_tiny_scales_is_not_taken_for_its_residual():
    """Norms whose product is below all numbers, behind a feed-forward layer and attention of 1e10."""
    model = blocks.TBM(2, POOLERS["avg"])
    variables = random_variables(model, jax.random.key(0), jnp.zeros((12, 8)))

    def bound(dtype):
        params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), variables["params"])
        for name in ("norm1", "norm2"):
            params[name]["scale"] = params[name]["scale"] * dtype(1e-20)
        params["ffn"]["kernel"] = params["ffn"]["kernel"] * dtype(1e10)
        params["attention"]["out"]["kernel"] = params["attention"]["out"]["kernel"] * dtype(1e10)
        sizes = {"num_tokens": 6, "radius": dtype(1.0), "method": "tight"}
        return float(bounds.tbm(model, {"params": params}, **sizes).lipschitz)

    single = bound(np.float32)
    with jax.enable_x64(True):
        double = bound(np.float64)
    assert double <= single <= 1.001 * double


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


def test_sums_of_more_tokens_than_there_are_numbers_are_not_bounded():
    bound = bounds.pooled_block("sum", attention=3.0, ffn=1.0, dim=64, num_tokens=1e300)
    assert np.isposinf(bound.lipschitz)
    assert np.isposinf(bound.log_lipschitz)


@pytest.mark.parametrize("method", ["sharp", "tight"])
def test_a_spread_that_overflowed_counts_only_where_it_is_read(method):
    sizes = {"num_tokens": 5, "dim": 8, "method": method}
    for name in ("avg", "map"):
        pooler = POOLERS[name]
        variables = pooler.init(jax.random.key(0), jnp.ones((5, 8)))
        bound = bounds.pooler(pooler, variables, spread=np.inf, **sizes)
        assert np.isposinf(bound.l2) == (name == "map")
        with pytest.raises(ValueError, match=r"spread: expected a finite number >= 0, got nan"):
            bounds.pooler(pooler, variables, spread=np.nan, **sizes)
