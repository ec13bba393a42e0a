import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import POOLERS, PROBES, assert_close, pad, random_variables
from hypothesis import given
from hypothesis import strategies as st

from poolax import blocks, pooling
from poolax.pooling._attentive import _is_folding_cheaper

DIM = 8
POOLERS = POOLERS | PROBES
every_pooler = pytest.mark.parametrize("name", POOLERS)


def variables_of(pooler, key=0, num_tokens=12, dim=DIM):
    return random_variables(pooler, jax.random.key(key), jnp.zeros((num_tokens, dim)))


def tokens(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@every_pooler
@given(
    num_tokens=st.integers(1, 6),
    left=st.integers(0, 3),
    right=st.integers(0, 3),
    fill=st.sampled_from([0.0, 7.0, np.nan, np.inf, -np.inf]),
    seed=st.integers(0, 5),
)
def test_padding_changes_nothing(name, num_tokens, left, right, fill, seed):
    pooler = POOLERS[name]
    variables = variables_of(pooler)
    z = tokens(seed, num_tokens, DIM)
    alone = pooler.apply(variables, z)
    padded = pooler.apply(variables, *pad(z, left, right, fill))
    assert_close(padded, alone)


@every_pooler
def test_a_batch_gives_what_its_rows_give_one_by_one(name):
    pooler = POOLERS[name]
    variables = variables_of(pooler)
    z = tokens(0, 2, 3, 7, DIM)
    mask = np.random.default_rng(1).random((2, 3, 7)) < 0.6
    together = pooler.apply(variables, z, mask)
    chex.assert_shape(together, (2, 3, DIM))
    for place in np.ndindex(2, 3):
        alone = pooler.apply(variables, z[place], mask[place])
        assert_close(together[place], alone)


@every_pooler
@pytest.mark.parametrize("fill", [1.0, np.nan, np.inf])
def test_masked_tokens_reach_no_gradient(name, fill):
    pooler = POOLERS[name]
    variables = variables_of(pooler)
    z, mask = pad(tokens(0, 4, DIM), 2, 1, fill)
    gradient, of_variables = jax.grad(
        lambda z, v: jnp.sum(jnp.sin(pooler.apply(v, z, mask))), argnums=(0, 1)
    )(z, variables)
    assert np.isfinite(gradient).all()
    assert not gradient[~mask].any()
    assert gradient[mask].any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(of_variables))


@every_pooler
@pytest.mark.parametrize("fill", [1.0, np.nan])
def test_a_sequence_without_tokens_pools_to_zeros_without_gradient(name, fill):
    pooler = POOLERS[name]
    variables = variables_of(pooler)
    z = np.stack([np.full((5, DIM), fill, np.float32), tokens(0, 5, DIM)])
    mask = np.array([[False] * 5, [True] * 5])

    def pooled(z, variables):
        return pooler.apply(variables, z, mask)

    assert not pooled(z, variables)[0].any()
    gradient, of_variables = jax.grad(lambda *a: jnp.sum(jnp.square(pooled(*a))), (0, 1))(
        jnp.asarray(z), variables
    )
    assert not gradient[0].any()
    assert np.isfinite(gradient).all()
    chex.assert_tree_all_finite(of_variables)
    _, tangent = jax.jvp(lambda z: pooled(z, variables), (jnp.asarray(z),), (jnp.ones_like(z),))
    assert not tangent[0].any()


@pytest.mark.parametrize("use_norm", [False, True])
def test_folded_kernels_change_nothing(use_norm, x64):
    """Kernels are multiplied into the dictionary for all tokens together, not for those of one example."""
    assert _is_folding_cheaper(100, 16, 2, 4)
    assert not _is_folding_cheaper(2, 16, 2, 4)
    pooler = pooling.LatentAttentionPool(num_latents=4, num_heads=2, use_norm=use_norm)
    rng = np.random.default_rng(0)
    z, mask = rng.normal(size=(50, 2, 16)), rng.uniform(size=(50, 2)) < 0.7
    variables = pooler.init(jax.random.key(0), z)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), variables)

    def together(variables):
        return pooler.apply(variables, z, mask, return_weights=True)

    def alone(variables):
        one = functools.partial(pooler.apply, variables, return_weights=True)
        return jax.lax.map(lambda example: one(*example), (z, mask))

    def gradient(of):
        return jax.jit(jax.grad(lambda v: sum(jnp.sum(jnp.sin(part)) for part in of(v))))(variables)

    chex.assert_trees_all_close(together(variables), alone(variables), rtol=1e-9, atol=1e-12)
    chex.assert_trees_all_close(gradient(together), gradient(alone), rtol=1e-8, atol=1e-10)


@every_pooler
def test_dtype_in_is_dtype_out(name, x64):
    pooler = POOLERS[name]
    variables = variables_of(pooler)
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64):
        z = jnp.ones((12, DIM), dtype)
        assert pooler.apply(variables, z).dtype == dtype
        assert all(
            leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(pooler.init(jax.random.key(0), z))
        )


@pytest.mark.parametrize("name", ["avg", "sum", "wavg-raw"])
def test_sums_are_accumulated_in_at_least_float32(name, x64):
    # A running sum in bfloat16 stalls at 256.
    ones = jnp.ones((1000, 1), jnp.bfloat16)
    pooler = {
        "avg": pooling.average_pool,
        "sum": lambda z: pooling.sum_pool(z) / 1000,
        "wavg-raw": lambda z: pooling.weighted_average_pool(z, jnp.full(1000, 1e-3)),
    }[name]
    assert abs(float(pooler(ones)[0]) - 1) < 0.01
    # Seven digits would lose the small term.
    z = jnp.array([[1e9], [1.0], [-1e9]])
    assert pooling.sum_pool(z)[0] == 1.0


def test_pure_functions_against_numpy():
    z = tokens(0, 5, 9, DIM)
    mask = np.random.default_rng(2).random((5, 9)) < 0.5
    mask[:, 3] = True
    weights = tokens(1, 9)
    for row in range(5):
        real = z[row][mask[row]]
        expected = {
            "first": real[0],
            "last": real[-1],
            "average": real.mean(0),
            "sum": real.sum(0),
            "max": real.max(0),
        }
        for name, value in expected.items():
            pooled = getattr(pooling, f"{name}_pool")(z, mask)[row]
            np.testing.assert_allclose(pooled, value, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            pooling.weighted_average_pool(z, weights, mask)[row],
            weights[mask[row]] @ real,
            rtol=1e-5,
            atol=1e-6,
        )


@given(seed=st.integers(0, 20))
def test_pooled_vectors_of_fixed_poolers_ignore_the_order_of_tokens(seed):
    z = tokens(seed, 6, DIM)
    order = np.random.default_rng(seed).permutation(6)
    for pool in (pooling.average_pool, pooling.sum_pool, pooling.max_pool):
        np.testing.assert_allclose(pool(z), pool(z[order]), rtol=1e-5, atol=1e-6)


def test_max_shares_the_gradient_of_ties():
    gradient = jax.grad(lambda z: pooling.max_pool(z).sum())(jnp.ones((4, 2)))
    np.testing.assert_allclose(gradient, 0.25)


def test_the_derivative_of_max_is_the_same_however_it_is_compiled():
    # Without optimisation XLA computes the tokens twice, rounded otherwise, and none equals the maximum.
    model = blocks.TBM(num_heads=2, pooler=pooling.MaxPool())
    z = 0.2 * jax.random.normal(jax.random.key(0), (4, 8))
    variables = model.init(jax.random.key(1), z)

    def derivative(z):
        return jax.jvp(lambda z: model.apply(variables, z), (z,), (z,))[1]

    plain = jax.jit(derivative, compiler_options={"xla_backend_optimization_level": 0})(z)
    assert_close(plain, jax.jit(derivative)(z))


def test_weights_stand_for_offsets_from_the_first_real_token():
    pooler = pooling.WeightedAveragePool(max_tokens=4)
    variables = {"params": {"weights": jnp.log(jnp.array([1.0, 2.0, 3.0, 4.0]))}}
    z = jnp.eye(4)
    mask = jnp.array([False, True, True, False])
    pooled, weights = pooler.apply(variables, z, mask, return_weights=True)
    np.testing.assert_allclose(weights, [0, 1 / 3, 2 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(pooled, weights, rtol=1e-6)


def test_a_hole_keeps_its_position():
    pooler = pooling.WeightedAveragePool(max_tokens=3, normalize="none")
    variables = {"params": {"weights": jnp.array([1.0, 10.0, 100.0])}}
    pooled = pooler.apply(variables, jnp.ones((3, 1)), jnp.array([True, False, True]))
    np.testing.assert_allclose(pooled, [101.0])


@pytest.mark.parametrize("normalize", ["softmax", "none"])
def test_weighted_average_starts_as_the_average(normalize):
    pooler = pooling.WeightedAveragePool(normalize=normalize)
    z = tokens(0, 6, DIM)
    variables = pooler.init(jax.random.key(0), z)
    assert variables["params"]["weights"].shape == (6,)
    np.testing.assert_allclose(pooler.apply(variables, z), z.mean(0), rtol=1e-5, atol=1e-6)
    assert pooler.apply(variables, z[:2]).shape == (DIM,)
    with pytest.raises(ValueError, match=r"z: expected at most max_tokens = 6 tokens, got n = 7"):
        pooler.apply(variables, np.zeros((7, DIM), np.float32))


def test_latent_attention_weights_sum_to_one_over_latents():
    pooler = POOLERS["attn"]
    variables = variables_of(pooler)
    z, mask = pad(tokens(0, 4, DIM), 1, 1, np.nan)
    _, weights = pooler.apply(variables, z, mask, return_weights=True)
    chex.assert_shape(weights, (2, 6, 5))
    np.testing.assert_allclose(weights.sum(-1), np.broadcast_to(np.asarray(mask), (2, 6)), rtol=1e-5)


def test_latent_attention_against_the_textbook(x64):
    pooler = POOLERS["attn"]
    variables = variables_of(pooler)
    p = jax.tree.map(np.asarray, variables["params"])
    z = np.random.default_rng(0).normal(size=(6, DIM))
    tokens_out = z.copy()
    for h in range(2):
        q = z @ p["query"][:, h]
        k, v = (p["latents"] @ p[name][:, h] for name in ("key", "value"))
        scores = np.exp(q @ k.T / np.sqrt(q.shape[1]))
        tokens_out += scores / scores.sum(1, keepdims=True) @ v @ p["out"][h]
    hidden = tokens_out @ p["mlp_in"]["kernel"] + p["mlp_in"]["bias"]
    hidden = np.asarray(jax.nn.gelu(hidden, approximate=False))
    tokens_out = tokens_out + hidden @ p["mlp_out"]["kernel"] + p["mlp_out"]["bias"]
    np.testing.assert_allclose(pooler.apply(variables, z), tokens_out.mean(0), rtol=1e-10)


def test_query_attention_against_the_textbook(x64):
    pooler = POOLERS["map"]
    variables = variables_of(pooler)
    p = jax.tree.map(np.asarray, variables["params"])
    z = np.random.default_rng(0).normal(size=(6, DIM))
    slices = []
    for q in range(2):
        for h in range(2):
            scores = np.exp(z @ p["key"][:, h] @ p["query"][q, h] / np.sqrt(DIM / 2))
            slices.append(scores / scores.sum() @ z @ p["value"][:, q, h])
    np.testing.assert_allclose(pooler.apply(variables, z), np.concatenate(slices), rtol=1e-10)


def test_hybrid_is_a_convex_mixture():
    pooler = pooling.HybridPool((pooling.AveragePool(), POOLERS["attn"]))
    z = tokens(0, 6, DIM)
    variables = variables_of(pooler)
    mixed, shares = pooler.apply(variables, z, return_weights=True)
    np.testing.assert_allclose(shares.sum(), 1.0, rtol=1e-6)
    parts = [
        pooling.average_pool(z),
        POOLERS["attn"].apply({"params": variables["params"]["poolers_1"]}, z),
    ]
    expected = sum(s * part for s, part in zip(shares, parts, strict=True))
    np.testing.assert_allclose(mixed, expected, rtol=1e-4)


@every_pooler
def test_transformations_and_empty_batches(name):
    pooler = POOLERS[name]
    variables = variables_of(pooler)
    z = tokens(0, 3, 5, DIM)
    mask = np.ones((3, 5), bool)
    plain = pooler.apply(variables, z, mask)
    jitted = jax.jit(pooler.apply)(variables, z, mask)
    mapped = jax.vmap(pooler.apply, in_axes=(None, 0, 0))(variables, z, mask)
    assert_close(jitted, plain)
    assert_close(mapped, plain)
    chex.assert_shape(pooler.apply(variables, z[:0], mask[:0]), (0, DIM))


def test_hot_functions_compile_once():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def pool(z, mask):
        return [pooler.apply(variables_of(pooler), z, mask) for pooler in POOLERS.values()]

    for seed in range(3):
        pool(tokens(seed, 2, 5, DIM), np.ones((2, 5), bool))


def test_a_pooler_has_to_pool():
    class Half(pooling.Pooler):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Half()


def test_names():
    assert pooling.from_name("cls") == pooling.from_name("first") == pooling.FirstPool()
    assert pooling.from_name("attn", num_latents=3).num_latents == 3
    mine = pooling.MaxPool()
    assert pooling.from_name(mine) is mine
    with pytest.raises(ValueError, match=r"name: expected one of cls, first, last, avg, .*got 'mean'"):
        pooling.from_name("mean")
    with pytest.raises(ValueError, match=r"options of 'attn': expected num_latents, .*got latents"):
        pooling.from_name("attn", latents=3)
    with pytest.raises(ValueError, match=r"options of 'avg': expected no options, got size"):
        pooling.from_name("avg", size=3)
    with pytest.raises(ValueError, match=r"options: expected none beside a Pooler, got \['size'\]"):
        pooling.from_name(mine, size=3)


@every_pooler
def test_configurations_round_trip(name):
    assert pooling.from_config(pooling.to_config(POOLERS[name])) == POOLERS[name]


@pytest.mark.parametrize(
    ("z", "mask", "message"),
    [
        (np.zeros(3, np.float32), None, r"z: expected shape \(\*batch, n, d\), got \(3,\)"),
        (np.zeros((0, 3), np.float32), None, r"z: expected at least one token, got n = 0"),
        (np.zeros((2, 0), np.float32), None, r"z: expected width d >= 1, got shape \(2, 0\)"),
        (np.zeros((2, 3), int), None, r"z: expected a floating dtype, got int"),
        (np.zeros((2, 3), np.float32), np.ones(2), r"mask: expected dtype bool .*got float"),
        (
            np.zeros((2, 3), np.float32),
            np.ones(3, bool),
            r"mask: expected a shape that broadcasts to \(2,\), got \(3,\)",
        ),
        (np.zeros((1, 3), np.float32), np.ones(2, bool), r"mask: .* broadcasts to \(1,\), got \(2,\)"),
        (np.full((2, 3), np.nan), None, r"z: expected finite values, got 6 that are not"),
        (
            np.array([[1.0], [np.inf], [np.nan]]),
            np.array([True, True, False]),
            r"z: expected finite values at real tokens, got 1 that are not",
        ),
    ],
)
@pytest.mark.parametrize("pool", [pooling.first_pool, pooling.max_pool, pooling.AveragePool().bind({})])
def test_bad_input_is_named(pool, z, mask, message):
    with pytest.raises(ValueError, match=message):
        pool(z, mask)


@pytest.mark.parametrize(
    ("pooler", "message"),
    [
        (pooling.LatentAttentionPool(num_heads=3), r"num_heads: expected a divisor of d = 8, got 3"),
        (pooling.LatentAttentionPool(num_latents=0), r"num_latents: .* >= 1, got 0"),
        (pooling.LatentAttentionPool(mlp_dim=0), r"mlp_dim: .* >= 1, got 0"),
        (pooling.QueryAttentionPool(3), r"num_queries \* num_heads: .*divisor of d = 8, got 3"),
        (pooling.WeightedAveragePool(normalize="l2"), r"normalize: .*'softmax', 'none', got 'l2'"),
        (pooling.WeightedAveragePool(max_tokens=0), r"max_tokens: .* >= 1, got 0"),
        (pooling.HybridPool(()), r"poolers: expected at least one pooler, got none"),
        (pooling.HybridPool(("avg",)), r"poolers: expected Pooler instances, got 'avg'"),
    ],
)
def test_bad_options_are_named(pooler, message):
    with pytest.raises(ValueError, match=message):
        pooler.init(jax.random.key(0), jnp.zeros((4, DIM)))


def test_bad_weights_are_named():
    z = np.zeros((4, DIM), np.float32)
    with pytest.raises(ValueError, match=r"weights: .* broadcasts to \(4,\), got \(3,\)"):
        pooling.weighted_average_pool(z, np.ones(3))
    with pytest.raises(ValueError, match=r"weights: expected a floating dtype"):
        pooling.weighted_average_pool(z, np.ones(4, int))
    with pytest.raises(ValueError, match=r"weights: expected finite values"):
        pooling.weighted_average_pool(z, np.full(4, np.nan))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_compiled_average_shows_what_is_not_finite(dtype):
    largest = float(jnp.finfo(dtype).max)
    z = jnp.array(
        [[np.inf, -np.inf, np.nan, np.inf, largest], [1.0, 1.0, 1.0, -np.inf, largest]], dtype
    )
    average = jax.jit(pooling.average_pool)(z).astype(jnp.float32)
    np.testing.assert_array_equal(average, np.array([np.inf, -np.inf, np.nan, np.nan, largest]))
