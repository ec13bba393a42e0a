import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import FURTHER_POOLERS, POOLERS, PROBES, random_variables

from poolax import bounds, pooling
from poolax.bounds import TokenRange

DIM = 4
ALL = POOLERS | PROBES | FURTHER_POOLERS


@pytest.mark.parametrize("name", ALL)
def test_measured_is_within_the_bound(name, x64):
    """Over masks of every size, holes included: l2, l1 and coefficients; fixed poolers attain l2."""
    pooler = ALL[name]
    variables = random_variables(pooler, jax.random.key(0), jnp.zeros((12, DIM)))
    rng = np.random.default_rng(0)

    @jax.jit
    @jax.vmap
    def measure(z, mask, direction):
        jacobian = jax.jacrev(lambda z: pooler.apply(variables, z, mask))(z)  # (d, n, d)
        # A change that is as large in every row, in directions that ascend the output.
        common = direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)
        moved = jnp.linalg.norm(jnp.einsum("ind,nd->i", jacobian, common))
        return jnp.linalg.norm(jacobian.reshape(len(jacobian), -1), 2), moved

    for count in (1, 2, 5, 12):
        masks = np.zeros((20, 12), bool)
        for mask in masks:
            mask[rng.choice(12, count, replace=False)] = True
        z, direction = (jnp.asarray(rng.normal(size=(20, 12, DIM))) for _ in range(2))
        measured, moved = measure(z, jnp.asarray(masks), direction)
        sizes = {"num_tokens": count, "dim": DIM, "spread": bounds.domain_of(z, masks).spread}
        sharp = bounds.pooler(pooler, variables, **sizes)
        tight = bounds.pooler(pooler, variables, **sizes, method="tight")
        assert measured.max() <= tight.l2 <= sharp.l2 * (1 + 1e-12)
        assert moved.max() <= tight.l1 <= sharp.l1 * (1 + 1e-12)
        assert tight.linf is None or tight.linf <= tight.l2 * (1 + 1e-12)
        if name in ("first", "last", "avg", "sum", "max", "sqrt", "weightedmean", "l2") or (
            count == 12 and name.startswith("wavg")
        ):
            np.testing.assert_allclose(measured.max(), sharp.l2, rtol=1e-6)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in PROBES else pytest.mark.slow) for name in ALL]
)
def test_searched_inputs_and_parameters_stay_below(name, x64):
    """Ascends tokens, a direction of the output and, for half of the starts, parameters together."""
    pooler, num_tokens, scales = ALL[name], 5, (0.3, 1.0, 3.0)

    def start(key, scale):
        of_tokens, of_params, of_direction = jax.random.split(key, 3)
        z = jax.random.normal(of_tokens, (num_tokens, DIM))
        drawn = random_variables(pooler, of_params, jnp.zeros((12, DIM)))
        variables = jax.tree.map(lambda leaf: scale * leaf, drawn)
        width = jax.eval_shape(pooler.apply, variables, z).shape[-1]
        return z, variables, jax.random.normal(of_direction, (width,))

    def ratio(point, of_l1):
        z, variables, direction = point
        z = z / jnp.maximum(1, jnp.linalg.norm(z, axis=-1, keepdims=True))  # on the unit ball
        along = direction / jnp.linalg.norm(direction)
        pulled = jax.vjp(lambda z: pooler.apply(variables, z), z)[1](along)[0]
        rows = jnp.sqrt(jnp.sum(jnp.square(pulled), axis=-1) + 1e-300)
        sizes = {"num_tokens": num_tokens, "dim": DIM, "spread": 1.0, "method": "tight"}
        bound = bounds.pooler(pooler, variables, **sizes)
        # What changes of one length in each row, or of one length in all, can move along the direction.
        return jnp.where(of_l1, jnp.sum(rows) / bound.l1, jnp.linalg.norm(rows) / bound.l2)

    optimizer = optax.adam(0.05)

    @jax.jit
    @jax.vmap
    def search(key, scale, moves, of_l1):
        def step(carry, _):
            point, state = carry
            value, (of_z, of_variables, of_direction) = jax.value_and_grad(ratio)(point, of_l1)
            of_variables = jax.tree.map(lambda leaf: moves * leaf, of_variables)
            descent = jax.tree.map(jnp.negative, (of_z, of_variables, of_direction))
            updates, state = optimizer.update(descent, state)
            return (optax.apply_updates(point, updates), state), value

        point = start(key, scale)
        return jnp.max(jax.lax.scan(step, (point, optimizer.init(point)), length=120)[1])

    cases = np.array(list(itertools.product(scales, (0.0, 1.0), (False, True), range(3))))
    keys = jax.random.split(jax.random.key(0), len(cases))
    found = search(keys, cases[:, 0], cases[:, 1], cases[:, 2].astype(bool))
    assert np.isfinite(found).all()
    assert 0.5 < found.max() <= 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("normalize", ["softmax", "none"])
def test_weighted_average_bound_is_the_worst_set_of_positions(count, normalize, x64):
    for seed in range(10):
        logits = np.random.default_rng(seed).normal(scale=2.0, size=5)
        pooler = pooling.WeightedAveragePool(normalize=normalize)
        variables = {"params": {"weights": jnp.asarray(logits)}}
        bound = bounds.pooler(pooler, variables, num_tokens=count, dim=DIM)
        worst = 0.0
        for chosen in itertools.combinations(range(5), count):
            part = logits[list(chosen)]
            weights = np.exp(part) / np.exp(part).sum() if normalize == "softmax" else part
            worst = np.maximum(worst, [np.linalg.norm(weights), np.abs(weights).max()])
        np.testing.assert_allclose([bound.l2, bound.linf], worst, rtol=1e-9)


@pytest.mark.parametrize("name", POOLERS | PROBES)
def test_a_range_holds_for_every_length_in_it(name, x64):
    pooler = ALL[name]
    variables = random_variables(pooler, jax.random.key(1), jnp.zeros((12, DIM)))
    for method in ("sharp", "tight"):
        sizes = {"dim": DIM, "spread": 0.3, "method": method}
        bound = bounds.pooler(pooler, variables, num_tokens=TokenRange(2, 9), **sizes)
        for count in (2, 3, 5, 9):
            alone = bounds.pooler(pooler, variables, num_tokens=count, **sizes)
            assert alone.l2 <= bound.l2 * (1 + 1e-12)
            assert alone.l1 <= bound.l1 * (1 + 1e-12)
            assert alone.linf is None or alone.linf <= bound.linf * (1 + 1e-12)


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("method", ["sharp", "tight"])
def test_slopes_of_bounds_are_finite(name, method):
    """At random parameters and at zeros, for tokens that are equal or far apart."""
    pooler = PROBES[name]
    drawn = random_variables(pooler, jax.random.key(0), jnp.zeros((5, DIM)))

    @jax.jit
    @jax.grad
    def slope(variables, spread):
        sizes = {"num_tokens": TokenRange(2, 5), "dim": DIM, "method": method}
        bound = bounds.pooler(pooler, variables, spread=spread, **sizes)
        return bound.l2 + bound.l1

    for variables in (drawn, jax.tree.map(jnp.zeros_like, drawn)):
        for spread in (0.0, 1.0, 1e20):
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope(variables, spread)))


def test_known_values():
    def factors(name, **sizes):
        bound = bounds.pooler(name, **sizes)
        return pytest.approx(float(bound.l2), rel=1e-5), pytest.approx(float(bound.l1), rel=1e-5)

    assert factors("avg", num_tokens=16, dim=8) == (0.25, 1.0)
    assert factors("sum", num_tokens=16, dim=8) == (4.0, 16.0)
    assert factors("max", num_tokens=16, dim=4) == (1.0, 2.0)
    assert factors("last", num_tokens=16, dim=8) == factors("cls", num_tokens=3, dim=8) == (1.0, 1.0)
    assert factors("avg", num_tokens=TokenRange(4, 16), dim=8) == (0.5, 1.0)


def test_hybrid_mixes_the_bounds_of_its_parts(x64):
    inner = pooling.WeightedAveragePool()
    pooler = pooling.HybridPool((pooling.SumPool(), inner))
    variables = random_variables(pooler, jax.random.key(0), jnp.zeros((6, DIM)))
    params = variables["params"]
    shares = jax.nn.softmax(params["mixture"])
    bound = bounds.pooler(pooler, variables, num_tokens=6, dim=DIM)
    weights = jax.nn.softmax(params["poolers_1"]["weights"])
    expected = shares[0] * np.sqrt(6) + shares[1] * jnp.linalg.norm(weights)
    np.testing.assert_allclose(bound.l2, expected, rtol=1e-12)
    np.testing.assert_allclose(bound.l1, shares[0] * 6 + shares[1], rtol=1e-12)


def test_factor_in_both_norms():
    sizes = {"num_tokens": 9, "dim": 4}
    for norm, largest in (("frobenius", 1.0), ("operator", 2.0)):
        for pooler, expected in (("max", largest), ("sum", 3.0), (pooling.FirstPool(), 1.0)):
            factor = bounds.pooling_factor(pooler, **sizes, norm=norm)
            assert expected <= factor <= expected * (1 + 1e-5)
        factor = bounds.pooling_factor("wavg", **sizes, norm=norm, weights=jnp.full(9, 0.5))
        np.testing.assert_allclose(factor, 1.5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "factor"), [("first", 1), ("last", 1), ("avg", 1), ("sum", 6), ("max", 2)]
)
def test_factors_for_a_budget_for_each_token_are_attained(name, factor):
    """By tokens that all move along one direction and, for max, along one of their own each."""
    sizes = {"num_tokens": 6, "dim": 4}
    moved = jnp.zeros((6, 4)).at[:, 0].set(1.0)
    if name == "max":
        moved = jnp.eye(6, 4)
    pooler = pooling.from_name(name)
    length = jnp.linalg.norm(pooler.apply({}, moved) - pooler.apply({}, jnp.zeros((6, 4))))
    bound = bounds.pooling_factor(name, **sizes, norm="tokens")
    np.testing.assert_allclose([length, bound], factor, rtol=1e-5)
    assert length <= bound


def test_a_user_registers_a_pooler():
    class ScaledSum(pooling.Pooler):
        factor: float = 2.0

        def __call__(self, z, mask=None):
            return self.factor * pooling.sum_pool(z, mask)

    with pytest.raises(ValueError, match=r"pooler: expected one whose bound is known .*got ScaledSum"):
        bounds.pooler(ScaledSum(), num_tokens=4, dim=DIM)

    @bounds.register_pooler(ScaledSum)
    def _(pooler, variables, *, num_tokens, dim, spread):
        root = jnp.sqrt(num_tokens.high)
        return bounds.PoolerBound(l2=pooler.factor * root, l1=pooler.factor * num_tokens.high)

    np.testing.assert_allclose(bounds.pooler(ScaledSum(3.0), num_tokens=4, dim=DIM).l2, 6.0, rtol=1e-5)


def test_a_user_registers_a_tight_rule():
    class Halved(pooling.Pooler):
        def __call__(self, z, mask=None):
            return pooling.average_pool(z, mask) / 2

    def rule(l2):
        return lambda pooler, variables, *, num_tokens, dim, spread: bounds.PoolerBound(l2=l2, l1=1.0)

    bounds.register_pooler(Halved, tight=rule(0.25))(rule(0.5))
    mixed = pooling.HybridPool((Halved(), pooling.FirstPool()))
    variables = {"params": {"mixture": jnp.zeros(2)}}
    for method, l2 in (("sharp", 0.5), ("tight", 0.25)):
        sizes = {"num_tokens": 4, "dim": DIM, "method": method}
        np.testing.assert_allclose(bounds.pooler(Halved(), **sizes).l2, l2, rtol=1e-5)
        np.testing.assert_allclose(bounds.pooler(mixed, variables, **sizes).l2, (l2 + 1) / 2, rtol=1e-5)


def test_latent_attention_is_bounded_with_its_own_epsilon(monkeypatch):
    pooler = pooling.LatentAttentionPool(num_latents=3, num_heads=2, use_norm=True)
    z = jax.random.normal(jax.random.key(0), (5, DIM))
    variables = pooler.init(jax.random.key(1), z)
    sizes = {"num_tokens": 5, "dim": DIM}
    before, pooled = bounds.pooler(pooler, variables, **sizes).l2, pooler.apply(variables, z)
    monkeypatch.setattr(pooling.LatentAttentionPool, "epsilon", 1.0)
    assert bounds.pooler(pooler, variables, **sizes).l2 < before / 1000
    assert not np.allclose(pooler.apply(variables, z), pooled)


def test_a_subclass_does_not_inherit_a_bound():
    class Loud(pooling.AveragePool):
        def __call__(self, z, mask=None):
            return 10 * pooling.average_pool(z, mask)

    for call in (
        lambda: bounds.pooler(Loud(), num_tokens=4, dim=DIM),
        lambda: bounds.pooling_factor(Loud(), num_tokens=4, dim=DIM),
        lambda: bounds.pooled_block(Loud(), attention=1.0, ffn=1.0, dim=DIM, num_tokens=4),
    ):
        with pytest.raises(ValueError, match=r"pooler: expected one whose bound is known .*got Loud"):
            call()


@pytest.mark.parametrize("normalize", ["softmax", "none"])
def test_jit_vmap_grad(normalize):
    pooler = pooling.WeightedAveragePool(normalize=normalize)

    def bound(weights, low):
        variables = {"params": {"weights": weights}}
        return bounds.pooler(pooler, variables, num_tokens=TokenRange(low, 5), dim=DIM).l2

    weights = jnp.array([0.1, 2.0, -1.0, 0.0, 0.3])
    curve = jax.jit(jax.vmap(bound, in_axes=(None, 0)))(weights, jnp.arange(1, 6))
    np.testing.assert_allclose(curve[2], bound(weights, 3), rtol=1e-6)
    for at in (weights, jnp.zeros(5)):
        assert np.isfinite(jax.grad(bound)(at, 3)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: bounds.pooler("attn", num_tokens=4, dim=8),
            r"variables: expected what LatentAttentionPool.init returned",
        ),
        (
            lambda: bounds.pooler("map", num_tokens=4, dim=8),
            r"spread: expected half of .* for QueryAttentionPool, got None",
        ),
        (lambda: bounds.pooler("wavg", num_tokens=4, dim=8), r"variables: expected what Weighted"),
        (
            lambda: bounds.pooler("wavg", {"params": {"weights": jnp.ones(3)}}, num_tokens=4, dim=8),
            r"num_tokens: expected at most max_tokens = 3, got 4",
        ),
        (lambda: bounds.pooler("avg", num_tokens=0, dim=8), r"num_tokens: .* >= 1, got 0"),
        (lambda: bounds.pooler("avg", num_tokens=4, dim=0), r"dim: .* >= 1, got 0"),
        (
            lambda: bounds.pooling_factor("max", num_tokens=4, dim=8, norm="nuclear"),
            r"norm: expected one of 'frobenius', 'operator', 'tokens', got 'nuclear'",
        ),
        (
            lambda: bounds.pooling_factor("wavg", num_tokens=4, dim=8),
            r"weights: expected the weights of the weighted average, got None",
        ),
        (
            lambda: bounds.pooling_factor("avg", num_tokens=4, dim=8, weights=jnp.ones(4)),
            r"weights: expected None for AveragePool",
        ),
        (
            lambda: bounds.pooling_factor(
                "wavg", num_tokens=TokenRange(1, 4), dim=8, weights=jnp.ones(4)
            ),
            r"weights: expected one for each of num_tokens tokens, got 4 weights for num_tokens = 1 to 4",
        ),
        (lambda: bounds.pooler("avg", num_tokens=4, dim=8, spread=-1.0), r"spread: .*got -1"),
        (
            lambda: jax.jit(
                lambda w: bounds.pooler("wavg", {"params": {"weights": w}}, num_tokens=5, dim=8).l2
            )(jnp.ones(3)),
            r"num_tokens: expected at most max_tokens = 3, got 5",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
