"""Bounds on a ball around an input: attacks inside of it stay below, and at radius 0 nothing is new."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import KINDS, PROJECTIONS, largest_in_ball, pad, random_tokens, random_variables
from hypothesis import given
from hypothesis import strategies as st

from poolax import bounds
from poolax.attention import L2, Cosine, MultiHeadAttention, Rotary
from poolax.bounds._normaliser import normaliser_change
from poolax.bounds._softmax_box import largest_mean, weight_range

NUM_TOKENS, DIM = 4, 4
ALL_KINDS = KINDS | {
    "l2-plain": L2(plain_values=True),
    "cosine-plain": Cosine(tau=2.0, nu=1.5, eps=0.01, plain_values=True),
}


def numbers(count, low, high):
    """Numbers with three digits: a direction of subnormal ones has no length to divide by."""
    tidy = st.integers(int(1e3 * low), int(1e3 * high)).map(lambda number: number / 1e3)
    return st.lists(tidy, min_size=count, max_size=count).map(np.array)


@given(numbers(4, -3, 3), numbers(4, 0, 2), numbers(4, 0, 2), numbers(4, -2, 2), st.randoms())
def test_weights_in_a_box_of_logits(logits, rise, fall, values, random):
    """Against all corners of the box, where every one of the numbers is attained, and points within."""
    corners = np.stack(np.meshgrid(*zip(-fall, rise, strict=True), indexing="ij"), -1).reshape(-1, 4)
    inside = np.array([[random.uniform(-f, r) for f, r in zip(fall, rise, strict=True)]])
    moved = np.exp(logits + np.concatenate([corners, inside]))
    moved /= moved.sum(axis=1, keepdims=True)
    with jax.enable_x64(True):
        weights = jax.nn.softmax(jnp.asarray(logits))
        low, high = weight_range(weights, jnp.asarray(rise), jnp.asarray(fall))
        mean = largest_mean(weights, *(jnp.asarray(array) for array in (rise, fall, values)))
    np.testing.assert_allclose(low, moved.min(axis=0), rtol=1e-9)
    np.testing.assert_allclose(high, moved.max(axis=0), rtol=1e-9)
    np.testing.assert_allclose(mean, (moved @ values).max(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("far", [1e30, np.inf])
def test_far_apart_logits_leave_numbers(far):
    weights, values = jnp.array([1.0, 0.0, 0.0]), jnp.array([-1.0, 2.0, 3.0])
    moves = jnp.full(3, far)
    low, high = weight_range(weights, moves, moves)
    assert low.tolist() == [0, 0, 0]
    assert high.tolist() == [1, 0, 0]
    assert largest_mean(weights, moves, moves, values) == -1
    assert largest_mean(jnp.array([0.5, 0.25, 0.25]), moves, moves, values) == 3


@pytest.mark.parametrize("far", [50.0, 90.0, 1e30, np.inf])
def test_slopes_of_far_apart_logits_are_numbers(far):
    def spread(moves):
        low, high = weight_range(jnp.array([0.5, 0.2, 0.3]), moves, moves)
        return jnp.sum(high - low) + largest_mean(high, moves, moves, jnp.arange(3.0))

    assert jnp.isfinite(jax.grad(spread)(jnp.full(3, far))).all()


@given(numbers(3, -2, 2), numbers(3, -1, 1), st.floats(1e-3, 1), st.floats(0, 2))
def test_the_normaliser_on_a_ball(row, change, eps, moved):
    length = np.linalg.norm(change)
    change = change / length * moved if length > 0 else change

    def jacobian(z):
        r = np.sqrt(z @ z + eps)
        return (np.eye(3) - np.outer(z, z) / r**2) / r

    def normalised(z):
        return z / np.sqrt(z @ z + eps)

    with jax.enable_x64(True):
        found = normaliser_change(jnp.asarray(np.linalg.norm(row)), eps, jnp.asarray(moved))
        found = jax.tree.map(float, dataclasses.asdict(found))
    after = row + change
    apart = normalised(after) - normalised(row)
    for actual, bound in (
        (np.linalg.norm(jacobian(after), 2), found["steepest"]),
        (np.linalg.norm(jacobian(after) - jacobian(row), 2), found["slope"]),
        (np.linalg.norm(apart), found["value"]),
        (np.linalg.norm(apart - jacobian(row) @ change), found["remainder"]),
    ):
        assert actual <= bound * (1 + 1e-9) + 1e-12


def layer_of(kind, rotary=None, causal=False):
    """An attention layer with random kernels, tokens, and the layer's bound as a function of a radius."""
    layer = MultiHeadAttention(2, kind, causal=causal, rotary=rotary)
    x = random_tokens(jax.random.key(0), NUM_TOKENS, DIM, 1.5)
    variables = random_variables(layer, jax.random.key(1), x)
    kernels = {name: part["kernel"] for name, part in variables["params"].items()}
    kernels.setdefault("key", None)
    options = {"kind": kind, "causal": causal, "rotary": rotary}
    return (
        x,
        functools.partial(layer.apply, variables),
        functools.partial(bounds.local_attention, **kernels, **options),
    )


CASES = [
    *((kind, None, False) for kind in ALL_KINDS),
    ("dot", Rotary(3.0), True),
    ("cosine", Rotary(3.0), False),
    ("l2", None, True),
]
# The rest cost four compilations each.
DEFAULT = {("dot", "frobenius", 5), ("cosine", "tokens", 6)}


def cases():
    for (number, case), geometry in itertools.product(enumerate(CASES), PROJECTIONS):
        marks = () if (case[0], geometry, number) in DEFAULT else pytest.mark.slow
        yield pytest.param(*case, geometry, marks=marks)


@pytest.mark.parametrize(("kind", "rotary", "causal", "geometry"), list(cases()))
def test_ascent_in_the_ball_stays_below(kind, rotary, causal, geometry, x64):
    x, apply, bound = layer_of(ALL_KINDS[kind], rotary, causal)
    at_zero = bound(x, geometry=geometry)
    # The bound of the whole domain, which counts on balls, may be below that at a point.
    last = 0.0 if geometry == "frobenius" else at_zero
    for radius in (0.02, 0.3):
        now = bound(x, geometry=geometry, epsilon=radius)
        found = largest_in_ball(apply, x, geometry, jnp.asarray(radius))
        assert found <= now, f"{found} above {now} at {radius}"
        assert now >= last
        last = now
    # Without a radius known to be zero the ball's program says the same as the point's.
    traced = jax.jit(lambda radius: bound(x, geometry=geometry, epsilon=radius))
    np.testing.assert_allclose(traced(0.0), at_zero, rtol=1e-12)
    assert traced(1e-6) <= 1.01 * at_zero


def test_blocks_change_as_much_as_is_said(x64):
    """A change by first order, along what moves a row's logits most, is not far below its bound."""
    x, apply, bound = layer_of(KINDS["dot"])
    radius = 1e-4
    jacobian = jax.jit(jax.jacrev(apply))
    base = jacobian(x)
    directions = jax.random.normal(jax.random.key(3), (100, NUM_TOKENS, DIM))
    directions /= jnp.linalg.norm(directions, axis=(1, 2), keepdims=True)
    apart = [
        jnp.linalg.norm((jacobian(x + radius * d) - base).reshape(x.size, x.size), ord=2)
        for d in directions
    ]
    said = bound(x, epsilon=radius) - bound(x)
    assert 0.02 * said < max(apart) <= said


def test_padding_changes_nothing(x64):
    x, _, bound = layer_of(KINDS["cosine"])
    padded, mask = pad(x, 1, 2, np.nan)
    for geometry in PROJECTIONS:
        options = {"epsilon": 0.1, "geometry": geometry}
        np.testing.assert_allclose(bound(padded, mask=mask, **options), bound(x, **options), rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": -0.1}, r"epsilon: expected"),
        ({"epsilon": jnp.nan}, r"epsilon: expected"),
        ({"geometry": "cube"}, r"geometry: expected"),
    ],
)
def test_bad_input_is_named(options, message):
    kernel = jnp.eye(DIM).reshape(DIM, 2, 2)
    with pytest.raises(ValueError, match=message):
        bounds.local_attention(jnp.eye(DIM), kernel, kernel, kernel, kernel.reshape(2, 2, 4), **options)
