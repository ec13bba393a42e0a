import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import assert_close

from poolax import empirical

KEY = jax.random.key(0)


def matrix(num_rows, num_columns, seed=0):
    return jax.random.normal(jax.random.key(seed), (num_rows, num_columns))


def test_curves_compile_once():
    traced = []

    def fn(x):
        traced.append(x.shape)
        return jnp.sin(x)

    counts = []
    for seed in range(3):
        empirical.noise_curve(fn, matrix(6, 3, seed), jnp.array([0.1, 1.0]), key=jax.random.key(seed))
        counts.append(len(traced))
    assert counts[0] == counts[1] == counts[2]


def test_perturbations_stay_where_they_should():
    from poolax.empirical._expressivity import _perturbation

    x = jnp.zeros((4, 5))
    keys = jax.random.split(KEY, 4000)
    lengths = {
        name: np.asarray(
            jax.vmap(lambda key, n=name: jnp.linalg.norm(_perturbation(key, x, 2.0, n)))(keys)
        )
        for name in ("ball", "gaussian")
    }
    assert lengths["ball"].max() <= 2.0 + 1e-5
    # The length of a uniform point of the ball, to the power of the dimension, is uniform.
    assert scipy.stats.kstest((lengths["ball"] / 2) ** 20, "uniform").pvalue > 1e-3
    np.testing.assert_allclose(np.mean(lengths["gaussian"] ** 2), 4.0, rtol=0.05)


def test_expressivity_of_a_known_function():
    # Moves by |delta|: beyond sigma = 0.9 epsilon with probability 1 - 0.9^D in the ball.
    inputs = jnp.zeros((200, 10))
    estimate = empirical.expressivity(
        lambda x: x, inputs, epsilon=2.0, sigma=1.8, key=KEY, num_perturbations=50
    )
    assert_close(estimate.probability, 1 - 0.9**10, 0.02)
    assert estimate.low <= 1 - 0.9**10 <= estimate.high
    assert estimate.num_inputs == 200
    assert_close(estimate.mean_distance, 2 * 10 / 11, 0.02)


@pytest.mark.parametrize("neighbourhood", ["ball", "gaussian", "adversarial"])
def test_certified_zero_is_zero(neighbourhood):
    estimate = empirical.expressivity(
        lambda x: 0.5 * x,
        jnp.ones((30, 4)),
        epsilon=1.0,
        sigma=5.0 if neighbourhood == "gaussian" else 0.5001,
        key=KEY,
        num_perturbations=4,
        neighbourhood=neighbourhood,
    )
    assert estimate.probability == estimate.low == 0
    assert 0 < estimate.high < 0.2


def test_adversaries_reach_further_than_chance():
    m = jnp.zeros((12, 12)).at[0, 0].set(3.0).at[1, 1].set(0.1)
    common = {"epsilon": 1.0, "sigma": 2.5, "key": KEY, "num_perturbations": 4}
    inputs = jnp.zeros((40, 12))
    random = empirical.expressivity(lambda x: m @ x, inputs, **common)
    adversarial = empirical.expressivity(lambda x: m @ x, inputs, neighbourhood="adversarial", **common)
    assert random.probability < 0.2
    assert adversarial.probability == 1.0
    # Clopper-Pearson for 40 of 40
    assert_close(adversarial.low, 0.025 ** (1 / 40), 1e-6)
    assert_close(adversarial.mean_distance, 3.0, 0.02)


def test_chernoff_interval_covers():
    """Coverage of the mean of values in [0, 1] is at least what is asked for."""
    from poolax.empirical._expressivity import _chernoff_interval

    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        low, high = _chernoff_interval(rng.beta(0.5, 1.0, size=50).mean(), 50, 0.9)
        covered += low <= 1 / 3 <= high
    assert covered >= 270
    assert _chernoff_interval(0.0, 10, 0.95)[0] == 0
    assert _chernoff_interval(1.0, 10, 0.95)[1] == 1
    for count in (1, 10, 1000):
        for mean in (1 / (16 * count), 1 - 1 / (16 * count), 1e-9):
            low, high = _chernoff_interval(mean, count, 0.95)
            assert 0 <= low <= mean <= high <= 1


def test_results_do_not_depend_on_the_chunk_size():
    m = matrix(3, 5)
    common = {"epsilon": 1.0, "sigma": 1.5, "key": KEY, "num_perturbations": 7}
    inputs = matrix(11, 5)
    results = [
        empirical.expressivity(lambda x: jnp.sin(m @ x), inputs, batch_size=size, **common)
        for size in (1, 5, 20, None)
    ]
    for result in results[1:]:
        assert result.probability == results[0].probability
        assert_close(result.mean_distance, results[0].mean_distance, 1e-6)


def test_noise_curve():
    inputs = matrix(30, 6)
    epsilons = jnp.array([0.0, 0.5, 1.0])
    curve = empirical.noise_curve(lambda x: 2 * x, inputs, epsilons, key=KEY, num_perturbations=20)
    # Mean length of a Gaussian vector of root mean square one in six dimensions
    mean = scipy.stats.chi.mean(6) / np.sqrt(6)
    assert_close(curve.mean, 2 * mean * np.asarray(epsilons), 0.03)
    assert (curve.low <= curve.mean).all()
    assert (curve.mean <= curve.high).all()
    assert curve.low[2] < 2 * mean < curve.high[2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: empirical.noise_curve(jnp.sin, jnp.ones((1, 3)), jnp.ones(2), key=KEY),
            r"inputs: expected at least two inputs, got 1",
        ),
        (
            lambda: empirical.noise_curve(jnp.sin, jnp.ones((2, 3)), jnp.array([-1.0]), key=KEY),
            r"epsilons: expected a finite number >= 0, got -1",
        ),
        (
            lambda: empirical.noise_curve(jnp.sin, jnp.ones((2, 3)), jnp.ones(()), key=KEY),
            r"epsilons: expected shape \(k,\)",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": -1.0}, r"epsilon: expected a finite number >= 0, got -1"),
        ({"epsilon": np.nan}, r"epsilon: .*got nan"),
        ({"sigma": 0.0}, r"sigma: expected a finite number > 0, got 0"),
        ({"neighbourhood": "cube"}, r"neighbourhood: .*'adversarial', got 'cube'"),
        ({"num_perturbations": 0}, r"num_perturbations: .*got 0"),
        ({"batch_size": 0}, r"batch_size: .*got 0"),
        ({"confidence": 1.0}, r"confidence: expected a finite number > 0 and < 1, got 1"),
        ({"inputs": jnp.zeros((0, 3))}, r"inputs: expected shape \(N, ...\) with N >= 1"),
        ({"inputs": jnp.full((2, 3), jnp.nan)}, r"inputs: expected finite values"),
        ({"fn": lambda x: x / 0}, r"outputs of fn: expected finite values"),
    ],
)
def test_bad_expressivity_arguments_are_named(changes, message):
    arguments = {
        "fn": jnp.sin,
        "inputs": jnp.ones((4, 3)),
        "epsilon": 1.0,
        "sigma": 1.0,
        "key": KEY,
    } | changes
    with pytest.raises(ValueError, match=message):
        empirical.expressivity(arguments.pop("fn"), arguments.pop("inputs"), **arguments)
