import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from helpers import (
    KINDS,
    POOLERS,
    PROBES,
    PUBLISHED,
    exact_norm,
    pad,
    random_tokens,
    random_variables,
)

from poolax import blocks, bounds, empirical, pooling
from poolax._activations import gelu, gelu_tanh, quick_gelu
from poolax.bounds._activations import activation_lipschitz

DIM = 4
# Poolers that the search is compiled for; compiling it takes most of a test's time.
SEARCHED = ("avg", "max", "attn", "map", *PROBES)


GELU = functools.partial(nn.gelu, approximate=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", [*POOLERS, *(pytest.param(name, marks=pytest.mark.slow) for name in PROBES)]
)
def test_sandwich(kind, name, x64):
    """measured <= local and measured <= tight <= sharp <= published, for all masks and sizes."""
    radius, length = 1.5, 8
    activation = GELU if name in ("avg", "max") else nn.relu
    # Nothing was published for biases; they are tried where nothing was for the pooler either.
    pooler = (POOLERS | PROBES)[name]
    model = blocks.TBM(2, pooler, KINDS[kind], activation, use_bias=name not in PUBLISHED)
    start = random_tokens(jax.random.key(0), length, DIM, radius)
    rng = np.random.default_rng(0)

    @jax.jit
    @jax.vmap
    def measure(variables, mask, key):
        def pooled(x):
            return model.apply(variables, x, mask)

        # Two opposite clusters are what a search often ends in.
        points = [start, radius * jnp.sign(start[:, :1]) * jax.nn.one_hot(0, DIM)]
        if name in SEARCHED:
            search = {"project": empirical.project_to_ball(radius), "key": key}
            found = empirical.maximize_jacobian_norm(
                pooled, start, **search, num_restarts=4, num_steps=30
            )
            points[1] = found.x

        def at(x):
            local = bounds.local_tbm(model, variables, x, mask).lipschitz
            return empirical.jacobian_norm(pooled, x), local

        return jax.lax.map(at, jnp.stack(points))

    @jax.jit
    @jax.vmap
    def bound(variables, mask):
        sizes = {"num_tokens": jnp.sum(mask), "radius": radius}
        return [
            bounds.tbm(model, variables, **sizes, method=method).lipschitz
            for method in ("sharp", "tight")
        ]

    variables, masks = [], []
    for count in (1, 2, 5, 8):
        for scale in (0.1, 1.0, 3.0):
            drawn = random_variables(model, jax.random.key(count), jnp.zeros((12, DIM)), scale=scale)
            variables.append(drawn)
            mask = np.zeros(length, bool)
            # Padding on both sides for one scale, holes for the others.
            chosen = np.arange(2, 2 + count) if scale == 1 else rng.permutation(length)[:count]
            mask[chosen % length] = True
            masks.append(mask)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *variables)
    norms, local = measure(stacked, jnp.stack(masks), jax.random.split(jax.random.key(0), len(masks)))
    sharp, tight = bound(stacked, jnp.stack(masks))
    exact = 1 + 1e-9
    assert (norms[:, 0] > 0).all()
    assert (norms <= local * exact).all()
    assert (norms.max(axis=1) <= tight).all()
    assert (tight <= sharp * exact).all()
    sizes = {"num_tokens": 5, "radius": radius, "method": "published"}
    if name in PUBLISHED:
        published = bounds.tbm(model, variables[7], **sizes)
        assert sharp[7] <= published.lipschitz
        assert published.method == "published"
    else:
        with pytest.raises(ValueError, match=r"nothing was published"):
            bounds.tbm(model, variables[7], **sizes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["avg", "wavg", "sum", "max"])
def test_a_range_of_lengths_holds_for_every_length_in_it(kind, name, x64):
    model = blocks.TBM(2, POOLERS[name], KINDS[kind])
    variables = random_variables(model, jax.random.key(3), jnp.zeros((12, DIM)))
    both = bounds.tbm(model, variables, num_tokens=bounds.TokenRange(1, 12), radius=1.0)
    for count in (1, 4, 12):
        x = random_tokens(jax.random.key(count), count, DIM, 1.0)
        assert exact_norm(lambda x: model.apply(variables, x), x) <= both.lipschitz
        alone = bounds.tbm(model, variables, num_tokens=count, radius=1.0)
        assert alone.lipschitz <= both.lipschitz


def test_the_bound_at_the_padded_length_is_no_bound(x64):
    # One valid token of sixteen: the average of one token moves as much as the token.
    model = blocks.TBM(1, pooling.AveragePool())
    params = model.init(jax.random.key(0), jnp.zeros((16, DIM)))["params"]
    params = jax.tree.map(lambda leaf: 0.1 * leaf.astype(float), params)
    params["norm1"]["scale"] = params["norm2"]["scale"] = jnp.ones(DIM)
    x, mask = pad(random_tokens(jax.random.key(1), 1, DIM, 1.0), 0, 15, 0.0)
    measured = exact_norm(lambda x: model.apply({"params": params}, x, mask), x)
    at_16 = bounds.tbm(model, {"params": params}, num_tokens=16, radius=1.0).lipschitz
    at_1 = bounds.tbm(model, {"params": params}, num_tokens=1, radius=1.0).lipschitz
    assert at_16 < measured <= at_1


def test_a_bound_is_the_product_of_its_factors(x64):
    attention = bounds.AttentionBound(7.0, 3.0, 1.5, 0.5, "sharp", "test")
    for name in PUBLISHED:
        bound = bounds.pooled_block(
            name, attention=attention, ffn=2.0, dim=DIM, num_tokens=9, norm_scale=jnp.array([2.0, 3.0])
        )
        product = bound.pooling_factor * bound.norm_factor * bound.c1 * bound.c2
        np.testing.assert_allclose(bound.lipschitz, product, rtol=1e-12)
        np.testing.assert_allclose(bound.log_lipschitz, np.log(product), rtol=1e-12)
        assert bound.log_lipschitz >= np.log(product)
        np.testing.assert_allclose(bound.norm_factor, 6.0 * (4 / 3) ** 2, rtol=1e-12)
        assert bound.c1 == 1 + bound.attention
        assert bound.c2 == 3.0


def test_peaked_weights_lose_the_root_of_n(x64):
    # theory: n = 128, S = B = 1, |w|_2 = 0.5 gives 2.0 instead of 6.7
    attention = bounds.AttentionBound(np.sqrt(128.0) + 1, 2.0, 1.0, 1.0, "sharp", "test")
    reads = bounds.PoolerBound(l2=0.5, l1=1.0)
    block = {"ffn": 0.0, "dim": 10**6, "num_tokens": 128}
    bound = bounds.pooled_block(reads, attention=attention, **block)
    np.testing.assert_allclose(bound.lipschitz, 2.0, rtol=1e-5)
    separate = bounds.pooled_block(reads, attention=attention.sequence, **block)
    np.testing.assert_allclose(separate.lipschitz, 0.5 * (2 + np.sqrt(128)), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_poolers_on_one_block_are_as_poolers_on_blocks_of_their_own(kind, x64):
    """Refusals included: what a pooler lacks is told when it comes, and not by its block."""
    x = random_tokens(jax.random.key(0), 12, 4, 1.0)
    sizes = {"num_tokens": bounds.TokenRange(3, 12), "radius": 1.0}
    whole = blocks.TBM(2, POOLERS["avg"], KINDS[kind])
    variables = random_variables(whole, jax.random.key(1), x)
    for method in ("sharp", "tight", "published"):
        block = bounds.block(whole, variables, **sizes, method=method)
        for name, pooler in POOLERS.items():
            if method == "published" and name not in PUBLISHED:
                with pytest.raises(ValueError, match=r"pooler: expected first, .* for method 'pub"):
                    bounds.with_pooler(block, pooler)
                continue
            own = random_variables(pooler, jax.random.key(2), x)
            params = variables["params"] | {"pooler": own.get("params", {})}
            model = blocks.TBM(2, pooler, KINDS[kind])
            expected = bounds.tbm(model, {"params": params}, **sizes, method=method)
            chex.assert_trees_all_equal(bounds.with_pooler(block, pooler, own), expected)
    block, weights = bounds.block(whole, variables, **sizes), {"params": {"weights": jnp.ones(3)}}
    with pytest.raises(ValueError, match=r"num_tokens: expected at most max_tokens = 3, got 12"):
        bounds.with_pooler(block, "wavg", weights)
    reads = bounds.pooler("avg", num_tokens=sizes["num_tokens"], dim=4)
    chex.assert_trees_all_equal(bounds.with_pooler(block, reads), bounds.with_pooler(block, "avg"))
    with pytest.raises(ValueError, match=r"variables: expected None beside a PoolerBound, got keys"):
        bounds.with_pooler(block, reads, weights)


def test_given_weights():
    weights = jnp.array([3.0, -4.0])
    block = {"attention": 1.0, "ffn": 0.0, "dim": 2, "num_tokens": 2}
    bound = bounds.pooled_block("wavg", weights=weights, **block)
    np.testing.assert_allclose(bound.lipschitz, 5.0 * 4 * 2, rtol=1e-4)
    nothing = bounds.pooled_block("wavg", weights=jnp.zeros(2), **block)
    assert nothing.lipschitz == 0
    assert nothing.log_lipschitz == -np.inf


def test_expressivity():
    bound = bounds.pooled_block("last", attention=0.0, ffn=0.0, dim=2, num_tokens=3)
    assert abs(bound.lipschitz - 4) < 1e-4
    vacuous, certain = bound.gamma(1.0, 2.0), bound.gamma(0.1, 2.0)
    np.testing.assert_allclose([vacuous.gamma, vacuous.upper], [2.0, 1.0], rtol=1e-4)
    assert not vacuous.certified_zero
    np.testing.assert_allclose([certain.gamma, certain.upper], [0.2, 0.2], rtol=1e-4)
    assert certain.certified_zero
    assert bound.gamma(0.0, 1.0).gamma == 0
    endless = bounds.pooled_block("last", attention=3e38, ffn=3e38, dim=2, num_tokens=3)
    assert endless.lipschitz == np.inf
    assert np.isfinite(endless.log_lipschitz)
    assert endless.gamma(0.0, 1.0).gamma == 0
    curve = jax.vmap(bound.gamma, in_axes=(0, None))(jnp.linspace(0, 1, 5), 1.0)
    assert (jnp.diff(curve.gamma) > 0).all()
    assert bound.gamma(jnp.linspace(0, 1, 5), 1.0).gamma.shape == (5,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0, 1.0), r"epsilon: expected a finite number >= 0, got -1"),
        ((np.nan, 1.0), r"epsilon: expected a finite number >= 0, got nan"),
        ((1.0, 0.0), r"sigma: expected a finite number > 0, got 0"),
        ((1.0, -2.0), r"sigma: expected a finite number > 0, got -2"),
        ((1.0, np.nan), r"sigma: expected a finite number > 0, got nan"),
    ],
)
def test_bad_expressivity_arguments_are_named(arguments, message):
    bound = bounds.pooled_block("last", attention=0.0, ffn=0.0, dim=2, num_tokens=3)
    with pytest.raises(ValueError, match=message):
        bound.gamma(*arguments)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["max", "wavg", "hybrid"])
def test_jit_vmap_grad(kind, name):
    model = blocks.TBM(2, POOLERS[name], KINDS[kind], use_bias=True)
    variables = random_variables(model, jax.random.key(0), jnp.zeros((12, DIM)))

    def bound(variables, num_tokens, radius):
        return bounds.tbm(model, variables, num_tokens=num_tokens, radius=radius)

    whole = jax.jit(bound)(variables, 5, 1.0)
    np.testing.assert_allclose(whole.lipschitz, bound(variables, 5, 1.0).lipschitz, rtol=1e-5)
    curve = jax.vmap(bound, in_axes=(None, 0, None))(variables, jnp.arange(1, 12), 1.0)
    assert curve.lipschitz.shape == (11,)
    for at in (variables, jax.tree.map(jnp.zeros_like, variables)):
        for output in ("lipschitz", "log_lipschitz"):
            gradient = jax.grad(lambda v, o=output: getattr(bound(v, 5, 1.0), o))(at)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [0.03, 1.0, 5.0])
def test_single_precision_is_within_a_ten_thousandth_of_double(kind, scale):
    model = blocks.TBM(2, POOLERS["hybrid"], KINDS[kind], use_bias=True)
    variables = random_variables(model, jax.random.key(0), jnp.zeros((6, 8)), scale=scale)
    x = random_tokens(jax.random.key(1), 6, 8, 1.0)

    def every_bound(variables, x):
        sizes = {"num_tokens": 6, "radius": 1.0, "spread": 0.7}
        found = [bounds.local_tbm(model, variables, x)]
        found += [bounds.tbm(model, variables, **sizes, method=method) for method in ("sharp", "tight")]
        parts = variables["params"]["attention"]
        bare = {name: {"kernel": part["kernel"]} for name, part in parts.items()}
        published = bounds.attention(KINDS[kind], bare, **sizes, method="published")
        return [*(bound.lipschitz for bound in found), published.sequence]

    single = every_bound(variables, x)
    with jax.enable_x64(True):
        double = every_bound(
            *jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, float)), (variables, x))
        )
    np.testing.assert_allclose(single, double, rtol=1e-4)


def test_activations():
    def steepest(fn):
        slope = jax.grad(fn)
        with jax.enable_x64(True):
            found = scipy.optimize.minimize_scalar(
                lambda x: -float(slope(x)), bounds=(0, 4), method="bounded", options={"xatol": 1e-10}
            )
        return -found.fun

    for activation in (GELU, gelu, gelu_tanh, quick_gelu, nn.gelu, jax.nn.gelu, nn.silu, nn.swish):
        known = activation_lipschitz(activation)
        assert steepest(activation) <= known <= steepest(activation) * (1 + 1e-6)
    assert activation_lipschitz(nn.relu) == activation_lipschitz(jnp.tanh) == 1.0
    for unknown in (jnp.exp, lambda x: x, functools.partial(nn.gelu, True)):
        with pytest.raises(ValueError, match=r"activation: expected one whose Lipschitz .*relu, tanh"):
            activation_lipschitz(unknown)


MODEL = blocks.TBM(2, pooling.AveragePool())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 1}, r"d: expected d >= 2 for CenterNorm's d / \(d - 1\), got 1"),
        ({"dim": 0}, r"dim: expected a whole number >= 1, got 0"),
        ({"attention": -1.0}, r"attention: expected a finite number >= 0, got -1"),
        ({"attention": np.ones(3)}, r"attention: expected an AttentionBound or a number"),
        ({"attention_per_token": np.nan, "pooler": "last"}, r"attention_per_token: .*got nan"),
        ({"ffn": -1.0}, r"ffn: expected a finite number >= 0, got -1"),
        ({"ffn": np.ones(3)}, r"ffn: expected a number or a kernel \(8, 8\), got shape \(3,\)"),
        ({"ffn": np.ones((3, 7))}, r"ffn: expected a number or a kernel \(8, 8\), got shape \(3, 7\)"),
        ({"attention_per_token": -1.0}, r"attention_per_token: expected a finite number >= 0, got -1"),
        ({"pooler": bounds.PoolerBound(l2=-1.0, l1=1.0)}, r"pooler.l2: expected a finite number >= 0"),
        ({"method": "published", "weights": np.ones(4)}, r"weights: expected None for method"),
        ({"norm_scale": -1.0}, r"norm_scale: expected a finite number >= 0"),
        ({"norm_scale": np.ones(3)}, r"norm_scale: expected one number or two, got shape \(3,\)"),
        ({"method": "best"}, r"method: expected one of 'published', 'sharp', 'tight', got 'best'"),
        ({"pooler": "attn"}, r"variables: expected what LatentAttentionPool.init returned"),
        ({"pooler": "map"}, r"spread: expected half of the largest distance between pooled tokens"),
        ({"pooler": "mean"}, r"name: expected one of cls"),
        ({"pooler": "attn", "method": "published"}, r"pooler: .*nothing was published for it"),
        (
            {"pooler": bounds.PoolerBound(l2=1.0, l1=1.0), "weights": np.ones(3)},
            r"weights: expected None beside a PoolerBound",
        ),
        (
            {"attention": bounds.AttentionBound(1.0, None, None, None, "published", "")},
            r"attention: expected a sharp bound for method 'sharp'",
        ),
        (
            {
                "attention": bounds.AttentionBound(1.0, 1.0, 1.0, 1.0, "sharp", ""),
                "method": "published",
            },
            r"attention: expected a published bound for method 'published'",
        ),
        (
            {
                "attention": bounds.AttentionBound(1.0, 1.0, 1.0, 1.0, "sharp", ""),
                "attention_per_token": 1.0,
            },
            r"attention_per_token: expected None beside an AttentionBound",
        ),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = {"pooler": "avg", "attention": 1.0, "ffn": 1.0, "dim": 8, "num_tokens": 4} | changes
    with pytest.raises(ValueError, match=message):
        bounds.pooled_block(**arguments)


def test_bad_models_are_named():
    variables = MODEL.init(jax.random.key(0), jnp.zeros((4, 8)))
    with pytest.raises(ValueError, match=r"model: expected a TBM, got AveragePool"):
        bounds.tbm(pooling.AveragePool(), variables, num_tokens=4, radius=1.0)
    for wrong in (variables["params"], {"params": {}}, None):
        with pytest.raises(ValueError, match=r"variables: expected what TBM.init returned"):
            bounds.tbm(MODEL, wrong, num_tokens=4, radius=1.0)
    with pytest.raises(ValueError, match=r"radius: expected the largest token norm, got None"):
        bounds.tbm(MODEL, variables, num_tokens=4)
    odd = blocks.TBM(2, pooling.AveragePool(), activation=jnp.exp)
    with pytest.raises(ValueError, match=r"activation: expected one whose Lipschitz constant"):
        bounds.tbm(odd, variables, num_tokens=4, radius=1.0)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, variables)
    with pytest.raises(ValueError, match=r"expected finite values"):
        bounds.tbm(MODEL, broken, num_tokens=4, radius=1.0)


@pytest.mark.parametrize("method", ["sharp", "tight"])
@pytest.mark.parametrize("name", ["avg", "max", "wavg", "attn", "map"])
def test_a_bias_that_is_not_a_number_gives_no_bound(name, method):
    """Also where the pooler's bound would not read what the bias enters."""
    model = blocks.TBM(2, pooling.from_name(name), use_bias=True)
    variables = model.init(jax.random.key(0), jnp.ones((4, 8)))
    ffn = variables["params"]["ffn"]
    bad = {**variables["params"], "ffn": {**ffn, "bias": ffn["bias"] * jnp.nan}}
    with pytest.raises(ValueError, match=r"got nan"):
        bounds.tbm(model, {"params": bad}, num_tokens=4, radius=1.0, method=method)
