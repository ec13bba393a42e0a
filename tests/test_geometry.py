"""Norms of changes by the largest token: what is measured, found and bounded in them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolax import attention, blocks, bounds, empirical, measure, pooling
from poolax.bounds import Domain
from poolax.empirical._neighbourhood import draw_noise

KEY = jax.random.key(0)
KINDS = {"dot": attention.DotProduct(), "l2": attention.L2(), "cosine": attention.Cosine()}
POOLERS = ("last", "avg", "sum", "max", "attn")
X = 0.3 * jax.random.normal(jax.random.key(1), (6, 8))


def model_of(kind, pooler):
    options = {"num_latents": 2, "num_heads": 2} if pooler == "attn" else {}
    model = blocks.TBM(2, pooling.from_name(pooler, **options), KINDS[kind])
    return model, model.init(KEY, X)


def largest(fn, x, key=KEY, **options):
    return empirical.power_iteration(fn, x, key=key, geometry="tokens", **options)


@pytest.mark.parametrize(
    ("fn", "norm"),
    [
        (lambda x: jnp.mean(x, axis=0), 1.0),
        (lambda x: jnp.sum(x, axis=0), 6.0),
        (lambda x: x[-1], 1.0),
        (lambda x: 3 * x, 3.0),
        (lambda x: x.at[0].set(jnp.sum(x, axis=0)), 6.0),
        (jnp.sum, 6 * 8**0.5),
        (lambda x: 0 * x, 0.0),
    ],
)
def test_known_norms(fn, norm):
    found = largest(fn, X)
    assert found.converged
    np.testing.assert_allclose(found.value, norm, rtol=1e-5)


@pytest.mark.parametrize("of_tokens", [False, True])
def test_a_power_iteration_is_not_above_all_signs_and_some_start_finds_the_best(of_tokens):
    # Tokens of one entry each: the unit ball is a cube, and a convex function is largest at a corner.
    matrix = np.random.default_rng(0).normal(size=(5, 7))
    images = matrix @ np.array(list(itertools.product([-1.0, 1.0], repeat=7))).T
    best = np.abs(images).max() if of_tokens else np.linalg.norm(images, axis=0).max()

    def fn(x):
        image = jnp.asarray(matrix, x.dtype) @ x[:, 0]
        return image[:, None] if of_tokens else image

    keys = jax.random.split(KEY, 16)
    found = jax.vmap(lambda key: largest(fn, jnp.zeros((7, 1)), key).value)(keys)
    assert (found <= best * (1 + 1e-6)).all()
    np.testing.assert_allclose(found.max(), best, rtol=1e-5)


def test_it_lies_between_the_frobenius_norm_and_root_n_of_it():
    model, variables = model_of("dot", "avg")
    fn = functools.partial(model.apply, variables)
    found, frobenius = largest(fn, X).value, empirical.jacobian_norm(fn, X)
    assert frobenius * (1 - 1e-5) <= found <= 6**0.5 * frobenius * (1 + 1e-5)


def test_the_geometry_of_singular_values_alone_has_lanczos():
    with pytest.raises(ValueError, match=r"method: expected one of 'power', got 'lanczos'"):
        largest(jnp.sin, X, method="lanczos")
    with pytest.raises(ValueError, match="geometry: expected one of 'frobenius', 'tokens', got 'rows'"):
        empirical.power_iteration(jnp.sin, X, key=KEY, geometry="rows")


@pytest.mark.parametrize("neighbourhood", ["ball", "gaussian"])
def test_noise_of_each_token_has_its_size(neighbourhood):
    real = jnp.broadcast_to(jnp.arange(4)[:, None] < 3, (4, 8))
    keys = jax.random.split(KEY, 400)
    noise = jax.vmap(lambda key: draw_noise(key, real, jnp.float32, 2.0, neighbourhood, "tokens"))(keys)
    lengths = np.linalg.norm(noise, axis=-1)
    assert (lengths[:, 3] == 0).all()
    if neighbourhood == "ball":
        assert (lengths <= 2 * (1 + 1e-6)).all()
        # Uniform: the share within half of the radius is 2^-8.
        np.testing.assert_allclose(np.mean((lengths[:, :3] / 2) ** 8), 0.5, atol=0.05)
    else:
        np.testing.assert_allclose(np.mean(lengths[:, :3] ** 2), 4.0, rtol=0.1)


def test_a_budget_for_each_token_moves_sums_further():
    def moved(geometry):
        return empirical.expressivity(
            lambda x: x.sum(axis=0),
            X[None],
            epsilon=1.0,
            sigma=4.0,
            key=KEY,
            num_perturbations=4,
            neighbourhood="adversarial",
            geometry=geometry,
        ).mean_distance

    np.testing.assert_allclose(moved("frobenius"), 6**0.5, rtol=1e-3)
    np.testing.assert_allclose(moved("tokens"), 6.0, rtol=1e-3)


def test_bounds_by_input_hold_for_a_budget_for_each_token():
    model, variables = model_of("l2", "avg")

    def lipschitz(domain, num_tokens):
        sizes = {"num_tokens": num_tokens, "radius": domain.radius, "spread": domain.spread}
        return bounds.tbm(model, variables, **sizes, method="tight", geometry="tokens").lipschitz

    at = {"epsilon": 1e-3, "sigma": 1.0, "geometry": "tokens"}
    bound = bounds.expressivity(lipschitz, X[None], **at)
    found = empirical.expressivity(
        functools.partial(model.apply, variables), X[None], **at, key=KEY, neighbourhood="adversarial"
    )
    assert 0 < found.mean_distance <= bound.lipschitz[0] * 1e-3


def sandwich(kind, pooler):
    """Measured at an input and found by a search, beside all bounds."""
    model, variables = model_of(kind, pooler)
    domain = Domain(1.0, 1.0)
    row = measure.measure_block(model, variables, X[None], domain=domain, geometry="tokens")
    found = measure.find(
        functools.partial(model.apply, variables),
        X,
        domain,
        key=KEY,
        num_restarts=4,
        num_steps=40,
        geometry="tokens",
    )
    local = bounds.local_tbm(model, variables, found.x, geometry="tokens").lipschitz
    measure.check_order(row["measured"][0], {"local": row["local"][0]}, what=f"{kind} {pooler}")
    known = {name: row[name] for name in ("tight", "sharp")}
    assert row["published"] is None
    measure.check_order(found.value, known | {"local": local}, what=f"{kind} {pooler}")
    assert found.value >= row["measured"][0] * (1 - 1e-4)


def test_nothing_found_is_above_a_bound():
    sandwich("l2", "max")


@pytest.mark.slow
@pytest.mark.parametrize("pooler", POOLERS)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_found_is_above_any_bound(kind, pooler):
    sandwich(kind, pooler)


@pytest.mark.slow
def test_backbones_in_both_geometries():
    from poolax.backbones import Bert, BertConfig

    config = BertConfig(20, 8, width=16, num_layers=2, num_heads=2, mlp_dim=32)
    backbone = Bert.init(config, KEY)
    embeddings, mask = backbone.embed(
        backbone.params, jnp.arange(12).reshape(2, 6), jnp.arange(6) < jnp.array([[6], [4]])
    )
    for row in measure.measure_backbone(backbone, embeddings, mask, key=KEY, geometry="tokens"):
        measure.check_along(row, what=row["pooler"])
        assert row["converged"]
