"""Poolers of probes on frozen models and by entry: what they compute, and at the edges of numbers."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from heads import TASK, toy
from helpers import PROBES, exact_norm, random_variables
from scipy.special import expit, logsumexp

from poolax import bounds, pooling, training

DIM = 4


def softmax(scores):
    return np.exp(scores - logsumexp(scores))


def textbook(name, z, p):
    """What a pooler gives of tokens (n, d) and its parameters."""
    if name == "l2":
        return np.linalg.norm(z, axis=0)
    if name == "lse":
        temperature = np.exp(p["log_temperature"])
        return temperature * (logsumexp(z / temperature, axis=0) - np.log(len(z)))
    if name == "rolling":
        window = min(PROBES[name].window, len(z))
        return np.max([z[t : t + window].mean(0) for t in range(len(z) - window + 1)], axis=0)
    if name == "multimax":
        return (z @ p["directions"]).max(0)
    if name == "abmil":
        hidden = np.tanh(z @ p["hidden"] + p["hidden_bias"])
        gated = hidden * expit(z @ p["gate"] + p["gate_bias"])
        return softmax(gated @ p["score"]) @ z
    slices = []
    for k, query in enumerate(p["query"]):
        bias = p["slope"][k] * np.arange(len(z)) if name == "position" else 0
        slices.append(softmax(z @ query / np.sqrt(DIM) + bias) @ z @ p["value"][:, k])
    return np.concatenate(slices)


@pytest.mark.parametrize("name", PROBES)
def test_against_the_textbook(name, x64):
    """With holes in the mask, from one token to more than a window."""
    pooler = PROBES[name]
    rng = np.random.default_rng(0)
    z = rng.normal(size=(9, DIM))
    variables = random_variables(pooler, jax.random.key(1), jnp.zeros((9, DIM)))
    params = jax.tree.map(np.asarray, variables.get("params", {}))
    for count in (1, 2, 3, 6, 9):
        mask = np.zeros(9, bool)
        mask[rng.choice(9, count, replace=False)] = True
        expected = textbook(name, z[mask], params)
        np.testing.assert_allclose(pooler.apply(variables, z, mask), expected, rtol=1e-10)
    np.testing.assert_allclose(pooler.apply(variables, z), expected, rtol=1e-10)


@pytest.mark.parametrize("window", [1, 2, 3, 4, 7, 8, 50])
def test_windows_of_every_length(window):
    z = np.random.default_rng(0).normal(size=(8, DIM)).astype(np.float32)
    size = min(window, 8)
    expected = np.max([z[t : t + size].mean(0) for t in range(9 - size)], axis=0)
    np.testing.assert_allclose(pooling.rolling_pool(z, window), expected, rtol=1e-5)


def test_large_and_small_numbers():
    largest = np.full((3, 2), 3e38, np.float32)
    np.testing.assert_allclose(pooling.rolling_pool(largest, 2), 3e38, rtol=1e-6)
    for scale in (1e-30, 1e30):
        norms = pooling.l2_pool(jnp.full((3, 2), scale))
        np.testing.assert_allclose(norms, scale * np.sqrt(3), rtol=1e-6)
    assert not jax.grad(lambda z: pooling.l2_pool(z).sum())(jnp.zeros((3, 2))).any()
    with pytest.raises(ValueError, match=r"z: .* pooled vector"):
        pooling.l2_pool(largest)


def test_log_sum_exp_at_any_temperature():
    """Exact from the maximum to the average, with gradients that are finite everywhere."""
    z = np.random.default_rng(0).normal(size=(7, DIM)).astype(np.float32)
    slope = jax.jit(jax.grad(lambda z, t: pooling.log_sum_exp_pool(z, t).sum(), argnums=(0, 1)))
    between = []
    for temperature in 10.0 ** np.array([-38, -30, -3, -1, 0, 1, 3, 6, 30, 38]):
        found = pooling.log_sum_exp_pool(z, temperature)
        wide = z.astype(np.float64)
        if 1e-30 < temperature < 1e6:
            exact = temperature * (logsumexp(wide / temperature, axis=0) - np.log(7))
            np.testing.assert_allclose(found, exact, atol=1e-6)
        between.append(found)
        assert all(np.isfinite(part).all() for part in slope(z, temperature))
    np.testing.assert_array_equal(between[0], z.max(0))
    np.testing.assert_allclose(between[-1], z.mean(0), atol=1e-6)
    assert (np.diff(between, axis=0) <= 1e-6).all()
    ends = np.array([[3e38], [-3e38]], np.float32)
    assert pooling.log_sum_exp_pool(ends, 1.0) == np.float32(3e38)
    for extreme in (-1e30, 1e30):
        variables = {"params": {"log_temperature": jnp.array(extreme)}}
        pooled, gradient = jax.value_and_grad(lambda v: pooling.LogSumExpPool().apply(v, z).sum())(
            variables
        )
        assert np.isfinite(pooled)
        assert np.isfinite(gradient["params"]["log_temperature"])


def test_log_sum_exp_has_the_derivatives_that_it_says(x64):
    z = jax.random.normal(jax.random.key(0), (5, DIM))
    mask = jnp.array([True, False, True, True, True])

    def plainly(z, t):
        real = z[np.array([0, 2, 3, 4])]
        return t * (jax.nn.logsumexp(real / t, axis=0) - jnp.log(4.0))

    at = (z, jnp.array(0.7))
    for derivative in (jax.jacfwd, jax.jacrev, jax.hessian):
        found, expected = (
            jax.jit(derivative(fn, argnums=(0, 1)))(*at)
            for fn in (lambda z, t: pooling.log_sum_exp_pool(z, t, mask), plainly)
        )
        chex.assert_trees_all_close(found, expected, atol=1e-12)
    # Of tokens that are equal, or one alone, as well.
    for near in (jnp.ones((5, DIM)), jnp.ones((5, DIM)) + 1e-12 * z):
        curvature = jax.jit(jax.hessian(lambda z: pooling.log_sum_exp_pool(z, 0.7, mask)))(near)
        chex.assert_trees_all_close(curvature, jax.jit(jax.hessian(plainly))(near, 0.7), atol=1e-9)
    alone = jax.jit(jax.hessian(pooling.log_sum_exp_pool))(z[:1])
    assert not np.any(alone)


def test_an_initialised_position_bias_is_none_and_learns_either_end():
    pooler = pooling.PositionAttentionPool(num_heads=2)
    z = jax.random.normal(jax.random.key(0), (6, DIM))
    params = dict(pooler.init(jax.random.key(1), z)["params"])
    assert not params["slope"].any()
    params["slope"] = jnp.array([50.0, -50.0])
    _, weights = pooler.apply({"params": params}, z, return_weights=True)
    np.testing.assert_allclose(weights, np.eye(6)[[5, 0]], atol=1e-6)
    # Holes are passed over, and counting from elsewhere changes nothing.
    _, apart = pooler.apply({"params": params}, z, jnp.arange(6) % 2 == 0, return_weights=True)
    np.testing.assert_allclose(apart, np.eye(6)[[4, 0]], atol=1e-6)


def test_one_name_has_been_given_on():
    """What was written as "position" before is the fixed average."""
    fixed = {"name": "position", "options": {"start": 3}}
    assert pooling.from_config(fixed) == pooling.PositionPool(3)
    around = {"name": "unit", "options": {"pooler": fixed}}
    assert pooling.from_config(around) == pooling.UnitPool(pooling.PositionPool(3))
    assert pooling.to_config(pooling.PositionPool(3))["name"] == "weightedmean"
    learned = pooling.from_config({"name": "position", "options": {"num_heads": 2}})
    assert learned == pooling.from_name("position", num_heads=2) == pooling.PositionAttentionPool(2)
    with pytest.raises(ValueError, match="options of 'position': expected num_heads, got slope"):
        pooling.from_config({"name": "position", "options": {"slope": 1}})


@pytest.mark.parametrize(
    ("pooler", "message"),
    [
        (pooling.LogSumExpPool(temperature=0.0), "temperature: .* > 0"),
        (pooling.EfficientProbingPool(), "num_queries: expected a divisor of d = 4, got 32"),
        (pooling.EfficientProbingPool(0), "num_queries: .* >= 1"),
        (pooling.GatedAttentionPool(0), "hidden_dim: .* >= 1"),
        (pooling.MultiMaxPool(0), "num_heads: .* >= 1"),
        (pooling.RollingPool(0), "window: .* >= 1"),
        (pooling.PositionAttentionPool(3), "num_heads: expected a divisor of d = 4, got 3"),
    ],
)
def test_bad_options_are_named(pooler, message):
    with pytest.raises(ValueError, match=message):
        pooler.init(jax.random.key(0), jnp.zeros((3, DIM)))


@pytest.mark.parametrize("name", ["ep", "abmil", "multimax", "position"])
def test_tokens_of_another_width_are_named(name):
    pooler = PROBES[name]
    variables = pooler.init(jax.random.key(0), jnp.zeros((3, DIM)))
    with pytest.raises(ValueError, match=r"z: expected width 4, for which \w+ was initialised, got 6"):
        pooler.apply(variables, jnp.zeros((3, 6)))


def test_factors_in_the_operator_norm(x64):
    """Changes of largest singular value one, ascended; the Frobenius factor does not hold for them."""

    def moved(pooler, change, z):
        change = change / jnp.linalg.norm(change, 2)
        return jnp.linalg.norm(jax.jvp(lambda z: pooler.apply({}, z), (z,), (change,))[1])

    for pooler, attained in (
        (pooling.L2Pool(), 0.9), (pooling.RollingPool(2), 0.7), (pooling.SqrtPool(), 0.99),
        (pooling.MaxPool(), 0.9), (pooling.ConcatPool((pooling.AveragePool(), pooling.MaxPool())), 0.7),
    ):  # fmt: skip
        ascend = jax.jit(jax.vmap(jax.value_and_grad(lambda c, z, p=pooler: moved(p, c, z), (0, 1))))
        z, change = jax.random.normal(jax.random.key(0), (2, 60, 5, DIM))
        best = 0.0
        for _ in range(150):
            value, (of_change, of_z) = ascend(change, z)
            change, z = change + 0.1 * of_change, z + 0.1 * of_z
            best = max(best, float(value.max()))
        sizes = {"num_tokens": 5, "dim": DIM}
        factor = bounds.pooling_factor(pooler, **sizes, norm="operator")
        assert attained * factor <= best <= factor
    assert bounds.pooling_factor("l2", num_tokens=5, dim=DIM) <= 1.0 + 1e-9
    wide = bounds.pooling_factor("l2", num_tokens=5, dim=DIM, norm="operator")
    np.testing.assert_allclose(wide, 2.0)


def test_weights_of_positions_lower_the_largest_share():
    """A steep slope lets one token have all attention; none, and logits alone, cannot."""
    pooler = pooling.PositionAttentionPool()
    z = jnp.zeros((50, DIM))
    params = dict(pooler.init(jax.random.key(0), z)["params"])
    params["query"] = jnp.zeros_like(params["query"])
    params["value"] = jnp.eye(DIM)[:, None]
    for slope in (0.0, 1e-6, 0.1, 3.0):
        variables = {"params": params | {"slope": jnp.array([slope])}}
        _, weights = pooler.apply(variables, z, return_weights=True)
        bound = bounds.pooler(pooler, variables, num_tokens=50, dim=DIM, spread=1.0, method="tight")
        np.testing.assert_allclose(bound.l2**2, weights.max(), rtol=1e-4)
        measured = exact_norm(functools.partial(pooler.apply, variables), z)
        assert measured <= bound.l2


@pytest.mark.parametrize(
    ("solver", "names"),
    [
        ("adam", ("position", "few")),
        ("converged", ("rolling", "lse")),
        pytest.param("adam", tuple(PROBES), marks=pytest.mark.slow),
    ],
)
def test_heads_are_trained_and_loaded(solver, names, tmp_path):
    """A head comes back with its pooler, one of another width than its tokens too."""
    states, mask, targets, splits = toy(dim=DIM)
    everything = {**PROBES, "few": pooling.MultiMaxPool(3)}
    poolers = {name: everything[name] for name in names}
    options = {"epochs": 2}
    if solver == "converged":
        options = {"solver": training.Converged(max_epochs=3, learning_rates=(1e-3,))}
    records = training.sweep_states(
        states, mask, targets, TASK, splits=splits, poolers=poolers, seeds=1, batch_size=10,
        out=tmp_path, **options,
    )  # fmt: skip
    assert {row["pooler"] for row in records} == set(poolers)
    test = splits["test"]
    for row in records:
        head = training.load_head(training.head_directory(tmp_path, row))
        assert head.pooler == poolers[row["pooler"]]
        right = head.predict(states[test], mask[test]).argmax(-1) == targets[test]
        np.testing.assert_allclose(right.mean(), row["test"], atol=1e-6)
        # Of heads that are solved at once there is no curve.
        assert np.isfinite(row.get("lipschitz", 0)).all()
        assert ("lipschitz" in row) == (solver == "adam" or row["pooler"] == "lse")
