"""What holds for the backbones of every family."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FAMILIES, KEY, NUM_TOKENS, TEXT_FAMILIES, decoder, gpt2, inputs, scrambled
from helpers import assert_close

from poolax import backbones, bounds
from poolax.attention import L2, LinearScaling, Llama3Scaling


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param, scrambled(FAMILIES[request.param]())


def test_layers_weights_and_batches(family):
    name, backbone = family
    x = inputs(name)
    out = backbone.apply(backbone.params, x, return_weights=True)
    num_tokens, width = out.states.shape[-2:]
    assert width == backbone.config.width
    assert len(out.weights) == backbone.num_layers
    for weights in out.weights:
        assert weights.shape == (2, backbone.config.num_heads, num_tokens, num_tokens)
        assert_close(np.sum(weights, axis=-1), np.ones(weights.shape[:-1]), 1e-5)
    embeddings, mask = backbone.embed(backbone.params, x)
    assert_close(backbone.apply(backbone.params, x, layer=0).states, embeddings)
    assert_close(backbone.encode(backbone.params, embeddings, mask).states, out.states, 1e-6)
    nested = backbone(x[None])
    assert_close(nested.states[0], out.states, 1e-5)
    assert nested.num_prefix == backbone.num_prefix
    with pytest.raises(ValueError, match=r"layer: expected -1 to 2, got 3"):
        backbone.apply(backbone.params, x, layer=3)


def test_scanned_and_rematerialised_layers_give_the_same(family):
    name, backbone = family
    x = inputs(name)
    stacked = backbone.stack_layers()
    assert stacked.stack_layers() is stacked
    assert stacked.num_parameters == backbone.num_parameters
    assert_close(stacked(x).states, backbone(x).states, 1e-5)
    one = stacked.apply(stacked.params, x, layer=1, return_weights=True)
    other = backbone.apply(backbone.params, x, layer=1, return_weights=True)
    chex.assert_trees_all_close(one, other, atol=1e-5)
    none = stacked.apply(stacked.params, x, layer=0, return_weights=True)
    assert none.weights == ()

    def loss(params, model):
        return jnp.sum(jnp.square(model.apply(params, x).states))

    expected = jax.grad(loss)(backbone.params, backbone)
    again = jax.grad(loss)(backbone.params, backbone.replace(remat=True))
    scanned = jax.grad(loss)(stacked.params, stacked.replace(remat=True))
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    chex.assert_trees_all_close(again, expected, atol=1e-5 * scale)
    unstacked = backbones.ViT.stack_layers(backbone.replace(params=expected)).params
    chex.assert_trees_all_close(scanned, unstacked, atol=1e-5 * scale)


def test_bfloat16_compute_stays_close(family):
    name, backbone = family
    x = inputs(name)
    full = backbone(x).states
    half = backbone.replace(compute_dtype=jnp.bfloat16)
    states = half(x).states
    assert states.dtype == jnp.bfloat16
    error = np.abs(np.asarray(states, np.float32) - full)
    assert 0 < error.max() < 0.05 * np.abs(full).max()
    traced = jax.make_jaxpr(lambda x: half.apply(half.params, x).states)(x)
    reduced = [e for e in traced.jaxpr.eqns if e.primitive.name in ("exp", "rsqrt")]
    assert reduced
    assert {equation.outvars[0].aval.dtype for equation in reduced} == {jnp.dtype(jnp.float32)}
    weights = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), backbone.params)
    assert backbone.apply(weights, x).states.dtype == jnp.bfloat16


def test_layer_specs_describe_every_layer(family):
    name, backbone = family
    specs = backbone.layer_specs(backbone.params)
    final = ["norm"] if name != "bert" else []
    parts = [f"block_{k}/{part}" for k in range(2) for part in ("attention", "ffn")]
    assert [spec.name for spec in specs] == parts + final
    described = {id(leaf) for leaf in jax.tree.leaves(specs)}
    encoder = {id(leaf) for leaf in jax.tree.leaves(backbone.params["encoder"])}
    assert described == encoder
    stacked = backbone.stack_layers()
    chex.assert_trees_all_close(stacked.layer_specs(stacked.params), specs)
    attention = specs[0].branch
    assert attention.causal == (backbone.summary_token == "last")
    assert attention.rotary == (name == "decoder")


def test_an_attention_spec_is_what_the_bounds_take():
    backbone = scrambled(FAMILIES["bert"]())
    spec = backbone.layer_specs(backbone.params)[0].branch
    bound = bounds.attention(spec.kind, spec.params, num_tokens=NUM_TOKENS, radius=1.0)
    assert 0 < float(bound.per_token) <= float(bound.sequence)


def test_one_compilation_for_all_batches(family):
    name, backbone = family
    chex.clear_trace_counter()
    apply = jax.jit(chex.assert_max_traces(lambda params, x: backbone.apply(params, x).states, n=1))
    for seed in range(3):
        apply(backbone.params, np.roll(inputs(name), seed, axis=1))


@pytest.mark.parametrize("name", TEXT_FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(name, side):
    backbone = scrambled(FAMILIES[name]())
    ids = inputs(name, batch=1)
    padding = np.full((1, 4), 10**6)  # no token of any vocabulary
    parts = [padding, ids] if side == "left" else [ids, padding]
    real = np.concatenate([part < 100 for part in parts], axis=1)
    padded = backbone(np.concatenate(parts, axis=1), real)
    assert_close(padded.states[real], backbone(ids).states[0], 1e-5)
    assert np.all(np.isfinite(padded.states))
    rows = np.concatenate(parts * 2, axis=1).reshape(2, -1)
    one_empty = np.concatenate([real, np.zeros_like(real)])

    def loss(params):
        states = backbone.apply(params, rows, one_empty).states
        return jnp.sum(jnp.square(states[1])), jnp.all(jnp.isfinite(states))

    gradient, finite = jax.grad(loss, has_aux=True)(backbone.params)
    assert finite
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("name", ["gpt2", "gpt2-l2", "decoder"])
def test_no_token_sees_the_future(name):
    backbone = scrambled(FAMILIES[name]())
    ids = inputs(name)
    changed = ids.copy()
    changed[:, 4:] = (changed[:, 4:] + 1) % 50
    one, other = backbone(ids).states, backbone(changed).states
    assert_close(one[:, :4], other[:, :4], 1e-6)
    assert np.abs(one - other)[:, 4:].min(axis=-1).max() > 0


def test_window_of_some_layers():
    config = decoder().config
    model = backbones.Decoder.init(
        backbones.DecoderConfig(**{**vars(config), "full_layers": (1,)}), KEY
    )
    weights = model.apply(model.params, inputs("decoder"), return_weights=True).weights
    assert np.all(np.asarray(weights[0])[..., 6, :3] == 0)
    assert np.all(np.asarray(weights[1])[..., 6, :3] > 0)
    with pytest.raises(ValueError, match=r"layers: expected equal blocks to stack, got block 1"):
        model.stack_layers()


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("plain_values", [False, True])
def test_l2_gpt2_against_a_plain_forward(plain_values, x64):
    model = scrambled(gpt2(L2(plain_values=plain_values)))
    model = model.replace(params=jax.tree.map(lambda leaf: leaf.astype(jnp.float64), model.params))
    p = jax.tree.map(np.asarray, model.params)
    ids = inputs("gpt2")

    def norm(part, x):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * part["scale"] + part["bias"]

    def attend(part, x):
        (wq, bq), (wv, bv), (wo, bo) = (
            (part[name]["kernel"], part[name]["bias"]) for name in ("query", "value", "out")
        )
        out = np.zeros_like(x) + bo
        future = np.triu(np.ones((NUM_TOKENS, NUM_TOKENS), bool), 1)
        for h in range(wq.shape[1]):
            q = x @ wq[:, h] + bq[h]
            root = math.sqrt(wq.shape[2])
            distances = ((q[:, :, None] - q[:, None]) ** 2).sum(-1)
            logits = np.where(future, -np.inf, -distances / root)
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            through = x if plain_values else x @ (wq[:, h] @ wq[:, h].T) / root
            out += weights @ (through @ wv[:, h] + bv[h]) @ wo[h]
        return out

    x = p["embeddings"]["token"][ids] + p["embeddings"]["position"][:NUM_TOKENS]
    for k in range(2):
        block = p["encoder"][f"block_{k}"]
        x = x + attend(block["attention"], norm(block["norm1"], x))
        inner, ffn = norm(block["norm2"], x), block["ffn"]
        hidden = gelu_tanh(inner @ ffn["hidden"]["kernel"] + ffn["hidden"]["bias"])
        x = x + hidden @ ffn["out"]["kernel"] + ffn["out"]["bias"]
    np.testing.assert_allclose(model(ids).states, norm(p["encoder"]["norm"], x), atol=1e-11)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(np.zeros((2, 3))), r"inputs: expected integer token ids, got dtype float"),
        (lambda m: m(np.zeros((2, 0), int)), r"inputs: .*n >= 1, got \(2, 0\)"),
        (lambda m: m(np.array([[1, 50]])), r"inputs: expected numbers from 0 to 49, got 50"),
        (lambda m: m(np.array([[1, -1]])), r"inputs: .* 0 to 49, got -1"),
        (lambda m: m(np.array([[2**32 + 5]])), r"inputs: .* 0 to 49, got 4294967301"),
        (lambda m: m([[1, 2], [3, 50]]), r"inputs: .* 0 to 49, got 50"),
        (
            lambda m: m.embed(m.params, np.zeros((1, 2), int), token_types=np.array([[0, 2]])),
            r"token_types: expected numbers from 0 to 1, got 2",
        ),
        (
            lambda m: m.embed(m.params, np.zeros((1, 2), int), token_types=np.zeros((1, 2))),
            r"token_types: expected whole numbers, got dtype float64",
        ),
        (lambda m: m.apply(m.params, np.zeros((1, 2), int), layer=True), r"layer: .*got True"),
        (lambda m: m.apply(m.params, np.zeros((1, 2), int), layer=1.5), r"layer: .*got 1.5"),
        (
            lambda m: m(np.zeros((1, 13), int)),
            r"inputs: expected at most max_tokens = 12 tokens, got n = 13",
        ),
        (lambda m: m(np.zeros((1, 4), int), np.ones(3, bool)), r"mask: .*\(1, 4\), got \(3,\)"),
        (
            lambda m: m.encode(m.params, np.full((1, 2, 16), np.nan, np.float32)),
            r"embeddings: expected finite values",
        ),
        (lambda m: m.encode(m.params, np.zeros((16,), np.float32)), r"embeddings: .*\(16,\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(FAMILIES["bert"]())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: backbones.BertConfig(norm_eps=0.0), r"norm_eps: expected a finite number > 0, got 0"),
        (lambda: LinearScaling(0.0), r"factor: expected a finite number > 0, got 0"),
        (lambda: LinearScaling("4"), r"factor: expected a number"),
        (lambda: Llama3Scaling(8.0, 4.0, 1.0, 8192), r"high_freq_factor: .*> 4, got 1"),
        (lambda: backbones.BertConfig(num_heads=7), r"num_heads: .*width = 768, got 7"),
        (
            lambda: backbones.BertConfig(activation="mish"),
            r"activation: expected one of 'gelu', .*'mish'",
        ),
        (
            lambda: backbones.GPT2Config(kind="l2"),
            r"kind: expected attention.DotProduct or attention.L2",
        ),
        (
            lambda: backbones.GPT2Config(kind=L2(), scale_by_layer=True),
            r"scale_by_layer: expected False for L2",
        ),
        (
            lambda: backbones.DecoderConfig(50, 16, 2, 4, 3, 4, 24),
            r"num_kv_heads: .*num_heads = 4, got 3",
        ),
        (
            lambda: backbones.DecoderConfig(50, 16, 2, 4, 2, 4, 24, full_layers=(2,)),
            r"full_layers: expected blocks from 0 to 1, got 2",
        ),
    ],
)
def test_bad_configurations_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
