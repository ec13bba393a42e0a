import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import Counted, assert_close

from poolax import blocks, bounds, empirical, pooling
from poolax._intervals import chernoff_interval, clopper_pearson, log_chi2_tail
from poolax.empirical._neighbourhood import NEIGHBOURHOODS, draw_noise, map_distances

KEY = jax.random.key(0)


def identity(x):
    return x


def matrix(num_rows, num_columns, seed=0):
    return jax.random.normal(jax.random.key(seed), (num_rows, num_columns))


def test_curves_compile_once():
    counted = Counted()
    counts = []
    for seed in range(3):
        empirical.noise_curve(
            counted, matrix(6, 3, seed), jnp.array([0.1, 1.0]), key=jax.random.key(seed)
        )
        counts.append(counted.traces)
    assert counts[0] == counts[1] == counts[2] > 0


def test_perturbations_stay_where_they_should():
    # 20 of the 35 entries are real.
    real = jnp.broadcast_to(jnp.arange(7) < 4, (5, 7)).T
    keys = jax.random.split(KEY, 4000)
    lengths = {}
    for name in ("ball", "gaussian"):
        noise = jax.vmap(lambda key, n=name: draw_noise(key, real, jnp.float32, 2.0, n, "frobenius"))(
            keys
        )
        assert not noise[:, 4:].any()
        lengths[name] = np.linalg.norm(np.asarray(noise), axis=(1, 2))
    assert lengths["ball"].max() <= 2.0 + 1e-5
    # The length of a uniform point of the ball, to the power of the dimension, is uniform.
    assert scipy.stats.kstest((lengths["ball"] / 2) ** 20, "uniform").pvalue > 1e-3
    np.testing.assert_allclose(np.mean(lengths["gaussian"] ** 2), 4.0, rtol=0.05)


def test_expressivity_of_a_known_function():
    # Moves by |delta|: beyond sigma = 0.9 epsilon with probability 1 - 0.9^D in the ball.
    inputs = jnp.zeros((200, 10))
    estimate = empirical.expressivity(
        identity, inputs, epsilon=2.0, sigma=1.8, key=KEY, num_perturbations=50
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


def testchernoff_interval_covers():
    """Coverage of the mean of values in [0, 1] is at least what is asked for."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        low, high = chernoff_interval(rng.beta(0.5, 1.0, size=50).mean(), 50, 0.9)
        covered += low <= 1 / 3 <= high
    assert covered >= 270
    assert chernoff_interval(0.0, 10, 0.95)[0] == 0
    assert chernoff_interval(1.0, 10, 0.95)[1] == 1
    for count in (1, 10, 1000):
        for mean in (1 / (16 * count), 1 - 1 / (16 * count), 1e-9):
            low, high = chernoff_interval(mean, count, 0.95)
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


def masked_norm(x, mask):
    return jnp.where(mask[:, None], x, 0)


@pytest.mark.parametrize("neighbourhood", NEIGHBOURHOODS)
def test_only_real_tokens_are_changed(neighbourhood):
    """Padding with NaN gives what the tokens alone give, in distribution: nothing leaks, nothing counts."""
    tokens = matrix(40 * 3, 5).reshape(40, 3, 5)
    padded = jnp.concatenate([jnp.full((40, 4, 5), jnp.nan), tokens], axis=1)
    masks = jnp.arange(7) >= 4
    seen = {}
    for name, inputs, mask in (("alone", tokens, None), ("padded", padded, masks[None])):
        fn = (lambda x: 2 * x) if mask is None else (lambda x, m: 2 * masked_norm(x, m))
        seen[name] = empirical.noise_curve(
            fn,
            inputs,
            jnp.array([0.5, 1.0]),
            mask,
            key=KEY,
            num_perturbations=20,
            neighbourhood=neighbourhood,
        ).mean
    assert_close(seen["padded"], seen["alone"], 0.02)
    if neighbourhood == "adversarial":
        assert_close(seen["padded"], [1.0, 2.0], 1e-3)


@pytest.mark.parametrize(
    ("shape", "mask_shape"),
    [((6, 8), (6, 8)), ((6, 8, 8, 3), (6, 8, 8)), ((6, 2, 8), (6, 1, 8)), ((6, 2, 8), (6,))],
)
def test_images_and_series_with_missing_parts(shape, mask_shape):
    """A mask has any leading axes of the input and comes to the function as it was given."""
    masks = jax.random.bernoulli(KEY, 0.5, mask_shape) | (jnp.arange(mask_shape[-1]) < 1)
    masks = masks | (len(mask_shape) == 1)
    axes = (1,) * (len(shape) - len(mask_shape))
    inputs = jnp.where(masks.reshape(mask_shape + axes), jnp.ones(shape), jnp.nan)
    seen = []

    def fn(x, mask):
        seen.append(mask.shape)
        return jnp.where(mask.reshape(mask.shape + axes), x, 0)

    estimate = empirical.expressivity(
        fn, inputs, masks, epsilon=1.0, sigma=0.999, key=KEY, neighbourhood="adversarial"
    )
    assert estimate.probability == 1.0
    assert_close(estimate.mean_distance, 1.0, 1e-5)
    assert set(seen) == {mask_shape[1:]}


@pytest.mark.parametrize("neighbourhood", NEIGHBOURHOODS)
def test_projection(neighbourhood):
    """At a corner of the cube only changes inwards are left, and every point that is seen is in it."""
    inputs = jnp.zeros((20, 6)).at[:, :3].set(1.0)
    common = {"key": KEY, "num_perturbations": 8, "neighbourhood": neighbourhood}

    def fn(x):  # NaN outside of the cube
        return {"log": jnp.sum(jnp.sqrt(x) + jnp.sqrt(1 - x)), "x": 3 * x}

    def smooth(x):
        return jnp.where((x >= 0) & (x <= 1), 3 * x, jnp.nan)

    project = empirical.project_to_cube(1.0)
    free = empirical.noise_curve(lambda x: 3 * x, inputs, jnp.array([0.5]), **common)
    held = empirical.noise_curve(smooth, inputs, jnp.array([0.5]), project=project, **common)
    assert held.mean[0] <= 1.5 + 1e-5
    if neighbourhood == "adversarial":
        assert held.mean[0] >= 1.4
    else:
        # Half of the directions of each entry are cut off.
        assert_close(held.mean[0] / free.mean[0], np.sqrt(0.5), 0.1)
        both = empirical.noise_curve(fn, inputs, jnp.array([0.5]), project=project, **common)
        assert_close(both["x"].mean, held.mean)
        assert both["log"].mean[0] > 0


def test_a_curve_for_each_pooler():
    tokens = matrix(30 * 9, 4).reshape(30, 9, 4)
    masks = jnp.arange(9) < jnp.arange(30)[:, None] % 8 + 2

    def poolers(x, mask):
        return {"avg": pooling.average_pool(x, mask), "sum": pooling.sum_pool(x, mask)}

    common = {"key": KEY, "num_perturbations": 4, "neighbourhood": "adversarial"}
    epsilons = jnp.array([0.0, 1.0])
    curves = empirical.noise_curve(poolers, tokens, epsilons, masks, **common)
    single = empirical.noise_curve(pooling.sum_pool, tokens, epsilons, masks, **common)
    jax.tree.map(assert_close, curves["sum"], single)
    assert curves["avg"].mean[1] < curves["sum"].mean[1]
    # Adversaries reach sqrt(n) for the sum.
    assert_close(single.mean[1], np.sqrt(np.asarray(masks.sum(1))).mean(), 1e-3)


def test_intervals_follow_what_an_input_contributes():
    inputs = jnp.zeros((50, 4))
    common = {"epsilon": 1.0, "sigma": 0.9, "key": KEY}
    for options in ({"num_perturbations": 1}, {"neighbourhood": "adversarial"}):
        estimate = empirical.expressivity(identity, inputs, **common, **options)
        exact = clopper_pearson(round(50 * estimate.probability), 50, 0.95)
        assert (estimate.low, estimate.high) == exact
    estimate = empirical.expressivity(identity, inputs, num_perturbations=6, **common)
    assert (estimate.low, estimate.high) == chernoff_interval(estimate.probability, 50, 0.95)


def test_clopper_pearson_covers():
    """Exact coverage, from the binomial distribution itself."""
    counts = np.arange(31)
    intervals = np.array([clopper_pearson(int(k), 30, 0.9) for k in counts])
    for probability in np.linspace(0.01, 0.99, 50):
        inside = (intervals[:, 0] <= probability) & (probability <= intervals[:, 1])
        assert scipy.stats.binom.pmf(counts, 30, probability)[inside].sum() >= 0.9


@pytest.mark.parametrize("neighbourhood", NEIGHBOURHOODS)
@pytest.mark.parametrize("batch_size", [1, 5, 24])
def test_no_more_evaluations_are_alive_than_a_batch(neighbourhood, batch_size):
    """Peak memory against that of one evaluation, with its gradient for the adversary."""
    w = jnp.ones((16, 8192))

    def fn(x):
        return (jnp.tanh(x @ w) @ w.T).sum(axis=0)[:4]

    def gradient(x):
        return jax.value_and_grad(lambda x: jnp.sum(fn(x) ** 2))(x)

    def peak(fn, *arguments):
        return jax.jit(fn).lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    x = jnp.zeros((32, 16))
    one = peak(gradient if neighbourhood == "adversarial" else fn, x)

    def run(inputs, keys):
        return map_distances(inputs, None, jnp.array([0.1, 1.0]), keys, fn, None, 6, ball, batch_size)

    inputs, ball = jnp.zeros((17, *x.shape)), (neighbourhood, "frobenius")
    rest = 2 * w.nbytes + inputs.nbytes
    assert peak(run, inputs, jax.random.split(KEY, 17)) <= batch_size * one + rest


def local_model():
    model = blocks.TBM(2, pooling.AveragePool())
    inputs = jnp.linspace(0.1, 2.0, 24)[:, None, None] * matrix(24 * 6, 4).reshape(24, 6, 4)
    masks = jnp.arange(6) < jnp.arange(24)[:, None] % 5 + 2
    variables = model.init(KEY, inputs)

    def lipschitz(domain, num_tokens):
        return bounds.tbm(
            model,
            variables,
            num_tokens=num_tokens,
            radius=domain.radius,
            spread=domain.spread,
        ).lipschitz

    return lambda x, mask: model.apply(variables, x, mask), lipschitz, inputs, masks


def test_the_bound_of_each_input():
    fn, lipschitz, inputs, masks = local_model()
    epsilon, sigma = 0.05, 0.6
    bound = bounds.expressivity(lipschitz, inputs, masks, epsilon=epsilon, sigma=sigma)
    for index in (0, 7, 23):
        domain = bounds.domain_of(inputs[index], masks[index])
        enlarged = bounds.Domain(domain.radius + epsilon, domain.spread + epsilon / np.sqrt(2))
        expected = lipschitz(enlarged, masks[index].sum())
        assert expected <= bound.lipschitz[index] <= expected * (1 + 1e-4)
    moved = np.asarray(bound.lipschitz) * epsilon > sigma
    assert 0 < moved.mean() < 1
    assert bound.probability == moved.mean()
    assert (bound.low, bound.high) == clopper_pearson(int(moved.sum()), 24, 0.95)
    assert bound.num_inputs == 24
    # What is not real changes nothing.
    junk = jnp.where(masks[..., None], inputs, jnp.nan)
    again = bounds.expressivity(lipschitz, junk, masks, epsilon=epsilon, sigma=sigma)
    assert_close(again.lipschitz, bound.lipschitz)
    # Measured: no input moves further than its constant says, so that fewer move than are not certified.
    found = empirical.expressivity(
        fn, inputs, masks, epsilon=epsilon, sigma=sigma, key=KEY, neighbourhood="adversarial"
    )
    assert found.probability <= bound.probability
    assert bounds.expressivity(lipschitz, inputs, epsilon=0.0, sigma=sigma).probability == 0


def test_constants_at_the_edge():
    """Equal to sigma after rounding up is not certified; an infinite constant is no error."""
    inputs = jnp.ones((4, 3, 2))
    at_edge = bounds.expressivity(lambda domain, n: jnp.array(2.0), inputs, epsilon=0.5, sigma=1.0)
    below = bounds.expressivity(lambda domain, n: 1.999, inputs, epsilon=0.5, sigma=1.0)
    endless = bounds.expressivity(lambda domain, n: jnp.inf, inputs, epsilon=0.5, sigma=1.0)
    assert [e.probability for e in (at_edge, below, endless)] == [1.0, 0.0, 1.0]
    still = bounds.expressivity(lambda domain, n: jnp.inf, inputs, epsilon=0.0, sigma=1.0)
    assert still.probability == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": jnp.ones((3, 2))}, r"inputs: expected shape \(N, n, d\), got \(3, 2\)"),
        ({"inputs": jnp.ones((0, 3, 2))}, r"inputs: .*N >= 1"),
        ({"inputs": jnp.full((2, 3, 2), jnp.nan)}, r"inputs: expected finite values"),
        ({"masks": jnp.ones((2, 3))}, r"masks: expected dtype bool"),
        ({"masks": jnp.zeros((2, 3), bool)}, r"masks: expected a real token in every input"),
        ({"epsilon": -1.0}, r"epsilon: expected a finite number >= 0, got -1"),
        ({"sigma": 0.0}, r"sigma: expected a finite number > 0, got 0"),
        ({"confidence": 1.0}, r"confidence: .*got 1"),
        ({"lipschitz": lambda domain, n: jnp.nan}, r"lipschitz: .*numbers >= 0, got nan"),
        ({"lipschitz": lambda domain, n: -n.astype(float)}, r"lipschitz: .*numbers >= 0, got -3"),
        ({"lipschitz": lambda domain, n: domain}, r"lipschitz: .*a number, got Domain"),
        ({"lipschitz": lambda domain, n: jnp.ones(2)}, r"lipschitz: .*array of shape \(2,\)"),
    ],
)
def test_bad_arguments_of_the_bound_are_named(changes, message):
    arguments = {
        "lipschitz": lambda domain, n: domain.radius,
        "inputs": jnp.ones((2, 3, 2)),
        "epsilon": 0.1,
        "sigma": 1.0,
    } | changes
    with pytest.raises(ValueError, match=message):
        bounds.expressivity(**arguments)


def constant_bound(lipschitz):
    return bounds.pooled_block(
        "last", attention=0.0, ffn=0.0, dim=2, num_tokens=1, norm_scale=jnp.sqrt(lipschitz) / 2
    )


def test_what_is_vacuous():
    bound = constant_bound(2.0)
    epsilons = jnp.array([0.0, 0.1, 1.0, 2.0])
    gamma = bound.gamma(epsilons, 1.0)
    assert gamma.vacuous.tolist() == [False, False, True, True]
    # Either vacuous or exact
    assert (gamma.vacuous | gamma.certified_zero).all()
    np.testing.assert_allclose(np.exp(gamma.log_gamma), gamma.gamma, rtol=1e-4)


def test_gaussian_noise_where_markov_says_nothing():
    """ViT-base's 196 tokens of width 384 with a margin of five percent."""
    num_tokens, dim, scale = 196, 384, 0.01
    bound = constant_bound(3.0)
    sigma = 1.05 * bound.lipschitz * scale * np.sqrt(num_tokens * dim)
    markov = bound.gamma(scale * np.sqrt(num_tokens * dim), sigma)
    noisy = bound.gamma_gaussian(scale, sigma, num_tokens=num_tokens, dim=dim)
    assert_close(markov.gamma, 1 / 1.05, 1e-5)
    exact = scipy.stats.chi2.logsf((1.05**2) * num_tokens * dim, num_tokens * dim) / np.log(10)
    assert_close(exact, -82.1, 1e-2)
    assert exact <= noisy.log_gamma / np.log(10) <= exact + 0.1
    assert 0 < noisy.gamma < 1e-37
    assert not noisy.vacuous
    assert not noisy.certified_zero


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_tail_is_never_below_the_truth(precision):
    with jax.enable_x64(precision == "float64"):
        for dof in (0.5, 1.0, 2.0, 7.0, 100.0, 75_264.0, 4e6):
            ratio = np.concatenate([np.exp(np.linspace(-10, 6, 4001)), np.linspace(0.98, 1.02, 2001)])
            threshold = jnp.asarray(dof * ratio)
            found = np.asarray(log_chi2_tail(threshold, jnp.asarray(dof)), np.float64)
            exact = scipy.stats.chi2.logsf(np.asarray(threshold, np.float64), dof)
            known = exact > -690  # scipy underflows below
            assert (found >= exact)[known].all()
            # At most the factor by which a normal tail differs
            assert (found - exact <= 0.6 + 0.5 * np.log1p(ratio))[known].all()
            slope = jax.grad(lambda t, k=dof: log_chi2_tail(t, k).sum())(threshold)
            assert np.isfinite(slope).all()
            assert np.isfinite(found).all()
        assert log_chi2_tail(jnp.inf, 3.0) == -np.inf
        assert log_chi2_tail(0.0, 3.0) == 0


def test_gaussian_noise_moves_a_linear_map_as_often_as_the_bound_says():
    """Attained by the identity, where the probability is the tail itself."""
    bound, n, d, scale = constant_bound(1.0), 3, 4, 0.1
    sigmas = jnp.array([0.2, 0.3, 0.35, 0.45])
    gamma = jax.jit(lambda s: bound.gamma_gaussian(scale, s, num_tokens=n, dim=d))(sigmas).gamma
    exact = scipy.stats.chi2.sf((np.asarray(sigmas) / scale) ** 2, n * d)
    assert (gamma >= exact).all()
    assert (gamma <= 1.3 * exact).all()
    for sigma, upper in zip(sigmas, gamma, strict=True):
        found = empirical.expressivity(
            identity,
            jnp.zeros((400, n, d)),
            epsilon=scale * np.sqrt(n * d),
            sigma=float(sigma),
            key=KEY,
            num_perturbations=8,
            neighbourhood="gaussian",
        )
        assert found.low <= upper


def test_gaussian_noise_on_a_domain():
    bound = constant_bound(2.0)
    call = {"num_tokens": bounds.TokenRange(1, 3), "dim": 4}
    free = bound.gamma_gaussian(0.1, 1.0, **call)
    wide = bound.gamma_gaussian(0.1, 1.0, margin=10.0, **call)
    tight = bound.gamma_gaussian(0.1, 1.0, margin=0.4, **call)
    assert free.gamma == wide.gamma  # sigma / L = 0.5 comes first
    exact = scipy.stats.chi2.sf(16.0, 12)
    assert exact <= tight.gamma <= 1.3 * exact
    assert bound.gamma_gaussian(0.1, 1.0, margin=0.0, **call).gamma == 1
    # No noise, and a constant function
    assert bound.gamma_gaussian(0.0, 1.0, **call).certified_zero
    constant = constant_bound(0.0).gamma_gaussian(0.1, 1.0, **call)
    assert constant.certified_zero
    assert constant.gamma == 0
    gradient = jax.grad(lambda s: bound.gamma_gaussian(s, 1.0, **call).gamma)
    assert gradient(0.15) > 0
    assert np.isfinite(gradient(0.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": -1.0}, r"scale: expected a finite number >= 0, got -1"),
        ({"sigma": 0.0}, r"sigma: expected a finite number > 0, got 0"),
        ({"num_tokens": 0}, r"num_tokens: expected a finite number >= 1, got 0"),
        ({"dim": 0}, r"dim: expected a whole number >= 1, got 0"),
        ({"margin": -1.0}, r"margin: expected numbers >= 0, got -1"),
        ({"margin": np.nan}, r"margin: .*got nan"),
    ],
)
def test_bad_arguments_of_gaussian_noise_are_named(changes, message):
    arguments = {"scale": 0.1, "sigma": 1.0, "num_tokens": 3, "dim": 4} | changes
    with pytest.raises(ValueError, match=message):
        constant_bound(1.0).gamma_gaussian(**arguments)


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
        ({"fn": lambda x: {"a": x}}, r"fn: expected to return one array, got dict"),
        ({"masks": jnp.ones((4, 3))}, r"masks: expected dtype bool"),
        ({"masks": jnp.ones((4, 2), bool)}, r"masks: expected a shape that broadcasts to \(4, 3\)"),
        ({"masks": jnp.ones((4, 3, 1), bool)}, r"masks: expected leading axes of the inputs"),
        ({"masks": jnp.zeros((4, 3), bool)}, r"masks: expected something real in every input"),
        ({"project": lambda x: 0.5 * x}, r"project: expected to leave the inputs .*up to 0.5"),
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
