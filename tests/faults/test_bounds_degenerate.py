"""Finite input never gives a silent NaN: empty rows, one token, zero kernels, equal and huge tokens."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import KINDS, POOLERS, random_variables

from poolax import backbones, blocks, bounds
from poolax.attention import DynamicScaling, MultiHeadAttention, Rotary

NUM_TOKENS, DIM = 5, 4
RNG = np.random.default_rng(0)
TOKENS = {
    "random": RNG.normal(size=(NUM_TOKENS, DIM)),
    "equal": np.ones((NUM_TOKENS, DIM)),
    "constant": np.repeat(RNG.normal(size=(NUM_TOKENS, 1)), DIM, axis=1),
    "zero": np.zeros((NUM_TOKENS, DIM)),
    "tiny": 1e-30 * RNG.normal(size=(NUM_TOKENS, DIM)),
    "apart": 1e6 * np.eye(NUM_TOKENS, DIM),
    "huge": 1e30 * RNG.normal(size=(NUM_TOKENS, DIM)),
}
MASKS = {
    "all": [True] * 5,
    "none": [False] * 5,
    "one": [False, False, True, False, False],
    "left": [False, False, True, True, True],
    "right": [True, True, False, False, False],
}
SIZES = {"one": 1.0, "zero": 0.0, "tiny": 1e-20, "huge": 1e20}
# Where numbers of single precision, or what a model makes of them, are out of range.
MAY_OVERFLOW = {"huge", "apart"}

CASES = list(itertools.product(TOKENS, MASKS, SIZES))


def some(cases, *names):
    return [
        pytest.param(case, marks=() if case in names else pytest.mark.slow, id=case) for case in cases
    ]


def arrays_of(tree, size):
    return jax.tree.map(lambda leaf: size * jnp.asarray(leaf, jnp.float32), tree)


def at_every_case(evaluate, variables):
    """What ``evaluate(variables, x, mask)`` gives at every case, in one program, by name."""
    tokens, masks, sizes = zip(*CASES, strict=True)

    @jax.jit
    def all_cases(x, masks, sizes):
        def one(case):
            x, mask, size = case
            return evaluate(arrays_of(variables, size), x, mask)

        return jax.lax.map(one, (x, masks, sizes))

    found = all_cases(
        jnp.asarray([TOKENS[name] for name in tokens], jnp.float32),
        jnp.asarray([MASKS[name] for name in masks]),
        jnp.asarray([SIZES[name] for name in sizes], jnp.float32),
    )
    return np.asarray(found)


def held(case, bound, *, logarithm=False):
    """None if a bound is a number: zero without real tokens, infinite where numbers overflow alone."""
    tokens, mask, size = case
    nothing = -np.inf if logarithm else 0.0
    name = " ".join(case)
    if np.isnan(bound):
        return f"{name}: NaN"
    if mask == "none" and bound != nothing and np.isfinite(bound):
        return f"{name}: {bound} without real tokens"
    if bound == np.inf and not {tokens, size} & MAY_OVERFLOW:
        return f"{name}: infinite"
    if bound == nothing and mask != "none" and (size == "one" and tokens == "random"):
        return f"{name}: zero"
    return None


LAYERS = {
    **{name: (kind, {}) for name, kind in KINDS.items()},
    "rotary": (KINDS["dot"], {"rotary": Rotary(3.0, DynamicScaling(8.0, 2)), "head_dim": 4}),
}


@pytest.mark.parametrize("name", some(LAYERS, "dot"))
def test_local_attention(name, attack):
    kind, options = LAYERS[name]
    layer = MultiHeadAttention(2, kind, **options)
    variables = random_variables(layer, jax.random.key(0), jnp.zeros((NUM_TOKENS, DIM)))

    def bound(variables, x, mask):
        kernels = {name: part["kernel"] for name, part in variables["params"].items()}
        kernels = {"key": None} | kernels
        return bounds.local_attention(x, **kernels, kind=kind, mask=mask, rotary=layer.rotary)

    found = at_every_case(bound, variables)
    attack("degenerate input of a local bound", map(held, CASES, found))


@pytest.mark.parametrize("name", some(POOLERS))
def test_local_tbm(name, attack):
    model = blocks.TBM(2, POOLERS[name])
    variables = random_variables(model, jax.random.key(0), jnp.zeros((NUM_TOKENS, DIM)))
    logarithms = at_every_case(
        lambda v, x, mask: bounds.local_tbm(model, v, x, mask).log_lipschitz, variables
    )
    attack(
        "degenerate input of a local bound",
        map(functools.partial(held, logarithm=True), CASES, logarithms),
    )


def a_decoder():
    config = backbones.DecoderConfig(
        9, width=DIM, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=6
    )
    return backbones.Decoder.init(config, jax.random.key(0))


def a_bert():
    config = backbones.BertConfig(9, 12, width=DIM, num_layers=1, num_heads=2, mlp_dim=6)
    return backbones.Bert.init(config, jax.random.key(0))


@pytest.mark.parametrize("backbone", [a_decoder, pytest.param(a_bert, marks=pytest.mark.slow)])
@pytest.mark.parametrize("pooled", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_local_ledger(backbone, pooled, attack):
    backbone = backbone()
    pooler = POOLERS["max"] if pooled else None

    def bound(params, x, mask):
        weights = backbone.encode(params, x[None], mask[None], return_weights=True).weights
        maps = [attention[0] for attention in weights]
        table = bounds.local_ledger(backbone.layer_specs(params), x, maps, mask, pooler=pooler)
        factors = jnp.stack([row.log_factor for row in table.rows])
        # The rows of what has no real tokens are logarithms of zero, no more.
        undefined = jnp.any(jnp.isnan(factors) & jnp.isfinite(table.log_lipschitz))
        return jnp.where(undefined, jnp.nan, table.log_lipschitz)

    logarithms = at_every_case(bound, backbone.params)
    attack(
        "degenerate input of a local bound",
        map(functools.partial(held, logarithm=True), CASES, logarithms),
    )


@pytest.mark.parametrize("name", some(LAYERS, "rotary"))
@pytest.mark.parametrize("method", ["tight", pytest.param("sharp", marks=pytest.mark.slow)])
def test_attention(name, method, attack):
    """Domains that are points, one token, kernels that are zero."""
    kind, options = LAYERS[name]
    layer = MultiHeadAttention(2, kind, **options)
    variables = random_variables(layer, jax.random.key(0), jnp.zeros((NUM_TOKENS, DIM)))
    lengths = {"point": 0.0, "one": 1.0, "tiny": 1e-20}
    cases = list(itertools.product(lengths, lengths, ("one", "zero", "tiny"), (1, 2, 10_000)))

    @jax.jit
    def every(radii, spreads, sizes, counts):
        def one(case):
            radius, spread, size, count = case
            sizes = {"num_tokens": count, "radius": radius, "spread": spread}
            bound = bounds.attention(layer, arrays_of(variables, size), **sizes, method=method)
            return jnp.stack([bound.sequence, bound.per_token, bound.mixing, bound.own])

        return jax.lax.map(one, (radii, spreads, sizes, counts))

    columns = zip(*cases, strict=True)
    tables = (lengths, lengths, SIZES, {n: float(n) for n in (1, 2, 10_000)})
    arrays = [
        jnp.asarray([table[name] for name in column], jnp.float32)
        for column, table in zip(columns, tables, strict=True)
    ]
    found = np.asarray(every(*arrays))
    attack(
        "degenerate domain of a bound",
        (
            None if np.isfinite(numbers).all() else f"{case}: {numbers}"
            for case, numbers in zip(cases, found, strict=True)
        ),
    )


def test_overflow_is_named_where_it_can_be_seen():
    """Tokens that are finite, at which the model is not."""
    kernel = 1e15 * jnp.ones((DIM, 1, DIM))
    x = 1e15 * jnp.eye(3, DIM)
    with pytest.raises(ValueError, match=r"x: expected (sizes|values) .* float32"):
        bounds.local_attention(x, kernel, kernel, kernel, 1e15 * jnp.ones((1, DIM, DIM)))
    model = blocks.TBM(2, POOLERS["avg"])
    variables = arrays_of(model.init(jax.random.key(0), x), 1e15)
    with pytest.raises(ValueError, match=r"x: expected (sizes|values) .* float32"):
        bounds.local_tbm(model, variables, x)
    assert jax.jit(lambda x: bounds.local_tbm(model, variables, x).log_lipschitz)(x) == np.inf
    backbone = a_decoder()
    params = arrays_of(backbone.params, 1e15)
    maps = [jnp.ones((2, 3, 3)) / 3]
    with pytest.raises(ValueError, match=r"embeddings: expected sizes for which float32 holds"):
        bounds.local_ledger(backbone.layer_specs(params)[:1], x, maps)
    with pytest.raises(ValueError, match=r"weights: expected finite values"):
        bounds.local_ledger(backbone.layer_specs(backbone.params), x, [maps[0] * jnp.nan])


def test_layers_that_give_zeros():
    """The constant of what follows a layer of zeros is zero, whose logarithm is no NaN."""
    backbone = a_bert()
    specs = backbone.layer_specs(arrays_of(backbone.params, 0.0))
    for method in ("sharp", "tight"):
        table = bounds.ledger(specs, num_tokens=3, radius=1.0, method=method)
        assert table.log_lipschitz == -np.inf
        assert table.lipschitz == 0
        assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(table))
