"""Finite input at the ends of the range of floats gives a value, or an error that names the argument."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import KINDS, POOLERS

from poolax import blocks, empirical, pooling
from poolax.attention import MultiHeadAttention

KEY = jax.random.key(0)
SHAPE = (3, 5, 8)
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
MASKS = {
    "all real": None,
    "padded": np.array([[1, 1, 1, 1, 0], [0, 1, 1, 1, 1], [1, 0, 1, 0, 1]], bool),
    "one empty": np.array([[1, 1, 1, 1, 0], [0, 0, 0, 0, 0], [1, 0, 1, 0, 1]], bool),
    "all empty": np.zeros((3, 5), bool),
}
FUNCTIONS = {
    "first_pool": pooling.first_pool,
    "last_pool": pooling.last_pool,
    "average_pool": pooling.average_pool,
    "sum_pool": pooling.sum_pool,
    "max_pool": pooling.max_pool,
}
MODULES = {
    **{f"pooler {name}": pooler for name, pooler in POOLERS.items()},
    **{f"attention {name}": MultiHeadAttention(2, kind) for name, kind in KINDS.items()},
    **{f"TBM {name}": blocks.TBM(2, pooling.AveragePool(), kind) for name, kind in KINDS.items()},
    "pre-norm block": blocks.PreLNBlock(
        MultiHeadAttention(2), blocks.GatedFeedForward(8), blocks.CenterNorm(), blocks.CenterNorm()
    ),
}
# They give one token, or no more than the largest: no value of theirs is out of range.
WITHIN = {"first_pool", "last_pool", "average_pool", "max_pool"}


def sizes(dtype):
    """Both ends of a dtype's range, and what lies between."""
    info = jnp.finfo(dtype)
    largest = float(info.max)
    return [largest, largest / 2, largest**0.75, largest**0.5, 1.0, float(info.tiny), 0.0]


def tokens(dtype, size, kind, rng):
    values = {
        "equal": np.ones(SHAPE),
        "signs": rng.choice([-1.0, 1.0], SHAPE),
        "one large": np.eye(SHAPE[1])[:, :1] * np.ones(SHAPE),
        "spread": rng.uniform(-1, 1, SHAPE),
    }[kind]
    return jnp.asarray(size * values, dtype)


def outcome(name, call, what):
    """None where a call held."""
    try:
        result = call()
    except ValueError as error:
        named = re.match(
            r"(z|x|bias|inputs|Jacobian of fn|outputs of fn|weights|fn): expected", str(error)
        )
        return None if named and name not in WITHIN else f"{name}, {what}: {error}"
    if all(np.isfinite(np.asarray(leaf, np.float64)).all() for leaf in jax.tree.leaves(result)):
        return None
    return f"{name}, {what}: not finite and no error"


def cases(seed, dtypes=DTYPES):
    rng = np.random.default_rng(seed)
    for dtype, mask in itertools.product(dtypes, MASKS):
        for size in sizes(DTYPES[dtype]):
            for kind in ("equal", "signs", "one large", "spread"):
                z = tokens(DTYPES[dtype], size, kind, rng)
                yield f"{dtype} {kind} {size:.1e} {mask}", z, MASKS[mask]


def gradient(function, z, mask):
    """Of the mean of the results, so that their sum is no reason to overflow."""
    return jax.grad(lambda z: jnp.mean(function(z, mask).astype(jnp.float32) / 8))(z)


def test_pooling_functions(attack):
    attack(
        "extreme tokens, pooling functions",
        [
            outcome(name, lambda f=function, z=z, m=mask: f(z, m), what)
            for what, z, mask in cases(0)
            for name, function in FUNCTIONS.items()
        ],
    )


def test_gradients_of_pooling_functions(attack):
    attack(
        "gradients at extreme tokens, pooling functions",
        [
            outcome(name, lambda f=function, z=z, m=mask: gradient(f, z, m), what)
            for what, z, mask in itertools.islice(cases(1, ("float32",)), 0, None, 3)
            for name, function in FUNCTIONS.items()
            if name != "sum_pool"
        ],
    )


def test_averages_at_the_end_of_the_range_are_exact():
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        largest = jnp.finfo(dtype).max
        for num_tokens in (2, 3, 16):
            z = jnp.full((num_tokens, 2), largest, dtype)
            np.testing.assert_array_equal(pooling.average_pool(z), z[0])
            mask = jnp.arange(num_tokens) < max(1, num_tokens - 1)
            np.testing.assert_array_equal(pooling.average_pool(z, mask), z[0])
    z = jnp.array([[3e38], [3e38], [-3e38], [1e38]])
    np.testing.assert_allclose(pooling.average_pool(z), [1e38], rtol=1e-6)
    np.testing.assert_allclose(jax.jacrev(pooling.average_pool)(z)[0, :, 0], 0.25)


@pytest.mark.parametrize("every", [61, pytest.param(1, marks=pytest.mark.slow)], ids=["few", "all"])
def test_modules(attack, every):
    chosen = list(itertools.islice(cases(2), 0, None, every))
    outcomes = []
    for name, module in MODULES.items():
        variables = module.init(KEY, jnp.ones((1, 12, 8)))
        outcomes += [
            outcome(name, lambda z=z, m=mask, v=variables, a=module.apply: a(v, z, m), what)
            for what, z, mask in chosen
        ]
    attack("extreme tokens, poolers, attention and blocks", outcomes)


ESTIMATORS = {
    "jacobian_norm": empirical.jacobian_norm,
    "power": lambda fn, x: empirical.power_iteration(fn, x, key=KEY),
    "lanczos": lambda fn, x: empirical.power_iteration(fn, x, key=KEY, method="lanczos"),
    "search": lambda fn, x: empirical.maximize_jacobian_norm(
        fn, x, project=empirical.project_to_ball(1e30), key=KEY, num_restarts=2, num_steps=4
    ),
    "expressivity": lambda fn, x: empirical.expressivity(
        fn, x[None], epsilon=1e30, sigma=0.1, key=KEY, num_perturbations=2
    ),
    "noise_curve": lambda fn, x: empirical.noise_curve(
        fn, jnp.stack([x, x]), jnp.array([1e-30, 1e30]), key=KEY, num_perturbations=2
    ),
}


@pytest.mark.parametrize("count", [1, pytest.param(20, marks=pytest.mark.slow)], ids=["few", "all"])
def test_estimators(attack, count):
    functions = {"tanh": jnp.tanh, "square": jnp.square, "scaled": lambda x: 1e20 * x}
    outcomes = []
    for name, measure in ESTIMATORS.items():
        for label, fn in functions.items():
            for size in [3e38, 1e20, 1e-38, 0.0][: 1 + count]:
                x = jnp.full((2, 3), size, jnp.float32)
                outcomes.append(outcome(name, lambda m=measure, f=fn, x=x: m(f, x), f"{label} {size}"))
    attack("extreme inputs, estimators", outcomes)
