"""One exported program runs at every batch size and length, on every kind of device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import ALL_FAMILIES, STACKABLE, inputs
from helpers import KINDS, POOLERS, PROBES, assert_close

from poolax import attention, blocks
from poolax.attention import DynamicScaling, Rotary
from poolax.training import HeadModule

PLATFORMS = ("cpu", "cuda", "tpu")
KEY = jax.random.key(0)
DIM = 8
MOST = 12  # tokens that positions of the small models and poolers are learned for
OPTIONS = {
    "plain": {},
    "causal": {"causal": True},
    "window": {"window": 3},
    "causal-window": {"causal": True, "window": 2},
    "rotary": {"rotary": Rotary()},
    "dynamic": {"rotary": Rotary(scaling=DynamicScaling(2.0, 4))},
}


def symbolic(axes, dtype, scope):
    return jax.ShapeDtypeStruct(jax.export.symbolic_shape(axes, scope=scope), dtype)


def tokens(batch, num_tokens):
    rng = np.random.default_rng(0)
    mask = np.arange(num_tokens) < rng.integers(1, num_tokens + 1, (batch, 1))
    return rng.normal(size=(batch, num_tokens, DIM)).astype(np.float32), mask


def export_tokens(apply, variables, *, constraints=(), masked=True):
    """The program of tokens ``b, n, d`` and their mask, traced once."""
    scope = jax.export.SymbolicScope(constraints)
    x = symbolic(f"b, n, {DIM}", jnp.float32, scope)
    arguments = (x, symbolic("b, n", jnp.bool_, scope)) if masked else (x,)
    traces = []

    def program(*arguments):
        traces.append(arguments)
        return apply(*arguments)

    exported = jax.export.export(jax.jit(program), platforms=PLATFORMS)(variables, *arguments)
    assert len(traces) == 1
    return exported


def assert_runs(exported, apply, variables, sizes, masked=True):
    assert exported.platforms == PLATFORMS
    for size in sizes:
        arguments = tokens(*size)[: 1 + masked]
        assert_close(exported.call(variables, *arguments), apply(variables, *arguments))


@pytest.mark.parametrize("name", POOLERS | PROBES)
def test_poolers_and_heads(name):
    pooler = (POOLERS | PROBES)[name]
    module = HeadModule(pooler, 3)
    variables = module.init(KEY, jnp.ones((2, 6, DIM)))
    learned = variables["params"].get("pooler", {})

    def apply(variables, z, mask=None):
        pooled = pooler.apply({"params": learned}, z, mask)
        return jnp.concatenate([module.apply(variables, z, mask), pooled], axis=-1)

    limit = (f"n <= {MOST}",) if name.startswith("wavg") else ()
    longest = 6 if name.startswith("wavg") else 9
    exported = export_tokens(apply, variables, constraints=limit)
    assert_runs(exported, apply, variables, [(1, 1), (3, longest)])
    export_tokens(apply, variables, constraints=limit, masked=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS)
def test_attention(kind, options):
    if kind == "l2" and "rotary" in OPTIONS[options]:
        pytest.skip("L2 attention has no rotary positions")
    layer = attention.MultiHeadAttention(2, KINDS[kind], **OPTIONS[options])
    variables = layer.init(KEY, jnp.ones((2, 6, DIM)))
    exported = export_tokens(layer.apply, variables)
    if kind == "dot":
        assert_runs(exported, layer.apply, variables, [(3, 5)])
    export_tokens(layer.apply, variables, masked=False)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks(kind):
    model = blocks.TBM(2, POOLERS["map"], KINDS[kind])
    variables = model.init(KEY, jnp.ones((2, 6, DIM)))
    assert_runs(export_tokens(model.apply, variables), model.apply, variables, [(3, 5)])


@pytest.mark.parametrize("name", ALL_FAMILIES)
@pytest.mark.parametrize("stacked", [False, True])
def test_backbones(name, stacked):
    if stacked and name not in STACKABLE:
        pytest.skip("blocks of windows differ")
    backbone = ALL_FAMILIES[name]()
    backbone = backbone.stack_layers() if stacked else backbone
    x = inputs(name, batch=3)
    scope = jax.export.SymbolicScope()
    if np.issubdtype(x.dtype, np.integer):
        scope = jax.export.SymbolicScope([f"n <= {MOST}"])
        x = x.astype(np.int32)
        mask = np.arange(x.shape[1]) < np.array([[7], [1], [4]])
        arguments, shapes = (
            (x, mask),
            (symbolic("b, n", np.int32, scope), symbolic("b, n", bool, scope)),
        )
    else:
        sizes = ", ".join(map(str, x.shape[1:]))
        arguments, shapes = (x,), (symbolic(f"b, {sizes}", x.dtype, scope),)

    def apply(params, x, mask=None):
        return backbone.apply(params, x, mask).states

    exported = jax.export.export(jax.jit(apply), platforms=PLATFORMS)(backbone.params, *shapes)
    if not stacked:
        assert_close(exported.call(backbone.params, *arguments), apply(backbone.params, *arguments))


def test_learned_positions_need_a_constraint():
    model = ALL_FAMILIES["bert"]()
    ids = symbolic("b, n", np.int32, jax.export.SymbolicScope())

    def apply(params, ids):
        return model.apply(params, ids).states

    with pytest.raises(ValueError, match=r"inputs: expected a symbolic size with .* 'n <= 12'"):
        jax.export.export(jax.jit(apply))(model.params, ids)
