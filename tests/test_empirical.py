import dataclasses
import functools
import gc
import weakref
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import KINDS, Counted, assert_close, exact_norm, random_tokens, random_variables

from poolax import blocks, empirical, pooling
from poolax.empirical._neighbourhood import output_distances

KEY = jax.random.key(0)


def matrix(num_rows, num_columns, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(num_rows, num_columns)), jnp.float32)


def linear(m):
    return lambda x: m @ x


def with_singular_values(*values):
    """A square matrix with the given singular values, and zeros."""
    size = 12
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(2))
    return jnp.asarray(left[:, : len(values)] * np.array(values) @ right[: len(values)], jnp.float32)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (1, 7), (7, 1), (6, 6)])
@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_exact_norm(shape, mode, batch_size):
    m = matrix(*shape)
    norm = empirical.jacobian_norm(
        lambda x: jnp.sin(m @ x), jnp.zeros(shape[1]), mode=mode, batch_size=batch_size
    )
    assert_close(norm, np.linalg.norm(m, 2), 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_exact_norm_of_a_model(kind, x64):
    model = blocks.TBM(2, pooling.MaxPool(), KINDS[kind])
    x = random_tokens(KEY, 7, 4, 1.0)
    variables = random_variables(model, KEY, x)

    def fn(x):
        return model.apply(variables, x)

    expected = exact_norm(fn, x)
    for mode in ("forward", "reverse"):
        assert_close(empirical.jacobian_norm(fn, x, mode=mode), expected, 1e-10)
    for method in ("power", "lanczos"):
        estimate = empirical.power_iteration(fn, x, key=KEY, method=method)
        assert estimate.converged
        assert_close(estimate.value, expected, 1e-3)
        assert estimate.value <= expected * (1 + 1e-9)


@pytest.mark.parametrize("method", ["power", "lanczos"])
@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (1, 5), (5, 1), (30, 30)])
def test_estimates_agree_with_the_svd(method, shape):
    m = matrix(*shape)
    estimate = empirical.power_iteration(
        linear(m), jnp.zeros(shape[1]), key=KEY, method=method, max_steps=2000
    )
    assert estimate.converged
    assert_close(estimate.value, np.linalg.norm(m, 2), 1e-3)
    assert estimate.residual <= 1e-4


@pytest.mark.parametrize("method", ["power", "lanczos"])
def test_equal_singular_values_and_zero(method):
    equal = empirical.power_iteration(
        linear(with_singular_values(3.0, 3.0, 1.0)), jnp.zeros(12), key=KEY, method=method
    )
    assert equal.converged
    assert_close(equal.value, 3.0, 1e-5)
    zero = empirical.power_iteration(lambda x: 0 * x, jnp.ones(5), key=KEY, method=method)
    assert zero.converged
    assert zero.value == 0
    assert empirical.jacobian_norm(lambda x: 0 * x, jnp.ones(5)) == 0


def test_an_estimate_that_did_not_converge_says_so():
    slow = with_singular_values(1.0, 0.99, 0.98, 0.97, 0.96)
    estimate = empirical.power_iteration(linear(slow), jnp.zeros(12), key=KEY, max_steps=3)
    assert not estimate.converged
    assert estimate.steps == 3
    assert estimate.residual > 1e-4
    assert estimate.value < 1.0


def test_lanczos_needs_fewer_steps():
    m = matrix(200, 200)
    steps = {
        method: empirical.power_iteration(
            linear(m), jnp.zeros(200), key=KEY, method=method, rtol=1e-2
        ).steps
        for method in ("power", "lanczos")
    }
    assert steps["lanczos"] < steps["power"]


def identity(x):
    return x


MEASURES = {
    "jacobian_norm": empirical.jacobian_norm,
    "power": functools.partial(empirical.power_iteration, key=KEY),
    "lanczos": functools.partial(empirical.power_iteration, key=KEY, method="lanczos"),
    "search": functools.partial(
        empirical.maximize_jacobian_norm, project=identity, key=KEY, num_restarts=2, num_steps=3
    ),
    "search of a ball": lambda fn, x: empirical.maximize_jacobian_norm(
        fn, x, project=empirical.project_to_ball(1.0), key=KEY, num_restarts=2, num_steps=3
    ),
    "expressivity": lambda fn, x: empirical.expressivity(
        fn, x[None], epsilon=0.1, sigma=0.1, key=KEY, project=empirical.project_to_cube(2.0)
    ),
    "noise curve": lambda fn, x: empirical.noise_curve(
        fn, jnp.stack([x, x]), jnp.ones(1), key=KEY, num_perturbations=2
    ),
}


@pytest.mark.parametrize("measure", ["jacobian_norm", "power", "lanczos", "search"])
def test_a_jacobian_that_is_not_finite_raises(measure):
    with pytest.raises(ValueError, match=r"Jacobian of fn: expected finite values, got"):
        MEASURES[measure](lambda x: jnp.sqrt(x - 1), jnp.ones(3))


@pytest.mark.parametrize("measure", MEASURES)
def test_results_without_a_norm_are_refused(measure):
    for dtype, fn in (("complex64", lambda x: x * 1j), ("complex64", jnp.fft.fft)):
        with pytest.raises(ValueError, match=rf"fn: expected .*, got dtype {dtype}"):
            MEASURES[measure](fn, jnp.ones(3))
    with pytest.raises(ValueError, match=r"fn: expected .*at least one entry, got shape \(0,\)"):
        MEASURES[measure](lambda x: x[:0], jnp.ones(3))


@pytest.mark.parametrize("measure", ["jacobian_norm", "power", "lanczos", "search"])
def test_inputs_without_entries_are_refused(measure):
    with pytest.raises(ValueError, match=r"x: expected at least one entry, got shape \(0, 3\)"):
        MEASURES[measure](lambda x: jnp.ones(2), jnp.ones((0, 3)))


@pytest.mark.parametrize("rtol", [1.0, 2.0, 1e30, -0.1, np.nan, np.inf])
def test_tolerances_that_anything_meets_are_refused(rtol):
    with pytest.raises(ValueError, match=r"rtol: expected a finite number > 0 and < 1, got"):
        empirical.power_iteration(jnp.sin, jnp.ones(3), key=KEY, rtol=rtol)


class Squares:
    """A callable without a hash, as records of arrays are."""

    __hash__ = None

    def __call__(self, x):
        return jnp.square(x)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_second_call_compiles_nothing(measure, caplog):
    traces = 0

    def fn(x):
        nonlocal traces
        traces += 1
        return jnp.sin(x)

    MEASURES[measure](fn, jnp.ones(3))
    assert traces > 0
    other = jnp.array([0.1, 0.2, 0.3])
    traces = 0
    with jax.log_compiles():
        MEASURES[measure](fn, other)
        assert traces == 0
        assert "Compiling" not in caplog.text
        jax.jit(lambda x: 2 * x)(other)
        assert "Compiling" in caplog.text
    MEASURES[measure](fn, jnp.full(3, 0.5))  # weakly typed
    assert traces == 0
    MEASURES[measure](fn, jnp.ones(4))
    assert traces > 0
    MEASURES[measure](Squares(), jnp.ones(3))


class Scaled:
    """A callable whose weight may be exchanged."""

    def __init__(self):
        self.weight = jnp.ones(3)

    def __call__(self, x):
        return self.weight * x


class ScaledModule(nnx.Module):
    def __init__(self):
        self.weight = nnx.Param(jnp.ones(3))

    def __call__(self, x):
        return self.weight[...] * x


@dataclasses.dataclass(frozen=True)
class Around:
    """A callable that is looked up by a function that it holds."""

    inner: Callable

    def __call__(self, x):
        return self.inner(x)


WEIGHT = jnp.ones(3)


def of_global(x):
    return WEIGHT * x


def mutable_functions():
    """Functions of weight one, and what doubles the weight of each."""
    scaled, module = Scaled(), ScaledModule()
    params = {"params": [jnp.ones(3)]}
    array = np.ones(3, np.float32)
    weight = jnp.ones(3)

    def of_cell(x):
        return weight * x

    def double_cell():
        nonlocal weight
        weight = 2 * weight

    def double_global():
        global WEIGHT
        WEIGHT = 2 * WEIGHT

    def double_params():
        params["params"][0] = jnp.full(3, 2.0)

    def double_array():
        array[:] = 2

    def double_scaled():
        scaled.weight = jnp.full(3, 2.0)

    def double_module():
        module.weight[...] = jnp.full(3, 2.0)

    def with_params(x):
        return params["params"][0] * x

    return {
        "attribute": (scaled, double_scaled),
        "method": (scaled.__call__, double_scaled),
        "object in a cell": (lambda x: scaled(x), double_scaled),
        "partial": (functools.partial(lambda scaled, x: scaled(x), scaled), double_scaled),
        "nnx": (module, double_module),
        "cell": (of_cell, double_cell),
        "nested": (lambda x: jax.vmap(lambda row: of_cell(row))(x[None])[0], double_cell),
        "transformed": (jax.vmap(of_cell, in_axes=(None,), axis_size=1), double_cell),
        "record": (Around(of_cell), double_cell),
        "global": (of_global, double_global),
        "nested global": (lambda x: (lambda: WEIGHT * x)(), double_global),
        "function of a global": (lambda x: of_global(x), double_global),
        "parameters": (with_params, double_params),
        "array": (lambda x: array * x, double_array),
    }


@pytest.mark.parametrize("kind", mutable_functions())
def test_what_has_changed_is_measured_anew(kind, monkeypatch):
    monkeypatch.setitem(globals(), "WEIGHT", jnp.ones(3))
    fn, double = mutable_functions()[kind]
    assert_close(empirical.jacobian_norm(fn, jnp.ones(3)), 1.0)
    double()
    assert_close(empirical.jacobian_norm(fn, jnp.ones(3)), 2.0)


def test_every_measurement_sees_what_has_changed():
    scaled = Scaled()
    inputs = jnp.ones((1, 3))
    project = empirical.project_to_ball(1.0)

    def measure():
        return (
            empirical.power_iteration(scaled, jnp.ones(3), key=KEY).value,
            empirical.maximize_jacobian_norm(
                scaled, jnp.ones(3), project=project, key=KEY, num_restarts=1, num_steps=1
            ).value,
            output_distances(
                scaled,
                inputs,
                None,
                jnp.array([0.1]),
                key=KEY,
                num_perturbations=1,
                neighbourhood="ball",
                geometry="frobenius",
                project=None,
                batch_size=None,
            ),
        )

    before = measure()
    scaled.weight = 2 * scaled.weight
    for first, second in zip(before, measure(), strict=True):
        assert_close(second, 2 * first, 1e-5)


def test_the_program_of_a_function_made_again_is_kept():
    model, counted, x = blocks.TBM(2, pooling.AveragePool()), Counted(), jnp.ones((3, 4))
    params = model.init(KEY, x)
    traces = []
    for _ in range(3):
        empirical.jacobian_norm(lambda x: jax.nn.relu(counted(model.apply(params, x))), x)
        traces.append(counted.traces)
    assert traces[0] == traces[1] == traces[2] > 0


@pytest.mark.parametrize("container", [list, np.array, lambda values: dict(enumerate(values))])
def test_a_program_traced_again_reads_its_own_function(container):
    def times(factors):
        return lambda x: factors[0] * x

    factors = container([1.0])
    assert_close(empirical.jacobian_norm(times(factors), jnp.ones(3)), 1.0)
    factors[0] = 2.0
    assert_close(empirical.jacobian_norm(times(container([1.0])), jnp.ones(4)), 1.0)


def test_what_was_measured_long_ago_is_let_go():
    kept = []
    for size in range(20):
        weights = np.full(3, float(size))
        kept.append(weakref.ref(weights))
        empirical.jacobian_norm(lambda x, weights=weights: weights * x, jnp.ones(3))
    del weights
    gc.collect()
    assert kept[0]() is None


def test_jit_and_vmap():
    m = matrix(4, 6)
    x = jnp.ones((3, 6))

    @jax.jit
    @jax.vmap
    def norms(x):
        estimate = empirical.power_iteration(lambda x: jnp.sin(m @ x), x, key=KEY)
        return empirical.jacobian_norm(lambda x: jnp.sin(m @ x), x), estimate.value

    exact, estimated = norms(x)
    assert_close(estimated, exact, 1e-3)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_very_small_and_very_large_jacobians(scale):
    assert_close(empirical.jacobian_norm(lambda x: scale * x, jnp.ones(3)) / scale, 1.0)
    for method in ("power", "lanczos"):
        estimate = empirical.power_iteration(lambda x: scale * x, jnp.ones(3), key=KEY, method=method)
        assert estimate.converged
        assert_close(estimate.value / scale, 1.0)


def test_search_finds_the_steepest_point():
    # |grad| of sum x^3 / 3 is |x^2|, largest on the sphere where one coordinate is all.
    def fn(x):
        return jnp.sum(x**3) / 3

    found = empirical.maximize_jacobian_norm(
        fn,
        jnp.array([[0.2, 0.1, 0.05]]),
        project=empirical.project_to_ball(2.0),
        key=KEY,
        num_restarts=8,
        num_steps=100,
    )
    assert 0.9 * 4 < found.value <= 4 * (1 + 1e-5)
    assert found.value == found.per_restart.max()
    assert jnp.linalg.norm(found.x) <= 2.0 + 1e-5
    exact = empirical.jacobian_norm(fn, found.x)
    assert_close(found.value, exact, 1e-3)


def test_search_beats_its_start():
    model = blocks.TBM(1, pooling.LastPool())
    x = random_tokens(KEY, 6, 4, 1.0)
    variables = random_variables(model, KEY, x)

    def fn(x):
        return model.apply(variables, x)

    found = empirical.maximize_jacobian_norm(
        fn, x, project=empirical.project_to_ball(1.0), key=KEY, num_restarts=4, num_steps=50
    )
    assert found.value > 1.2 * empirical.jacobian_norm(fn, x)
    assert (jnp.linalg.norm(found.x, axis=-1) <= 1 + 1e-5).all()


def test_projections():
    x = matrix(5, 3)
    ball = empirical.project_to_ball(0.5)(x)
    assert (jnp.linalg.norm(ball, axis=-1) <= 0.5 + 1e-6).all()
    assert_close(empirical.project_to_ball(0.5)(ball), ball, 1e-6)
    assert not empirical.project_to_ball(1.0)(jnp.zeros((2, 3))).any()
    cube = empirical.project_to_cube(0.5)(x)
    assert ((cube >= 0) & (cube <= 0.5)).all()


def test_chunks_bound_the_memory():
    w = jnp.ones((32, 4096))

    def peak(batch_size):
        def fn(x):
            return jnp.tanh(x @ w).sum(0)[:64]

        def run(x):
            return empirical.jacobian_norm(fn, x, mode="reverse", batch_size=batch_size)

        return jax.jit(run).lower(jnp.zeros((64, 32))).compile().memory_analysis().temp_size_in_bytes

    assert peak(2) < peak(64) / 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: empirical.jacobian_norm(jnp.sin, jnp.ones(3), mode="both"), r"mode: .*got 'both'"),
        (lambda: empirical.jacobian_norm(jnp.sin, jnp.array([1, 2])), r"x: expected a floating dtype"),
        (lambda: empirical.jacobian_norm(jnp.sin, jnp.array([jnp.nan])), r"x: expected finite values"),
        (lambda: empirical.jacobian_norm(lambda x: (x, x), jnp.ones(3)), r"fn: .*one array, got tuple"),
        (
            lambda: empirical.jacobian_norm(lambda x: x > 0, jnp.ones(3)),
            r"fn: .*floating .*got dtype bool",
        ),
        (lambda: empirical.jacobian_norm(jnp.sin, jnp.ones(3), batch_size=0), r"batch_size: .*got 0"),
        (
            lambda: empirical.power_iteration(jnp.sin, jnp.ones(3), key=KEY, method="qr"),
            r"method: expected one of 'power', 'lanczos', got 'qr'",
        ),
        (
            lambda: empirical.power_iteration(jnp.sin, jnp.ones(3), key=KEY, rtol=0.0),
            r"rtol: expected a finite number > 0 and < 1, got 0",
        ),
        (
            lambda: empirical.power_iteration(jnp.sin, jnp.ones(3), key=KEY, max_steps=0),
            r"max_steps: expected a whole number >= 1, got 0",
        ),
        (
            lambda: empirical.maximize_jacobian_norm(
                jnp.sin, jnp.ones(3), project=jnp.sin, key=KEY, num_restarts=0
            ),
            r"num_restarts: .*got 0",
        ),
        (lambda: empirical.project_to_ball(-1.0), r"radius: expected a finite number >= 0, got -1"),
        (lambda: empirical.project_to_cube(np.nan), r"high: expected a finite number >= 0, got nan"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
