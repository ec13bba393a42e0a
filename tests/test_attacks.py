"""Attacks in a ball: where they may go, and how large a loss they find."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolax import empirical

KEY = jax.random.key(0)
CLIP = (0.0, 1.0)
X = jax.random.uniform(jax.random.key(1), (5, 4, 3))
SLOPE = jax.random.normal(jax.random.key(2), (4, 3))
KERNEL = jax.random.normal(jax.random.key(3), (12, 16))
PROJECTIONS = {
    "box": empirical.project_to_box,
    "frobenius": empirical.project_to_frobenius_ball,
    "tokens": empirical.project_to_ball,
}


def rugged(x):
    """A loss with many hills, which a single step of some length may leave lower than it was."""
    return jnp.sum(jnp.sin(3 * x.reshape(-1) @ KERNEL))


def size(change, geometry):
    return {
        "box": lambda: np.abs(change).max((-2, -1)),
        "frobenius": lambda: np.linalg.norm(change, axis=(-2, -1)),
        "tokens": lambda: np.linalg.norm(change, axis=-1).max(-1),
    }[geometry]()


@pytest.fixture(scope="module")
def found():
    """FGSM, and PGD with more and more restarts, of several inputs in one program each."""

    @jax.jit
    def attack(inputs):
        keys = jax.random.split(KEY, len(inputs))
        results = {}
        for name, project in PROJECTIONS.items():
            about = {"radius": 0.3, "project": project, "clip": CLIP}
            results[name] = [
                jax.vmap(lambda x: empirical.fgsm(rugged, x, **about))(inputs),  # noqa: B023
                *(
                    jax.vmap(lambda x, key: empirical.pgd(rugged, x, key, restarts=n, **about))(  # noqa: B023
                        inputs, keys
                    )
                    for n in (1, 4)
                ),
            ]
        return results

    return attack(X)


@pytest.mark.parametrize("geometry", PROJECTIONS)
def test_attacks_stay_in_the_ball_and_in_the_range(found, geometry):
    for result in found[geometry]:
        assert (size(np.asarray(result.x - X), geometry) <= 0.3 + 1e-6).all()
        assert result.x.min() >= 0
        assert result.x.max() <= 1
        np.testing.assert_allclose(result.loss, jax.vmap(rugged)(result.x), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(result.clean, jax.vmap(rugged)(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("geometry", PROJECTIONS)
def test_more_effort_finds_no_less(found, geometry):
    fast, *walks = found[geometry]
    assert (fast.loss >= fast.clean).all()
    losses = [fast.loss, *(walk.loss for walk in walks)]
    for less, more in itertools.pairwise(losses):
        assert (more >= less - 1e-4 * jnp.abs(less)).all()
    assert (walks[0].loss > fast.loss).any()
    assert (walks[-1].loss > walks[0].loss + 1e-3).any()


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_linear_losses_are_climbed_to_the_closed_form(attack):
    x, radius = 0.5 * jnp.ones_like(SLOPE), 0.2
    rows = jnp.linalg.norm(SLOPE, axis=-1)
    largest = {"box": jnp.abs(SLOPE).sum(), "frobenius": jnp.linalg.norm(SLOPE), "tokens": rows.sum()}
    keys = () if attack == "fgsm" else (KEY,)

    @jax.jit
    def losses(x):
        call = getattr(empirical, attack)
        found = {
            name: call(lambda x: jnp.vdot(SLOPE, x), x, *keys, radius=radius, project=project)
            for name, project in PROJECTIONS.items()
        }
        return {name: result.loss - result.clean for name, result in found.items()}

    for name, gained in losses(x).items():
        np.testing.assert_allclose(gained, radius * largest[name], rtol=1e-4)


def test_what_clips_is_part_of_the_closed_form():
    x = jnp.array([0.0, 0.05, 0.5, 1.0])
    slope = jnp.array([-1.0, -2.0, 3.0, 4.0])
    found = empirical.pgd(lambda x: slope @ x, x, KEY, radius=0.1, clip=CLIP, restarts=2, steps=5)
    np.testing.assert_allclose(found.x, [0.0, 0.0, 0.6, 1.0], atol=1e-6)


def test_only_what_is_real_changes_and_its_padding_may_be_anything():
    mask = jnp.array([True, False, True, False])
    padded = X[0].at[1].set(jnp.nan).at[3].set(jnp.inf)

    def loss(x):
        return rugged(jnp.where(mask[:, None], x, 0))

    about = {"radius": 0.3, "restarts": 2, "steps": 3, "mask": mask, "clip": CLIP}
    attack = jax.jit(lambda x: empirical.pgd(loss, x, KEY, **about))
    found = attack(padded)
    np.testing.assert_array_equal(found.x[~mask], padded[~mask])
    assert np.isfinite(found.x[mask]).all()
    assert found.loss > found.clean
    zeros = jnp.where(mask[:, None], padded, 0)
    np.testing.assert_allclose(attack(zeros).loss, found.loss)


def test_radii_may_be_traced_and_nothing_is_the_smallest():
    radii = jnp.array([0.0, 0.05, 0.1])
    found = jax.vmap(lambda radius: empirical.fgsm(rugged, X[0], radius=radius, clip=CLIP))(radii)
    np.testing.assert_array_equal(found.x[0], X[0])
    changes = np.abs(found.x - X[0]).reshape(3, -1).max(-1)
    assert (changes <= radii + 1e-6).all()


def test_losses_that_are_no_numbers_are_not_taken():
    def loss(x):
        return jnp.where(x.sum() > 0.5, jnp.nan, x.sum())

    found = empirical.pgd(loss, jnp.zeros(2), KEY, radius=1.0, restarts=3)
    assert 0 <= found.loss <= 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": -1.0}, r"radius: expected a finite number >= 0, got -1"),
        ({"steps": 0}, r"steps: expected a whole number >= 1, got 0"),
        ({"restarts": 0}, r"restarts: expected a whole number >= 1, got 0"),
        ({"step_size": 0.0}, r"step_size: expected a finite number > 0, got 0"),
        ({"clip": (0.0, 0.1)}, r"x: expected values from 0 to 0.1, as clip says, got others"),
        ({"clip": (1.0, 0.0)}, r"clip: expected a finite number > 1, got 0"),
        ({"mask": jnp.ones(3, bool)}, r"mask: expected a shape that broadcasts to \(4,\), got \(3,\)"),
        ({"loss": lambda x: x}, r"loss: expected .* one floating number, got shape \(4, 3\)"),
        ({"x": X[0] * jnp.nan}, r"x: expected finite values at real tokens|x: expected finite values"),
    ],
)
def test_arguments(options, message):
    about = {"loss": rugged, "x": X[0], "radius": 0.1, "key": KEY} | options
    with pytest.raises(ValueError, match=message):
        empirical.pgd(**about)
