"""Certified radii of heads: never above what an attack finds, and as near to it as they say."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import ALL_FAMILIES, inputs, scrambled
from helpers import FURTHER_POOLERS, KINDS, POOLERS, PROBES, pad, random_variables

from poolax import bounds, empirical, measure, pooling
from poolax.blocks import TBM

GEOMETRIES = {
    "frobenius": empirical.project_to_frobenius_ball,
    "tokens": empirical.project_to_ball,
}
NUM_TOKENS, DIM, CLASSES, EXAMPLES = 5, 4, 3, 6
# What of the attacked radius is certified at least, at the median of the examples.
SHARES = {
    ("avg", "frobenius"): 0.99,
    ("avg", "tokens"): 0.99,
    ("max", "frobenius"): 0.9,
    ("max", "tokens"): 0.6,
    ("map-one", "tokens"): 0.9,
    ("map-one", "frobenius"): 0.85,
    ("attn", "tokens"): 0.2,
    ("attn-norm", "tokens"): 0.1,
    ("attn-norm", "frobenius"): 0.05,
}
MORE = {
    "map-one": pooling.QueryAttentionPool(),
    "mixed": pooling.HybridPool((pooling.AveragePool(), pooling.SumPool())),
}
ALL = POOLERS | PROBES | FURTHER_POOLERS | MORE
# The rest cost two compilations each.
DEFAULT = {
    ("avg", "frobenius"),
    ("max", "frobenius"),
    ("max", "tokens"),
    ("map-one", "tokens"),
    ("lse", "tokens"),
}


def head_of(pooler, key, width=DIM):
    """A head with random parameters, and states of which it is right."""
    keys = jax.random.split(key, 4)
    z = jax.random.normal(keys[0], (EXAMPLES, NUM_TOKENS, width))
    variables = random_variables(pooler, keys[1], z[0])
    pooled = jax.vmap(lambda z: pooler.apply(variables, z))(z)
    kernel = jax.random.normal(keys[2], (pooled.shape[-1], CLASSES), float)
    bias = jax.random.normal(keys[3], (CLASSES,), float)
    params = {"output": {"kernel": kernel, "bias": bias}, "pooler": variables.get("params", {})}
    return {"params": params}, z, jnp.argmax(pooled @ kernel + bias, axis=-1)


def leads_found(pooler, variables, geometry, z, labels, radii):
    """The largest lead of another class that an attack finds at each radius."""
    params = variables["params"]

    def lead(z, label):
        pooled = pooler.apply({"params": params["pooler"]}, z)
        logits = pooled @ params["output"]["kernel"] + params["output"]["bias"]
        others = jnp.where(jnp.arange(CLASSES) == label, -jnp.inf, logits)
        return jnp.max(others) - logits[label]

    def one(z, label, radius, key):
        options = {"radius": radius, "steps": 40, "restarts": 4, "project": GEOMETRIES[geometry]}
        return empirical.pgd(functools.partial(lead, label=label), z, key, **options).loss

    return jax.vmap(one)(z, labels, radii, jax.random.split(jax.random.key(7), EXAMPLES))


CASES = [
    case if case in DEFAULT else pytest.param(*case, marks=pytest.mark.slow)
    for case in itertools.product(ALL, GEOMETRIES)
]


@pytest.mark.parametrize(("name", "geometry"), CASES)
def test_no_attack_succeeds_below_the_radius(name, geometry, x64):
    """And one succeeds not far above it, where the radius is said to be tight."""
    pooler = ALL[name]
    variables, z, labels = head_of(pooler, jax.random.key(3), 2 * DIM if name == "layers" else DIM)
    radii = bounds.certify(pooler, variables, z, labels, geometry=geometry).radius
    assert (radii > 0).all()
    attack = jax.jit(functools.partial(leads_found, pooler, variables, geometry, z, labels))
    assert (attack(0.999 * radii) < 0).all()
    if (name, geometry) in SHARES:
        leads = attack(radii / SHARES[name, geometry])
        assert jnp.median(leads) >= 0, leads


def test_mistakes_and_classes_that_cannot_win():
    kernel = jnp.array([[1.0, -1.0, 1.0]])
    params = {"output": {"kernel": kernel, "bias": jnp.array([0.0, 0.0, -2.0])}}
    z = jnp.array([[[2.0], [1.0]], [[2.0], [1.0]], [[-1.0], [-3.0]]])
    found = bounds.certify(pooling.AveragePool(), {"params": params}, z, jnp.array([0, 1, 1]))
    # The third class differs from the first by its bias alone.
    np.testing.assert_allclose(found.radius, [1.5 * np.sqrt(2), 0, 2 * np.sqrt(2)], rtol=1e-4)
    assert found.geometry == "frobenius"
    assert found.attacked is None


def test_the_truth_lies_between_two_numbers(x64):
    """Attacks reach the certified radius of a linear pooler, with a mask, and mistakes are at 0."""
    pooler = pooling.AveragePool()
    variables, z, labels = head_of(pooler, jax.random.key(3))
    labels = labels.at[0].set((labels[0] + 1) % CLASSES)
    mask = jnp.arange(NUM_TOKENS) > 0
    labels = labels.at[1:].set(_classes(variables, pooling.average_pool(z, mask))[1:])
    found = bounds.certify(pooler, variables, z, labels, mask=mask, geometry="tokens")
    found = measure.attacked(
        found,
        lambda z, mask: _logits(variables, pooling.average_pool(z, mask)),
        z,
        jax.random.key(0),
        mask=mask,
        steps=20,
        restarts=1,
    )
    wrong = _classes(variables, pooling.average_pool(z, mask)) != labels
    assert wrong[0]
    assert (found.attacked[wrong] == 0).all()
    assert (found.radius <= found.attacked).all()
    assert (found.attacked[~wrong] <= 1.01 * found.radius[~wrong]).all()


def _logits(variables, pooled):
    output = variables["params"]["output"]
    return pooled @ output["kernel"] + output["bias"]


def _classes(variables, pooled):
    return jnp.argmax(jax.vmap(functools.partial(_logits, variables))(pooled), axis=-1)


@pytest.mark.parametrize("name", ["avg", "max", "map-one"])
def test_padding_and_batches_change_nothing(name, x64):
    pooler = ALL[name]
    variables, z, labels = head_of(pooler, jax.random.key(5))
    for geometry in GEOMETRIES:
        radii = bounds.certify(pooler, variables, z, labels, geometry=geometry).radius
        padded, mask = pad(z[0], 1, 2, np.nan)
        alone = bounds.certify(pooler, variables, padded, labels[0], mask=mask, geometry=geometry)
        np.testing.assert_allclose(alone.radius, radii[0], rtol=1e-6)


@pytest.mark.parametrize("name", ["avg", "max", "map-one"])
def test_the_ball_of_all_tokens_together_is_the_smaller_one(name, x64):
    pooler = ALL[name]
    variables, z, labels = head_of(pooler, jax.random.key(6))
    whole, each = (
        bounds.certify(pooler, variables, z, labels, geometry=geometry).radius
        for geometry in ("frobenius", "tokens")
    )
    assert (each <= whole * (1 + 1e-6)).all()
    if name == "avg":
        np.testing.assert_allclose(whole, np.sqrt(NUM_TOKENS) * each, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "geometry"),
    list(itertools.product(KINDS, (*POOLERS, "lse", "map-one"), GEOMETRIES)),
)
def test_no_attack_on_a_block_succeeds_below_the_radius(kind, name, geometry, x64):
    """And what is certified is not far below what is found, for all three classes."""
    model = TBM(2, ALL[name], KINDS[kind])
    x = jax.random.normal(jax.random.key(0), (2, NUM_TOKENS, DIM))
    block = random_variables(model, jax.random.key(1), x[0])["params"]
    pooled = model.apply({"params": block}, x)
    kernel = jax.random.normal(jax.random.key(2), (pooled.shape[-1], CLASSES), float)
    variables = {"params": block | {"output": {"kernel": kernel}}}
    labels = jnp.argmax(pooled @ kernel, axis=-1)
    found = bounds.certify(model, variables, x, labels, geometry=geometry)
    assert (found.radius > 0).all()

    def logits(x, mask):
        return model.apply({"params": block}, x, mask) @ kernel

    found = measure.attacked(found, logits, x, jax.random.key(3), steps=30, restarts=2)
    assert (found.radius <= found.attacked).all()
    # Far from what is found; the constants of a whole domain are a hundred times as far.
    assert (found.radius >= 1e-4 * found.attacked)[jnp.isfinite(found.attacked)].all()


@pytest.mark.slow
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", ["bert", "vit", "decoder", "gpt2-l2-plain", "gpt2"])
def test_no_attack_on_a_backbone_succeeds_below_the_radius(name, geometry, x64):
    backbone = scrambled(ALL_FAMILIES[name]())
    params = jax.tree.map(lambda leaf: leaf.astype(float), backbone.params)
    embeddings, mask = backbone.embed(params, inputs(name, 2))
    pooler = pooling.AveragePool()
    maps = backbone.encode(params, embeddings, mask, return_weights=True).weights

    def pooled(x, mask):
        batched = None if mask is None else mask[None]
        return pooler.apply({}, backbone.encode(params, x[None], batched).states[0], mask)

    kernel = jax.random.normal(jax.random.key(2), (embeddings.shape[-1], CLASSES), float)
    masks = jnp.ones(embeddings.shape[:-1], bool) if mask is None else mask
    labels = jnp.argmax(jax.vmap(pooled)(embeddings, masks) @ kernel, axis=-1)
    found = bounds.certify(
        pooler,
        {"params": {"output": {"kernel": kernel}}},
        embeddings,
        labels,
        mask=masks,
        geometry=geometry,
        layers=backbone.layer_specs(params),
        weights=maps,
    )
    assert (found.radius > 0).all()
    found = measure.attacked(
        found,
        lambda x, mask: pooled(x, mask) @ kernel,
        embeddings,
        jax.random.key(3),
        mask=masks,
        steps=30,
        restarts=2,
    )
    assert (found.radius <= found.attacked).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "avg"}, r"model: expected a Pooler"),
        ({"variables": {}}, r'variables: expected parameters "output"'),
        (
            {"variables": {"params": {"output": {"kernel": {"kernel": jnp.eye(2)}}}}},
            r"variables: expected an output kernel of shape \(d_out, k\), got parameters by name",
        ),
        (
            {"variables": {"params": {"output": {"kernel": jnp.ones(2)}}}},
            r"variables: expected an output kernel of shape \(d_out, k\), got shape \(2,\)",
        ),
        ({"labels": jnp.array([0])}, r"labels: expected shape \(\)"),
        ({"labels": jnp.array(0.0)}, r"labels: expected an integer dtype"),
        ({"labels": jnp.array(2)}, r"labels: expected classes from 0 to 1, got 2"),
        ({"geometry": "cube"}, r"geometry: expected"),
        ({"layers": []}, r"layers: expected at least one"),
        ({"weights": [jnp.eye(2)]}, r"weights: expected None without layers"),
        ({"model": TBM(1, pooling.AveragePool())}, r"variables: expected parameters of a block"),
        ({"model": TBM(1, pooling.AveragePool()), "layers": []}, r"layers: expected None beside a TBM"),
        ({"model": pooling.UnitPool(pooling.AveragePool())}, r"pooler: expected one with a Lipschitz"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {
        "model": pooling.AveragePool(),
        "variables": {"params": {"output": {"kernel": jnp.eye(2)}}},
        "x": jnp.eye(2),
        "labels": jnp.array(0),
    } | change
    with pytest.raises(ValueError, match=message):
        bounds.certify(**arguments)
