"""Poolers of sentence encoders, and poolers around poolers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import FURTHER_POOLERS, pad, random_variables

from poolax import bounds, pooling

DIM = 4


@pytest.mark.parametrize("name", [*FURTHER_POOLERS, "unit"])
def test_padding_gradients_and_configurations(name):
    pooler = (FURTHER_POOLERS | {"unit": pooling.UnitPool(pooling.SumPool())})[name]
    z = jax.random.normal(jax.random.key(1), (5, DIM))
    variables = random_variables(pooler, jax.random.key(0), jnp.zeros((12, DIM)))

    @jax.jit
    def pool(z, mask):
        pooled = pooler.apply(variables, z, mask)
        return pooled, jax.grad(lambda z: jnp.sum(jnp.sin(pooler.apply(variables, z, mask))))(z)

    for left, right in ((0, 3), (3, 0), (2, 1)):
        tokens, mask = pad(z, left, right, np.nan)
        pooled, gradient = pool(tokens, mask)
        np.testing.assert_allclose(pooled, pooler.apply(variables, z), atol=1e-6)
        assert np.isfinite(gradient).all()
        assert not gradient[~mask].any()
    _, gradient = pool(tokens, jnp.zeros_like(mask))
    assert not gradient.any()
    assert pooling.from_config(pooling.to_config(pooler)) == pooler
    assert pooler.apply(variables, z.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_what_they_compute():
    z = np.random.default_rng(0).normal(size=(5, DIM)).astype(np.float32)
    mask = np.array([True, True, False, True, True])
    real = z[mask]

    def pooled(pooler, variables=None):
        return np.asarray(pooler.apply(variables or {}, z, mask))

    close = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(pooled(pooling.SqrtPool()), real.sum(0) / 2, **close)
    weights = np.arange(3, 7)
    np.testing.assert_allclose(pooled(pooling.PositionPool(3)), weights @ real / weights.sum(), **close)
    average = real.mean(0)
    expected = 2 * (average - average.mean()) / np.sqrt(average.var() + 0.1) - 1
    norm = {"scale": np.full(DIM, 2, np.float32), "bias": np.full(DIM, -1, np.float32)}
    found = pooled(pooling.NormPool(pooling.AveragePool(), 0.1), {"params": {"norm": norm}})
    np.testing.assert_allclose(found, expected, **close)
    concat = pooling.ConcatPool((pooling.FirstPool(), pooling.MaxPool()))
    np.testing.assert_array_equal(pooled(concat), np.concatenate([real[0], real.max(0)]))
    np.testing.assert_allclose(pooled(pooling.SkipPool(pooling.AveragePool(), 3)), real[3], **close)
    assert not pooled(pooling.SkipPool(pooling.AveragePool(), 4)).any()
    unit = pooled(pooling.UnitPool(pooling.SumPool()))
    np.testing.assert_allclose(unit, real.sum(0) / np.linalg.norm(real.sum(0)), **close)
    projected = pooling.ProjectedPool(pooling.LastPool(), 2, "sigmoid", use_bias=False)
    kernel = np.ones((DIM, 2), np.float32)
    found = pooled(projected, {"params": {"dense": {"kernel": kernel}}})
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-real[-1] @ kernel)), **close)


def test_no_bound_of_unit_vectors():
    with pytest.raises(bounds.NoBoundError, match="UnitPool"):
        bounds.pooler(pooling.UnitPool(pooling.AveragePool()), num_tokens=3, dim=DIM)
    sigmoid = pooling.ProjectedPool(pooling.AveragePool(), 2, "sigmoid")
    variables = sigmoid.init(jax.random.key(0), jnp.zeros((3, DIM)))
    with pytest.raises(bounds.NoBoundError, match="activation"):
        bounds.pooler(sigmoid, variables, num_tokens=3, dim=DIM)
    assert len(bounds.rules_of(pooling.UnitPool(pooling.HybridPool()))) == 5


@pytest.mark.parametrize(
    ("pooler", "message"),
    [
        (pooling.PositionPool(start=0), "start: .* >= 1"),
        (pooling.ConcatPool(()), "poolers: expected at least one pooler"),
        (pooling.ConcatPool(("avg",)), "poolers: expected Pooler instances"),
        (pooling.ProjectedPool("avg", 2), "pooler: expected a Pooler"),
        (pooling.ProjectedPool(pooling.AveragePool(), 0), "features: .* >= 1"),
        (pooling.ProjectedPool(pooling.AveragePool(), 2, "softplus"), "activation: "),
        (pooling.NormPool("avg"), "pooler: expected a Pooler"),
        (pooling.NormPool(pooling.AveragePool(), 0.0), "eps: expected a finite number > 0, got 0"),
        (pooling.UnitPool("avg"), "pooler: expected a Pooler"),
        (pooling.SkipPool(pooling.AveragePool(), -1), "num_tokens: .* >= 0"),
    ],
)
def test_bad_options_are_named(pooler, message):
    with pytest.raises(ValueError, match=message):
        pooler.init(jax.random.key(0), jnp.zeros((4, DIM)))
    with pytest.raises(ValueError, match=r"options of 'unit': .* missing"):
        pooling.from_name("unit")
