import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolax import blocks, empirical, pooling
from poolax.attention import MultiHeadAttention

KEY = jax.random.key(0)
CLOSE = {
    "a pair": [1.0, 0.999, *[0.3] * 10],
    "a pair, wider": [1.0, 0.995, *[0.5] * 10],
    "a pair, and others near": [1.0, 0.99, *np.linspace(0.9, 0.1, 10)],
    "slowly falling": list(np.linspace(1, 0.96, 12)),
    "equal": [1.0, 1.0, 0.9, *[0.1] * 9],
}


def with_spectrum(values, num_rows, num_columns):
    rng = np.random.default_rng(0)
    left = np.linalg.qr(rng.normal(size=(num_rows, num_rows)))[0][:, : len(values)]
    right = np.linalg.qr(rng.normal(size=(num_columns, num_columns)))[0][:, : len(values)]
    return jnp.asarray(left * np.array(values) @ right.T, jnp.result_type(float))


@pytest.mark.parametrize("shape", [(12, 12), (12, 40), (40, 12)])
@pytest.mark.parametrize("double", [False, True])
def test_no_start_misses_the_larger_of_two_close_values(shape, double):
    with jax.enable_x64(double):

        @jax.jit
        def estimates(m, keys):
            x = jnp.zeros(shape[1], m.dtype)
            return jax.vmap(
                lambda key: empirical.power_iteration(
                    lambda x: m @ x, x, key=key, method="lanczos", max_steps=2000
                )
            )(keys)

        for spectrum in CLOSE.values():
            found = estimates(with_spectrum(spectrum, *shape), jax.random.split(KEY, 300))
            assert found.converged.all()
            np.testing.assert_allclose(found.value, 1.0, rtol=1e-3)
            assert (found.value <= 1 + (1e-12 if double else 2e-6)).all()


def test_power_iteration_waits_for_slowly_falling_values():
    m = with_spectrum(CLOSE["slowly falling"], 12, 40)

    @jax.jit
    def estimates(keys, tolerance):
        return jax.vmap(
            lambda key: empirical.power_iteration(
                lambda x: m @ x, jnp.zeros(40), key=key, rtol=tolerance, max_steps=3000
            )
        )(keys)

    found = estimates(jax.random.split(KEY, 100), 1e-4)
    assert found.converged.all()
    np.testing.assert_allclose(found.value, 1.0, rtol=1e-3)


BLOCKS = {
    "average": blocks.TBM(4, pooling.AveragePool()),
    "last": blocks.TBM(4, pooling.LastPool()),
    "tokens": blocks.PostLNBlock(
        MultiHeadAttention(4), blocks.FeedForward(), blocks.CenterNorm(), blocks.CenterNorm()
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_lanczos_needs_twenty_products(name):
    """Ten with the Jacobian and ten with its transpose, for blocks of 64 tokens of width 64."""
    model = BLOCKS[name]

    @jax.jit
    def errors(key):
        keys = jax.random.split(key, 3)
        x = jax.random.normal(keys[0], (64, 64))
        variables = model.init(keys[1], x)

        def estimate(method, steps, rtol):
            return empirical.power_iteration(
                lambda x: model.apply(variables, x),
                x,
                key=keys[2],
                method=method,
                max_steps=steps,
                rtol=rtol,
            )

        exact = estimate("lanczos", 400, 1e-6)
        few = [estimate(method, 10, 1e-9).value for method in ("lanczos", "power")]
        return 1 - jnp.stack(few) / exact.value, exact.converged

    errors, converged = jax.lax.map(errors, jax.random.split(KEY, 2))
    assert converged.all()
    assert (errors[:, 0] < 1e-3).all()
    assert (errors[:, 1] > errors[:, 0]).all()


def test_lanczos_restarts_in_bounded_memory():
    """A spectrum that takes more steps than vectors are kept."""
    m = with_spectrum(np.linspace(1, 0.5, 300) ** 0.5, 300, 300)

    def estimate(key, max_steps=300):
        return empirical.power_iteration(
            lambda x: m @ x, jnp.zeros(300), key=key, method="lanczos", max_steps=max_steps
        )

    compiled = jax.jit(estimate).lower(KEY).compile()
    found = compiled(KEY)
    assert found.converged
    assert found.steps > 40
    np.testing.assert_allclose(found.value, 1.0, rtol=1e-4)
    # 300 vectors of 300 numbers would be 360,000 bytes.
    assert compiled.memory_analysis().temp_size_in_bytes < 150_000
    few = jax.jit(lambda key: estimate(key, 5))(KEY)
    assert not few.converged
    assert few.steps == 5
    assert few.residual > 1e-4
    assert 0.5 < few.value < 1


@pytest.mark.parametrize("method", ["power", "lanczos"])
def test_one_trace_for_all_keys(method):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def estimate(x, key):
        return empirical.power_iteration(jnp.sin, x, key=key, method=method)

    values = [estimate(jnp.ones(5), jax.random.key(seed)).value for seed in range(3)]
    np.testing.assert_allclose(values, np.cos(1.0), rtol=1e-5)
