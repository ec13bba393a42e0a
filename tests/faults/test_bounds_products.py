"""Measured below every bound: kinds, masks, positions, shared heads and poolers, all with all."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import KINDS, POOLERS, random_variables

from poolax import backbones, blocks, bounds, empirical
from poolax.attention import (
    L2,
    Cosine,
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    MultiHeadAttention,
    Rotary,
    YarnScaling,
)

NUM_TOKENS, DIM = 6, 4
EXACT = 1 + 1e-9
ALL_KINDS = {
    **KINDS,
    "l2-plain": L2(plain_values=True),
    "cosine-plain": Cosine(tau=2.0, nu=1.5, eps=0.01, plain_values=True),
}
SCALINGS = {
    "none": None,
    "linear": LinearScaling(3.0),
    "dynamic": DynamicScaling(8.0, 2),
    "yarn": YarnScaling(4.0, 3, magnitude=1.7),
    "longrope": LongRopeScaling((1.0, 1.0), (8.0, 8.0), 3, magnitude=1.3),
    "llama3": Llama3Scaling(8.0, 1.0, 4.0, 8),
}
ROTARY = {f"rotary-{name}": Rotary(2.0, scaling) for name, scaling in SCALINGS.items()}
SEEN = {
    "all": {},
    "causal": {"causal": True},
    "window": {"window": 3},
    "causal-window": {"causal": True, "window": 2},
}
MASKS = {
    "whole": [True] * 6,
    "right": [True] * 4 + [False] * 2,
    "left": [False] * 3 + [True] * 3,
    "both": [False, True, True, True, True, False],
    "apart": [True, False, True, False, False, True],
    "one": [False, False, True, False, False, False],
}
SEGMENTS = {"one": [0] * 6, "two": [0, 0, 1, 1, 1, 1], "mixed": [0, 1, 0, 1, 0, 1]}


def layers():
    """Names, kinds, and options of all attention layers."""
    kinds = [(name, kind, None) for name, kind in ALL_KINDS.items()]
    kinds += [(name, KINDS["dot"], rotary) for name, rotary in ROTARY.items()]
    for (name, kind, rotary), seen, heads in itertools.product(kinds, SEEN, (1, 2)):
        if isinstance(kind, L2) and heads == 1:
            continue
        options = {"rotary": rotary, "num_kv_heads": heads, **SEEN[seen]}
        # Two frequencies: the first is the same for all lengths in some scalings.
        options["head_dim"] = None if rotary is None else 4
        yield pytest.param(kind, options, id=f"{name}-{seen}-{heads}")


def some(cases, *ids):
    """The named cases, and all others marked slow."""
    cases = list(cases)
    assert set(ids) <= {case.id for case in cases}
    return [
        case if case.id in ids else pytest.param(*case.values, marks=pytest.mark.slow, id=case.id)
        for case in cases
    ]


def over_cases(fn):
    """``fn`` of one case, for all cases in one program."""
    return jax.jit(lambda cases: jax.lax.map(fn, cases))


def draws(module, count):
    """Variables and inputs of many sizes: weak, peaked, with heads apart and aligned."""
    keys = jax.random.split(jax.random.key(7), count)
    scales = jnp.asarray([0.1, 0.5, 1.0, 3.0])[jnp.arange(count) % 4]
    radii = jnp.asarray([0.03, 1.0, 4.0])[jnp.arange(count) % 3]

    def draw(key, scale, radius):
        x = jax.random.normal(jax.random.fold_in(key, 1), (NUM_TOKENS, DIM))
        # Half of the inputs are close together around a common point.
        close = jax.random.bernoulli(jax.random.fold_in(key, 2))
        x = jnp.where(close, x[:1] + 0.2 * x, x)
        return random_variables(module, key, x, scale=scale), radius * x

    return jax.vmap(draw)(keys, scales, radii)


def outcomes(names, smaller, larger, text):
    """What went wrong where ``smaller <= larger`` does not hold; None where it does."""
    smaller, larger = np.broadcast_arrays(np.asarray(smaller), np.asarray(larger))
    return [
        None if low <= high * EXACT else f"{name}: {text} {low:.6g} above {high:.6g}"
        for name, low, high in zip(names, smaller, larger, strict=True)
    ]


def local_of(layer, variables, x, mask, segments):
    """The local bound of a layer."""
    params = variables["params"]
    kernels = {name: params[name]["kernel"] if name in params else None for name in ("query", "key")}
    kernels |= {name: params[name]["kernel"] for name in ("value", "out")}
    biases = {
        f"{name}_bias": params[name]["bias"] for name in ("query", "key", "value") if name in params
    }
    seen = {name: getattr(layer, name) for name in ("kind", "causal", "window", "rotary")}
    return bounds.local_attention(x, **kernels, **biases, **seen, mask=mask, segments=segments)


@pytest.mark.parametrize(
    ("kind", "options"),
    some(layers(), "rotary-dynamic-all-2", "rotary-yarn-window-1"),
)
def test_attention(kind, options, attack, x64):
    """Every mask and segmentation, each with variables and inputs of many sizes."""
    layer = MultiHeadAttention(2, kind, use_bias=True, **options)
    pairs = list(itertools.product(MASKS, SEGMENTS))
    repeats = 4
    names = [f"{mask} {segments} {index}" for index in range(repeats) for mask, segments in pairs]
    masks = jnp.asarray([MASKS[mask] for mask, _ in pairs] * repeats)
    segments = jnp.asarray([SEGMENTS[segments] for _, segments in pairs] * repeats)

    @over_cases
    def evaluate(case):
        variables, x, mask, segments = case

        def mapped(x):
            return layer.apply(variables, x, mask, segments=segments)

        jacobian = jax.jacrev(mapped)(x)
        measured = jnp.linalg.norm(jacobian.reshape(NUM_TOKENS * DIM, -1), 2)
        rows = jnp.linalg.norm(jacobian.reshape(NUM_TOKENS, DIM, -1), 2, (-2, -1))
        domain = bounds.domain_of(x, mask)
        sizes = {"num_tokens": mask.sum(), "radius": domain.radius, "spread": domain.spread}
        sharp, tight = (
            bounds.attention(layer, variables, **sizes, method=m) for m in ("sharp", "tight")
        )
        full = tight
        if not (layer.causal or layer.window):
            full = bounds.attention(layer, variables, **sizes, method="tight", pattern="full")
        local = local_of(layer, variables, x, mask, segments)
        return measured, rows.max(), local, sharp, tight, full

    found = evaluate((*draws(layer, len(names)), masks, segments))
    measured, row, local, sharp, tight, full = jax.tree.map(np.asarray, found)
    whole = np.asarray([segments == "one" for _, segments in pairs] * repeats)
    attack(
        "attention measured above a bound",
        outcomes(names, measured, local, "measured above local")
        + outcomes(names, measured, tight.sequence, "measured above tight")
        + outcomes(names, row, tight.per_token, "a row measured above tight")
        + outcomes(names, tight.sequence, sharp.sequence, "tight above sharp")
        + outcomes(names, row, sharp.per_token, "a row measured above sharp")
        + outcomes(names, np.where(whole, measured, 0), full.sequence, "measured above tight, full")
        + outcomes(names, np.where(whole, row, 0), full.per_token, "a row above tight, full"),
    )


def models():
    """Kinds of attention and poolers of all one-block models."""
    for kind, pooler in itertools.product(ALL_KINDS, POOLERS):
        yield pytest.param(ALL_KINDS[kind], POOLERS[pooler], id=f"{kind}-{pooler}")


@pytest.mark.parametrize(("kind", "pooler"), some(models()))
def test_pooled_blocks(kind, pooler, attack, x64):
    """Every mask, each with variables and inputs of many sizes."""
    model = blocks.TBM(2, pooler, kind, use_bias=True)
    repeats = 8
    names = [f"{mask} {index}" for index in range(repeats) for mask in MASKS]
    masks = jnp.asarray(list(MASKS.values()) * repeats)

    @over_cases
    def evaluate(case):
        variables, x, mask = case
        jacobian = jax.jacrev(lambda x: model.apply(variables, x, mask))(x)
        measured = jnp.linalg.norm(jacobian.reshape(DIM, -1), 2)
        domain = bounds.domain_of(x, mask)
        sizes = {"num_tokens": mask.sum(), "radius": domain.radius, "spread": domain.spread}
        sharp, tight = (bounds.tbm(model, variables, **sizes, method=m) for m in ("sharp", "tight"))
        ranged = bounds.tbm(
            model, variables, **(sizes | {"num_tokens": bounds.TokenRange(1, 6)}), method="tight"
        )
        local = bounds.local_tbm(model, variables, x, mask)
        return measured, local.lipschitz, tight.lipschitz, sharp.lipschitz, ranged.lipschitz

    found = evaluate((*draws(model, len(names)), masks))
    measured, local, tight, sharp, ranged = map(np.asarray, found)
    attack(
        "pooled block measured above a bound",
        outcomes(names, measured, local, "measured above local")
        + outcomes(names, measured, tight, "measured above tight")
        + outcomes(names, tight, sharp, "tight above sharp")
        + outcomes(names, tight, ranged, "tight above tight for all lengths"),
    )


def decoders():
    """Rotary scalings, windows and shared heads of all small decoders."""
    for name, seen, heads in itertools.product(SCALINGS, SEEN, (1, 2)):
        options = {"rotary": Rotary(2.0, SCALINGS[name]), "num_kv_heads": heads}
        options |= {"causal": False} | SEEN[seen]
        yield pytest.param(options, id=f"{name}-{seen}-{heads}")


@pytest.mark.parametrize("options", some(decoders(), "dynamic-causal-1"))
def test_backbones(options, attack, x64):
    """Global and local ledgers of two blocks, with every mask."""
    config = backbones.DecoderConfig(
        9, width=DIM, num_layers=2, num_heads=2, head_dim=4, mlp_dim=6, use_qkv_bias=True, **options
    )
    backbone = backbones.Decoder.init(config, jax.random.key(0))
    poolers = [POOLERS[name] for name in ("avg", "last", "max")]

    @over_cases
    def evaluate(case):
        params, x, mask = case

        def states(x):
            return backbone.encode(params, x, mask).states

        jacobian = jax.jacrev(states)(x)
        measured = jnp.linalg.norm(jacobian.reshape(NUM_TOKENS * DIM, -1), 2)
        weights = backbone.encode(params, x[None], mask[None], return_weights=True).weights
        specs, maps = backbone.layer_specs(params), [attention[0] for attention in weights]
        local = bounds.local_ledger(specs, x, maps, mask)
        domain = bounds.domain_of(x, mask)
        sizes = {"num_tokens": mask.sum(), "radius": domain.radius, "spread": domain.spread}
        tight, sharp = (
            bounds.ledger(specs, **sizes, method=m).log_lipschitz for m in ("tight", "sharp")
        )
        pooled = []
        for pooler in poolers:
            derivative = jax.jacrev(lambda z, p=pooler: p.apply({}, z, mask))(states(x))
            whole = jnp.einsum("eid,idkf->ekf", derivative, jacobian).reshape(DIM, -1)
            at = bounds.local_ledger(specs, x, maps, mask, pooler=pooler).log_lipschitz
            pooled.append((jnp.linalg.norm(whole, 2), at))
        return measured, local.log_lipschitz, tight, sharp, pooled

    repeats = 4
    names = [f"{mask} {index}" for index in range(repeats) for mask in MASKS]
    masks = jnp.asarray(list(MASKS.values()) * repeats)
    keys = jax.random.split(jax.random.key(3), len(names))

    def draw(key):
        leaves, tree = jax.tree.flatten(backbone.params)
        parts = jax.random.split(key, len(leaves))
        size = 10 ** jax.random.uniform(jax.random.fold_in(key, 1), (), minval=-1, maxval=0.5)
        params = [
            size * jax.random.normal(k, leaf.shape) for k, leaf in zip(parts, leaves, strict=True)
        ]
        x = jax.random.normal(jax.random.fold_in(key, 2), (NUM_TOKENS, DIM))
        return jax.tree.unflatten(tree, params), x

    found = evaluate((*jax.vmap(draw)(keys), masks))
    measured, local, tight, sharp, pooled = jax.tree.map(np.asarray, found)
    with np.errstate(over="ignore"):
        local, tight, sharp = map(np.exp, (local, tight, sharp))
        held = outcomes(names, measured, local, "measured above local")
        held += outcomes(names, local, tight, "local above tight")
        held += outcomes(names, tight, sharp, "tight above sharp")
        for number, bound in pooled:
            held += outcomes(names, number, np.exp(bound), "pooled measured above local")
    attack("backbone measured above a ledger", held)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "options"), list(layers()))
def test_searched_weights(kind, options, attack, x64):
    """Inputs and weights searched together for the largest measured over tight."""
    layer = MultiHeadAttention(2, kind, **options)
    mask = jnp.asarray(MASKS["both"])
    x = jax.random.normal(jax.random.key(0), (NUM_TOKENS, DIM))
    variables = random_variables(layer, jax.random.key(1), x)

    def bound(variables):
        return bounds.attention(layer, variables, num_tokens=4, radius=1.0, method="tight").sequence

    found = jax.jit(
        lambda x, variables: empirical.maximize_jacobian_norm(
            lambda variables, x: layer.apply(variables, x, mask),
            x,
            project=empirical.project_to_ball(1.0),
            key=jax.random.key(2),
            num_restarts=8,
            num_steps=80,
            variables=variables,
            bound=bound,
        )
    )(x / 4, variables)
    held = [
        None if r <= EXACT else f"measured {r:.6g} times tight" for r in np.asarray(found.per_restart)
    ]
    attack("weights and inputs searched against tight", held)
