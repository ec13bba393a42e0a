import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolax import blocks, bounds, pooling
from poolax.attention import L2, DotProduct

KEY = jax.random.key(0)


def test_margins_and_mistakes():
    logits = jnp.array([[3.0, 1.0, 0.0], [0.0, 1.0, 0.5], [2.0, 2.0, 0.0], [-1.0, -4.0, -2.0]])
    labels = jnp.array([0, 2, 1, 0])
    radius = bounds.certified_radius(logits, labels, 2.0)
    expected = np.array([2.0, 0.0, 0.0, 1.0]) / (2 * np.sqrt(2))
    np.testing.assert_allclose(radius, expected, rtol=1e-5)
    assert (np.asarray(radius, np.float64) <= expected).all()
    each = bounds.certified_radius(logits, labels, jnp.array([1.0, 2.0, 4.0, 8.0]))
    np.testing.assert_allclose(each, expected * np.array([2, 1, 0.5, 0.25]), rtol=1e-5)
    batched = bounds.certified_radius(logits.reshape(2, 2, 3), labels.reshape(2, 2), 2.0)
    assert (batched.reshape(-1) == radius).all()
    assert bounds.certified_radius(logits[:0], labels[:0], 2.0).shape == (0,)


def test_a_constant_classifier():
    logits = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    radius = bounds.certified_radius(logits, jnp.array([0, 0, 0]), 0.0)
    assert radius.tolist() == [np.inf, 0.0, 0.0]


@pytest.mark.parametrize("constant", [np.nan, -1.0])
def test_what_is_no_constant_certifies_nothing(constant):
    logits = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    certify = jax.jit(bounds.certified_radius)
    radius = certify(logits, jnp.array([0, 0]), jnp.array([constant, 1.0]))
    assert radius.tolist() == [0.0, 0.0]
    assert certify(logits, jnp.array([0, 1]), constant).tolist() == [0.0, 0.0]


def test_ranks_are_promoted_by_name():
    logits = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    with jax.numpy_rank_promotion("raise"):
        bounds.certified_radius(logits, jnp.array([0, 0]), 1.0)
        bounds.certified_radius(logits[0], 0, 1.0)


def test_transformations(x64):
    logits = jax.random.normal(KEY, (5, 4), float)
    labels = jnp.argmax(logits, axis=-1)
    constants = jnp.linspace(0.5, 2.0, 5)
    together = bounds.certified_radius(logits, labels, constants)
    one_by_one = jax.jit(jax.vmap(bounds.certified_radius))(logits, labels, constants)
    np.testing.assert_allclose(one_by_one, together, rtol=1e-12)
    gradient = jax.grad(
        lambda logits, c: bounds.certified_radius(logits, labels, c).sum(), argnums=(0, 1)
    )
    by_logits, by_constant = gradient(logits, constants)
    np.testing.assert_allclose(by_constant, -together / constants, rtol=1e-9)
    own = np.take_along_axis(np.asarray(by_logits), np.asarray(labels)[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(own, 1 / (np.sqrt(2) * constants), rtol=1e-9)
    np.testing.assert_allclose(by_logits.sum(axis=1), 0, atol=1e-9)
    # Mistakes and constant classifiers have finite gradients too.
    for wrong, constant in ((jnp.argmin(logits, axis=-1), constants), (labels, 0 * constants)):
        parts = jax.grad(
            lambda logits, c, y: jnp.where(
                jnp.isfinite(r := bounds.certified_radius(logits, y, c)), r, 0
            ).sum(),
            argnums=(0, 1),
        )(logits, constant, wrong)
        assert all(np.isfinite(part).all() for part in parts)
    outside = jax.jit(bounds.certified_radius)(logits, labels + 4, 1.0)
    assert np.isnan(outside).all()


def test_attained():
    """Logits (x, -x) / sqrt(2) have constant 1 and change their class exactly at the radius."""
    x = jnp.array([0.5, 2.0, 7.0])
    logits = jnp.stack([x, -x], axis=-1) / np.sqrt(2)
    radius = bounds.certified_radius(logits, jnp.zeros(3, int), 1.0)
    np.testing.assert_allclose(radius, x, rtol=1e-5)


@given(seed=st.integers(0, 100), num_classes=st.integers(2, 6))
def test_attained_by_the_nearest_boundary_of_a_linear_classifier(seed, num_classes):
    """Never beyond the nearest boundary, which for two opposite logits is where the radius ends."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(5, num_classes))
    if num_classes == 2:
        kernel[:, 1] = -kernel[:, 0]
    x = rng.normal(size=5)
    logits = x @ kernel
    label = int(np.argmax(logits))
    gaps = [
        (logits[label] - logits[j]) / np.linalg.norm(kernel[:, label] - kernel[:, j])
        for j in range(num_classes)
        if j != label
    ]
    radius = bounds.certified_radius(jnp.asarray(logits), jnp.asarray(label), np.linalg.norm(kernel, 2))
    assert radius <= min(gaps) * (1 + 1e-5)
    if num_classes == 2:
        np.testing.assert_allclose(radius, min(gaps), rtol=1e-4)


@pytest.mark.parametrize("attention", ["global", "domain"])
def test_no_adversary_within_the_radius_changes_the_class(attention):
    """A pooled block with a linear head; what ascent finds, at the full radius, keeps its class."""
    kind = L2() if attention == "global" else DotProduct()
    model = blocks.TBM(2, pooling.AveragePool(), kind)
    inputs = 0.4 * jax.random.normal(KEY, (32, 5, 4))
    variables = model.init(KEY, inputs)
    kernel = jax.random.normal(jax.random.key(1), (4, 3))
    labels = jnp.argmax(model.apply(variables, inputs) @ kernel, axis=-1)
    domain, enlarged = bounds.domain_of(inputs), 0.5
    constant = (
        jnp.linalg.norm(kernel, 2)
        * (1 + 1e-5)
        * bounds.tbm(
            model,
            variables,
            num_tokens=5,
            radius=domain.radius + enlarged,
            spread=domain.spread + enlarged / np.sqrt(2),
        ).lipschitz
    )
    radius = bounds.certified_radius(model.apply(variables, inputs) @ kernel, labels, constant)
    if attention == "domain":
        radius = jnp.minimum(radius, enlarged)
    assert (radius > 0).sum() >= 16

    def attack(tokens, radius, label, key):
        def margin(change):
            logits = model.apply(variables, tokens + change) @ kernel
            return logits[label] - jnp.max(jnp.where(jnp.arange(3) == label, -jnp.inf, logits))

        def inside(change):
            norm = jnp.linalg.norm(change)
            return change * jnp.minimum(1, radius / jnp.maximum(norm, 1e-12))

        def step(change, progress):
            slope = jax.grad(margin)(change)
            slope = slope / jnp.maximum(jnp.linalg.norm(slope), 1e-12)
            return inside(change - radius * (1 - progress) * slope), margin(change)

        start = inside(radius * jax.random.normal(key, tokens.shape))
        end, seen = jax.lax.scan(step, start, jnp.arange(40) / 40)
        return jnp.minimum(margin(end), seen.min()), margin(jnp.zeros_like(tokens))

    attacks = jax.jit(jax.vmap(attack))
    lowest, clean = attacks(inputs, radius, labels, jax.random.split(KEY, 32))
    certified = radius > 0
    assert (lowest[certified] > 0).all()
    assert (lowest < clean)[certified].all()
    # The attack is one: with a radius many times larger it changes classes.
    beyond, _ = attacks(inputs, 40 * radius, labels, jax.random.split(KEY, 32))
    assert (beyond[certified] < 0).any()


LOGITS = jnp.ones((4, 3))
LABELS = jnp.array([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((jnp.ones(()), 0, 1.0), r"logits: expected shape \(\*batch, k\) with k >= 2, got \(\)"),
        ((jnp.ones((4, 1)), LABELS, 1.0), r"logits: .*k >= 2, got \(4, 1\)"),
        ((LOGITS.astype(int), LABELS, 1.0), r"logits: expected a floating dtype"),
        ((LOGITS * jnp.nan, LABELS, 1.0), r"logits: expected finite values, got 12"),
        ((LOGITS, LABELS[:3], 1.0), r"labels: expected shape \(4,\), got \(3,\)"),
        ((LOGITS, LABELS * 1.0, 1.0), r"labels: expected an integer dtype, got float32"),
        ((LOGITS, LABELS + 1, 1.0), r"labels: expected classes from 0 to 2, got 3"),
        ((LOGITS, LABELS - 1, 1.0), r"labels: expected classes from 0 to 2, got -1"),
        ((LOGITS, LABELS, -1.0), r"lipschitz: expected a finite number >= 0, got -1"),
        ((LOGITS, LABELS, np.inf), r"lipschitz: .*got inf"),
        ((LOGITS, LABELS, np.nan), r"lipschitz: .*got nan"),
        ((LOGITS, LABELS, jnp.ones(3)), r"lipschitz: expected a shape that broadcasts to \(4,\)"),
        ((LOGITS, LABELS, jnp.ones((2, 4))), r"lipschitz: expected a shape that broadcasts"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        bounds.certified_radius(*arguments)


def test_sizes_at_the_ends_of_the_dtype():
    """Rounded down: neither a difference that overflows nor a constant that vanishes certifies all."""
    largest = np.finfo(np.float32).max
    logits = jnp.asarray([largest, -largest])
    for constant, expected in ((2.0, largest / 2**0.5), (1e-3, largest), (1e-60, largest)):
        found = bounds.certified_radius(logits, jnp.asarray(0), constant)
        assert 0.999 * expected <= found <= expected
        assert bounds.certified_radius(logits, jnp.asarray(1), constant) == 0
    assert bounds.certified_radius(logits, jnp.asarray(0), 0.0) == np.inf
