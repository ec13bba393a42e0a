import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolax import blocks, bounds, empirical, pooling
from poolax.attention._core import normalize_rows

KEY = jax.random.key(0)
BALL = empirical.project_to_ball(1.0)
X = jax.random.normal(KEY, (6, 4))


def distances(tokens):
    return jnp.linalg.norm(tokens[..., :, None, :] - tokens[..., None, :, :], axis=-1)


@pytest.mark.parametrize("radius", [0.5, 2.0, 100.0])
def test_projection_to_the_domain_of_the_bounds(radius):
    spread = 0.4
    project = empirical.project_to_domain(radius, spread)
    shifts = 3 * jax.random.normal(KEY, (50, 1, 4))
    tokens = jax.random.normal(jax.random.key(1), (50, 6, 4)) + shifts
    inside = project(tokens)
    assert (jnp.linalg.norm(inside, axis=-1) <= radius * (1 + 1e-6)).all()
    assert (distances(inside) <= 2 * spread).all()
    # Up to what the norm of a token on the surface of the ball is rounded by
    np.testing.assert_allclose(project(inside), inside, rtol=1e-6)
    interior = 0.9 * inside
    np.testing.assert_array_equal(project(interior), interior)


def test_projection_to_a_domain_keeps_what_no_ball_of_the_spread_holds():
    simplex = jnp.eye(4) * 0.999 / jnp.sqrt(2)
    project = empirical.project_to_domain(1.0, 0.5)
    np.testing.assert_array_equal(project(simplex), simplex)
    # From the centre the corners are farther than the spread.
    assert jnp.linalg.norm(simplex - simplex.mean(0), axis=-1).min() > 0.6
    same = jnp.ones((3, 2))
    np.testing.assert_array_equal(empirical.project_to_domain(2.0, 0.0)(same), same)


def test_search_on_a_domain_stays_in_it_and_below_its_bound():
    model = blocks.TBM(1, pooling.SumPool())
    variables = model.init(KEY, X)
    found = empirical.maximize_jacobian_norm(
        lambda x: model.apply(variables, x),
        X,
        project=empirical.project_to_domain(2.0, 0.3),
        key=KEY,
        num_restarts=8,
    )
    assert jnp.linalg.norm(found.x, axis=-1).max() <= 2 + 1e-5
    assert distances(found.x).max() <= 0.6
    bound = bounds.tbm(model, variables, num_tokens=6, radius=2.0, spread=0.3)
    assert found.value <= bound.lipschitz


def test_corners_of_spheres_and_of_cubes():
    """|grad| of sum x^3 / 3 is |x^2|: one coordinate is all on a sphere, all are high in a cube."""

    @jax.jit
    def search(key):
        return [
            empirical.maximize_jacobian_norm(
                lambda x: jnp.sum(x**3) / 3, jnp.array([[0.2, 0.1, 0.05]]), project=project, key=key
            )
            for project in (empirical.project_to_ball(2.0), empirical.project_to_cube(2.0))
        ]

    sphere, cube = search(KEY)
    np.testing.assert_allclose(sphere.value, 4, rtol=1e-4)
    np.testing.assert_allclose(cube.value, 4 * np.sqrt(3), rtol=1e-4)
    np.testing.assert_allclose(cube.x, 2.0, rtol=1e-4)


def test_what_is_steepest_near_zero_is_found():
    found = empirical.maximize_jacobian_norm(
        lambda x: normalize_rows(x, 1e-6), BALL(X), project=BALL, key=KEY, num_restarts=32
    )
    assert 0.99e3 < found.value <= 1e3 * (1 + 1e-5)


def row_bound(a):
    """The best bound that is known of one row of one head on the unit ball, for ``a >= 1/2``."""
    p = min(1.0, (1 + np.sqrt(1 + 3 / (4 * a**2))) / 3)
    return np.sqrt(p * (1 + 4 * p * (1 - p) * a**2)) + a


def test_rows_of_attention_come_near_their_bound():
    """All A of one norm; near A = 0 attention is uniform, and its rows of norm ``n^(-1/2)``."""

    @jax.jit
    def search(a):
        def row(matrix, x):
            scaled = a * matrix / jnp.linalg.norm(matrix, 2)
            return (jax.nn.softmax(x @ scaled @ x.T) @ x)[0]

        return empirical.maximize_jacobian_norm(
            row,
            BALL(X),
            project=BALL,
            key=KEY,
            num_restarts=64,
            num_steps=100,
            variables=jax.random.normal(KEY, (4, 4)),
        )

    for a, share in ((1.0, 0.94), (2.0, 0.87), (5.0, 0.86), (10.0, 0.86)):
        found = search(a)
        assert share <= found.value / row_bound(a) <= 1, a
        assert found.variables.shape == (4, 4)
        assert found.ratio is None


POOLERS = {
    "last": (pooling.LastPool(), 0.95),
    "average": (pooling.AveragePool(), 0.95),
    "sum": (pooling.SumPool(), 0.95),
    "max": (pooling.MaxPool(), 0.75),
}


@pytest.mark.parametrize(
    ("name", "double"),
    [
        *(pytest.param(name, False, marks=pytest.mark.slow) for name in ("last", "sum")),
        ("average", False),
        ("max", False),
        *(pytest.param(name, True, marks=pytest.mark.slow) for name in ("average", "max")),
    ],
)
def test_sharp_bounds_are_nearly_attained_with_weights_free(name, double):
    pooler, share = POOLERS[name]
    with jax.enable_x64(double):
        model = blocks.TBM(1, pooler)
        x = jnp.asarray(X, jnp.result_type(float))
        variables = jax.tree.map(lambda leaf: leaf.astype(x.dtype), model.init(KEY, x))

        def bound(variables):
            return bounds.tbm(model, variables, num_tokens=6, radius=1.0).lipschitz

        @jax.jit
        def search(x, key):
            found = empirical.maximize_jacobian_norm(
                model.apply,
                x,
                project=BALL,
                key=key,
                num_restarts=32,
                num_steps=80,
                variables=variables,
                bound=bound,
            )
            exact = empirical.jacobian_norm(lambda x: model.apply(found.variables, x), found.x)
            return found, exact, bound(found.variables)

        found, exact, limit = search(x, KEY)
        assert share <= found.ratio <= 1
        assert found.ratio == found.per_restart.max()
        np.testing.assert_allclose(found.value, exact, rtol=1e-3)
        np.testing.assert_allclose(found.ratio, found.value / limit, rtol=1e-5)


def test_one_trace_for_all_keys():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def search(x, key):
        return empirical.maximize_jacobian_norm(
            jnp.sin, x, project=BALL, key=key, num_restarts=2, num_steps=3
        )

    for seed in range(3):
        assert 0 < search(X, jax.random.key(seed)).value <= 1 + 1e-6


@pytest.mark.parametrize("num_restarts", [1, 8])
def test_what_is_found_is_not_below_what_was_measured_at_given_inputs(num_restarts):
    """Spikes that no search finds, and that one given input lies on."""

    @jax.jit
    def fn(x):
        return jnp.tanh(1e3 * (x - jnp.array([0.1, 0.2])))

    inputs = jnp.array([[0.3, -0.4], [0.05, 0.06], [0.1, 0.2], [-0.2, 0.1]])
    measured = [empirical.jacobian_norm(fn, x) for x in inputs]
    search = {"project": BALL, "key": KEY, "num_restarts": num_restarts, "num_steps": 2}
    first = empirical.maximize_jacobian_norm(fn, inputs[2], **search)
    others = empirical.maximize_jacobian_norm(fn, inputs[0], starts=inputs, **search)
    for found in (first, others):
        np.testing.assert_allclose(found.value, max(measured), rtol=1e-6)
        np.testing.assert_allclose(empirical.jacobian_norm(fn, found.x), found.value, rtol=1e-6)
        assert found.per_restart.max() == found.value
    with pytest.raises(ValueError, match=r"starts: expected shape \(k, 2\), got \(4, 1\)"):
        empirical.maximize_jacobian_norm(fn, inputs[0], starts=inputs[:, :1], **search)


def test_all_of_space():
    """The slope of x exp(-x^2) is largest at zero, far from where the search starts."""
    found = empirical.maximize_jacobian_norm(
        lambda x: x * jnp.exp(-jnp.square(x)), jnp.full((1,), 1.5), project=lambda x: x, key=KEY
    )
    np.testing.assert_allclose(found.value, 1.0, rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bound": jnp.sum}, r"variables: expected what bound is a function of, got None"),
        ({"variables": jnp.array([1, 2])}, r"variables: expected a floating dtype, got int32"),
        ({"variables": jnp.array([jnp.nan])}, r"variables: expected finite values, got 1"),
        (
            {"variables": jnp.ones(1), "bound": lambda v: jnp.sum(v) * jnp.nan},
            r"bound of variables: expected finite values",
        ),
        (
            {"variables": jnp.ones(1), "bound": lambda v: v},
            r"bound: expected a function that returns one floating number, got shape \(1,\)",
        ),
    ],
)
def test_bad_variables_and_bounds_are_named(changes, message):
    def fn(*args):
        return jnp.sin(args[-1])

    with pytest.raises(ValueError, match=message):
        empirical.maximize_jacobian_norm(
            fn, X, project=BALL, key=KEY, num_restarts=2, num_steps=2, **changes
        )


@pytest.mark.parametrize("limits", [(-1.0, 1.0), (1.0, np.nan)])
def test_bad_domains_are_named(limits):
    with pytest.raises(ValueError, match=r"(radius|spread): expected a finite number >= 0"):
        empirical.project_to_domain(*limits)
