"""Certified radii of query attention: known answers, and searches with peaked and flat attention."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolax import bounds, empirical, pooling

PROJECTIONS = {
    "frobenius": empirical.project_to_frobenius_ball,
    "tokens": empirical.project_to_ball,
}
WIDTH = 4


def head(key, num_tokens, logits=1.0, queries=1, heads=1, parallel=False):
    """A pooler with a head of two classes and tokens of the first of them; logits of this size."""
    keys = jax.random.split(key, 3)
    pooler = pooling.QueryAttentionPool(num_queries=queries, num_heads=heads)
    z = jax.random.normal(keys[0], (num_tokens, WIDTH), float)
    params = pooler.init(keys[1], z)["params"]
    params = jax.tree.map(lambda leaf: jax.random.normal(keys[2], leaf.shape, float), params)
    if parallel:
        # Values change along what logits change along.
        along = jnp.einsum("dhk,qhk->d", params["key"], params["query"])
        params["value"] = jnp.broadcast_to(along[:, None, None, None], params["value"].shape)
    params["query"] = logits * params["query"]
    pooled = pooler.apply({"params": params}, z)
    kernel = jnp.stack([jnp.sign(pooled), -jnp.sign(pooled)], axis=-1)
    return pooler, {"params": {"pooler": params, "output": {"kernel": kernel}}}, z


def lead(pooler, variables, z):
    params = variables["params"]
    logits = pooler.apply({"params": params["pooler"]}, z) @ params["output"]["kernel"]
    return logits[0] - logits[1]


def slope(variables):
    """Of the lead, where all values are read alike."""
    params = variables["params"]
    kernel = params["output"]["kernel"]
    values = params["pooler"]["value"]
    return float(jnp.linalg.norm(values.reshape(WIDTH, -1) @ (kernel[:, 0] - kernel[:, 1])))


@pytest.mark.parametrize("geometry", PROJECTIONS)
@pytest.mark.parametrize(("num_tokens", "logits"), [(1, 1.0), (7, 0.0)])
def test_one_token_and_no_query_are_linear(num_tokens, logits, geometry, x64):
    """Of one token the value counts alone, and without a query it is an average."""
    pooler, variables, z = head(jax.random.key(0), num_tokens, logits)
    found = bounds.certify(pooler, variables, z, jnp.array(0), geometry=geometry).radius
    linear = float(lead(pooler, variables, z)) / slope(variables)
    linear *= np.sqrt(num_tokens) if geometry == "frobenius" else 1
    assert 0.99 * linear <= found <= linear * (1 + 1e-9)


CASES = list(itertools.product(PROJECTIONS, (0.3, 3.0, 30.0), ((1, 1), (2, 2)), (2, 6), (False, True)))
DEFAULT = {
    ("frobenius", 3.0, (1, 1), 6, False),
    ("tokens", 30.0, (1, 1), 2, True),
    ("frobenius", 30.0, (2, 2), 6, False),
}


@pytest.mark.parametrize(
    ("geometry", "logits", "slices", "num_tokens", "parallel"),
    [case if case in DEFAULT else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_no_search_finds_less(geometry, logits, slices, num_tokens, parallel, x64):
    """Whatever attention is like; of one slice most of the way to what is found is certified.

    Where it is peaked, one token or another takes all of a change that all have together, and bounds
    that add up what each may take are further away.
    """

    @jax.jit
    def radius_and_leads(key):
        pooler, variables, z = head(key, num_tokens, logits, *slices, parallel)
        radius = bounds.certify(pooler, variables, z, jnp.array(0), geometry=geometry).radius
        search = functools.partial(
            empirical.pgd,
            lambda z: -lead(pooler, variables, z),
            z,
            jax.random.key(1),
            steps=60,
            restarts=8,
            project=PROJECTIONS[geometry],
        )
        return radius, search(radius=0.999 * radius).loss, search(radius=1.4 * radius).loss

    radii, below, above = jax.lax.map(radius_and_leads, jax.random.split(jax.random.key(2), 8))
    assert (radii > 0).all()
    assert (below < 0).all()
    if slices == (1, 1) and (geometry == "tokens" or logits < 30):
        assert np.mean(above >= 0) >= 0.5


def test_masks_and_float32():
    """Masked tokens are nowhere, and float32 certifies what float64 does, within its rounding."""
    pooler, variables, z = head(jax.random.key(3), 6, 3.0)
    variables, z = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (variables, z))
    mask = jnp.arange(6) < 4
    z = z.at[4:].set(jnp.nan)
    label = jnp.where(lead(pooler, variables, z[:4]) > 0, 0, 1)
    for geometry in PROJECTIONS:
        certify = functools.partial(bounds.certify, pooler, variables, labels=label, geometry=geometry)
        masked, cut = certify(x=z, mask=mask).radius, certify(x=z[:4]).radius
        np.testing.assert_allclose(masked, cut, rtol=1e-4)
        with jax.enable_x64(True):
            exact = bounds.certify(
                pooler,
                jax.tree.map(lambda leaf: jnp.asarray(leaf, float), variables),
                jnp.asarray(z[:4], float),
                label,
                geometry=geometry,
            ).radius
            np.testing.assert_allclose(cut, exact, rtol=2e-3)
            assert cut > 0
