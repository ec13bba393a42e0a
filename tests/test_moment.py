import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from helpers import assert_close

from poolax.attention import DotProduct
from poolax.backbones import from_state_dict
from poolax.backbones._moment import Moment, MomentConfig, sinusoids
from poolax.backbones._relative import relative_buckets
from poolax.backbones._series import SeriesPreprocess
from poolax.backbones.pretrained._moment import MOMENT

GOLDEN = pathlib.Path(__file__).parent / "golden" / "moment_a.npz"
T5 = {
    "d_model": 8,
    "d_ff": 12,
    "d_kv": 3,
    "num_heads": 2,
    "num_layers": 2,
    "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 5,
}
RAW = {"seq_len": 24, "patch_len": 4, "patch_stride_len": 4, "d_model": None, "t5_config": T5}
HUB = {
    "task_name": "reconstruction",
    "model_name": "MOMENT",
    "transformer_type": "encoder_only",
    "d_model": None,
    "seq_len": 512,
    "patch_len": 8,
    "patch_stride_len": 8,
    "device": "cpu",
    "model_kwargs": {},
}
PROJECTIONS = ("relu", "gelu", "silu", "gated-relu", "gated-gelu", "gated-silu")


def edited(**t5):
    return {**RAW, "t5_config": {**T5, **t5}}


def read(tensors, raw, **options):
    return from_state_dict(tensors, {"model_name": "MOMENT", **raw}, **options)


def state_dict(raw, rows=10, seed=0):
    """Random tensors by the names of a checkpoint."""
    rng, t5 = np.random.default_rng(seed), raw["t5_config"]
    d, hidden, inner = t5["d_model"], t5["d_ff"], t5["num_heads"] * t5["d_kv"]
    buckets = t5["relative_attention_num_buckets"]
    shapes = {
        "patch_embedding.mask_embedding": (d,),
        "patch_embedding.value_embedding.weight": (d, raw["patch_len"]),
        "patch_embedding.position_embedding.pe": (1, rows, d),
        "encoder.embed_tokens.weight": (5, d),
        "encoder.final_layer_norm.weight": (d,),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (buckets, t5["num_heads"]),
        "head.linear.weight": (raw["patch_len"], d),
        "head.linear.bias": (raw["patch_len"],),
    }  # fmt: skip
    if raw.get("value_embedding_bias"):
        shapes["patch_embedding.value_embedding.bias"] = (d,)
    if raw.get("revin_affine"):
        shapes |= {f"normalizer.affine_{name}": (1, 1, 1) for name in ("weight", "bias")}
    gated = t5["feed_forward_proj"].startswith("gated-")
    for index in range(t5["num_layers"]):
        block = f"encoder.block.{index}.layer"
        shapes |= {f"{block}.0.SelfAttention.{part}.weight": (inner, d) for part in "qkv"}
        shapes[f"{block}.0.SelfAttention.o.weight"] = (d, inner)
        shapes |= {f"{block}.{layer}.layer_norm.weight": (d,) for layer in (0, 1)}
        ffn = f"{block}.1.DenseReluDense"
        shapes |= {
            f"{ffn}.{name}.weight": (hidden, d) for name in (("wi_0", "wi_1") if gated else ("wi",))
        }
        shapes[f"{ffn}.wo.weight"] = (d, hidden)
    return {
        name: rng.normal(size=shape, scale=0.6).astype(np.float32) for name, shape in shapes.items()
    }


def reference(p, raw, x, mask, hidden):
    """Embeddings and reconstruction of one series, by loops over blocks in float64."""
    p = {name: tensor.astype(np.float64) for name, tensor in p.items()}
    t5, length = raw["t5_config"], raw["patch_len"]
    observed = mask & ~hidden
    mean, scale = x[observed].mean(), x[observed].std() + 1e-5
    weight, shift = (
        p.get(f"normalizer.affine_{n}", np.array(v)).item() for n, v in (("weight", 1.0), ("bias", 0.0))
    )
    y = np.where(observed, (x - mean) / scale * weight + shift, 0)
    h = y.reshape(-1, length) @ p["patch_embedding.value_embedding.weight"].T
    h = h + p.get("patch_embedding.value_embedding.bias", 0)
    h = np.where(observed.reshape(-1, length).all(1)[:, None], h, p["patch_embedding.mask_embedding"])
    h = h + p["patch_embedding.position_embedding.pe"][0, : len(h)]
    keys = mask.reshape(-1, length).all(1)
    table = p["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    sizes = t5["relative_attention_num_buckets"], t5["relative_attention_max_distance"]
    bias = np.array(
        [[table[plain_bucket(j - i, *sizes)] for j in range(len(h))] for i in range(len(h))]
    )
    name = t5["feed_forward_proj"]
    act = {
        "relu": lambda v: np.maximum(v, 0),
        "silu": lambda v: v * scipy.special.expit(v),
        "gated-gelu": lambda v: v / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
        "gelu": lambda v: v * scipy.special.ndtr(v),
    }  # fmt: skip
    act = act.get(name) or act[name.removeprefix("gated-")]

    def norm(v, scale):
        return v / np.sqrt((v**2).mean(-1, keepdims=True) + 1e-6) * p[scale]

    for index in range(t5["num_layers"]):
        block = f"encoder.block.{index}.layer"
        v = norm(h, f"{block}.0.layer_norm.weight")
        q, k, v = (
            (v @ p[f"{block}.0.SelfAttention.{part}.weight"].T).reshape(len(h), -1, t5["d_kv"])
            for part in "qkv"
        )
        logits = np.einsum("ihc,jhc->hij", q, k) + bias.transpose(2, 0, 1)
        weights = scipy.special.softmax(np.where(keys, logits, -np.inf), axis=-1)
        out = np.einsum("hij,jhc->ihc", weights, v).reshape(len(h), -1)
        h = h + out @ p[f"{block}.0.SelfAttention.o.weight"].T
        v, ffn = norm(h, f"{block}.1.layer_norm.weight"), f"{block}.1.DenseReluDense"
        if name.startswith("gated-"):
            v = act(v @ p[f"{ffn}.wi_0.weight"].T) * (v @ p[f"{ffn}.wi_1.weight"].T)
        else:
            v = act(v @ p[f"{ffn}.wi.weight"].T)
        h = h + v @ p[f"{ffn}.wo.weight"].T
    h = norm(h, "encoder.final_layer_norm.weight")
    y = (h @ p["head.linear.weight"].T + p["head.linear.bias"]).reshape(-1)
    y = (y - shift) / (weight + 1e-10) if "normalizer.affine_weight" in p else y
    return h, keys, y * scale + mean


def plain_bucket(offset, num_buckets, max_distance):
    half = num_buckets // 2
    exact, side = half // 2, half if offset > 0 else 0
    if abs(offset) < exact:
        return side + abs(offset)
    share = math.log(abs(offset) / exact) / math.log(max_distance / exact)
    return side + min(half - 1, exact + int(share * (half - exact) + 1e-6))


@functools.cache
def golden():
    with np.load(GOLDEN) as data:
        found = {name: data[name] for name in data.files}
    tensors = {name[6:]: x for name, x in found.items() if name.startswith("param/")}
    return tensors, json.loads(str(found["config"])), found


@pytest.fixture(scope="module")
def moment():
    return read(state_dict(RAW), RAW)


@functools.partial(jax.jit, static_argnames="layer")
def states(model, x, mask=None, layer=-1):
    return model.apply(model.params, x, mask, layer=layer)


@jax.jit
def reconstruct(model, x, mask=None, hidden=None):
    return model.reconstruct(model.params, x, mask, hidden)


def series(*batch, steps=24, seed=1):
    x = np.random.default_rng(seed).normal(size=(*batch, steps)).cumsum(-1)
    return (3 + x).astype(np.float32)


def test_against_the_release():
    tensors, raw, data = golden()
    model = read(tensors, raw)
    mask = data["input_mask"][:, None] != 0
    out = model(data["x_enc"], mask)
    seen = np.asarray(out.mask)[..., None]
    assert_close(out.states * seen, data["embeddings"] * seen)
    mean = np.asarray(jnp.mean(out.states, axis=1)), seen[:, 0]
    assert_close((mean[0] * mean[1]).sum(1) / mean[1].sum(1), data["embeddings_mean"])
    hidden = data["mask"][:, None] == 0
    found = reconstruct(model, data["x_enc"], mask, hidden)
    expected = np.where(np.repeat(seen[..., 0], 8, axis=-1), data["reconstruction"], 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert_close(sinusoids(64, 32), tensors["patch_embedding.position_embedding.pe"][0, :64])


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_against_a_plain_forward(projection):
    extras = {"value_embedding_bias": True, "revin_affine": True} if projection == "relu" else {}
    raw = edited(feed_forward_proj=projection) | extras
    tensors = state_dict(raw)
    model = read(tensors, raw)
    x, mask, hidden = series(), np.arange(24) >= 6, np.isin(np.arange(24), (13, 20))
    h, keys, y = reference(tensors, raw, x.astype(np.float64), mask, hidden)
    np.testing.assert_array_equal(keys, [False, False, True, True, True, True])
    embeddings, patches = model.embed(model.params, x, mask, hidden=hidden)
    np.testing.assert_array_equal(patches, keys)
    out = jax.jit(model.encode)(model.params, embeddings, patches)
    assert_close(out.states[keys], h[keys], 2e-5)
    expected = np.where(np.repeat(keys, 4), y, 0)
    assert_close(reconstruct(model, x, mask, hidden), expected, 2e-5)


def test_layers_weights_and_batches(moment):
    x = series(2, 3)
    out = moment.apply(moment.params, x, return_weights=True)
    assert out.states.shape == (2, 3, 6, 8)
    assert [w.shape for w in out.weights] == [(2, 3, 2, 6, 6)] * 2
    assert (out.mask, out.num_prefix, moment.summary_token) == (None, 0, "last")
    embeddings, mask = moment.embed(moment.params, x)
    assert_close(moment.apply(moment.params, x, layer=0).states, embeddings)
    assert_close(moment.encode(moment.params, embeddings, mask).states, out.states)
    assert_close(moment(x[1, 2]).states, out.states[1, 2])
    assert moment(x[:0]).states.shape == (0, 3, 6, 8)
    with pytest.raises(ValueError, match=r"layer: expected -1 to 2, got 3"):
        moment.apply(moment.params, x, layer=3)


@pytest.mark.parametrize("layer", [-1, 1])
def test_stacked_layers_are_the_same(moment, layer):
    x, mask = series(2), np.arange(24) >= 8
    stacked = moment.stack_layers()
    assert set(stacked.params["encoder"]) == {"blocks", "norm", "relative_bias"}
    expected = states(moment, x, mask, layer=layer).states
    assert_close(states(stacked, x, mask, layer=layer).states, expected)
    filled = read(state_dict(RAW), RAW, stacked=True)
    jax.tree.map(np.testing.assert_array_equal, filled.params, stacked.params)


def test_layers_describe_themselves(moment):
    specs = moment.layer_specs(moment.params)
    names = [f"block_{k}/{part}" for k in (0, 1) for part in ("attention", "ffn")] + ["norm"]
    assert [spec.name for spec in specs] == names
    assert specs[0].branch.kind == DotProduct(scale=1.0)
    assert {spec.norm_before.kind for spec in specs[:4]} == {"rms"}
    assert "gate" in specs[1].branch.params


def test_padded_batches_equal_single_series(moment):
    x = series(3)
    mask = np.ones((3, 24), bool)
    mask[0, 16:] = False
    mask[1, :8] = False
    batch = states(moment, x, mask)
    for row, real in zip(range(3), (slice(0, 4), slice(2, 6), slice(0, 6)), strict=True):
        one = states(moment, x[row], mask[row])
        assert_close(batch.states[row, real], one.states[real])
        assert_close(batch.states[row, ~np.asarray(one.mask)], 0)
    right = states(moment, x[0, :16])
    assert_close(batch.states[0, :4], right.states)


@pytest.mark.parametrize("fill", [np.nan, np.inf, 1e30])
def test_unobserved_steps_reach_nothing(moment, fill):
    x, mask, hidden = series(2), np.ones((2, 24), bool), np.isin(np.arange(24), (17, 18))
    mask[0, :5] = mask[1, 20:] = False
    garbled = jnp.asarray(np.where(mask & ~hidden, x, fill))

    @jax.jit
    def run(x):
        embeddings, patches = moment.embed(moment.params, x, mask, hidden=hidden)
        y = moment.reconstruct(moment.params, x, mask, hidden)
        return moment.encode(moment.params, embeddings, patches).states, y

    for found, expected in zip(run(garbled), run(x), strict=True):
        np.testing.assert_array_equal(found, expected)
    gradient = jax.jit(jax.grad(lambda x: sum(jnp.sum(jnp.sin(out)) for out in run(x))))(garbled)
    assert np.isfinite(gradient).all()
    assert not gradient[~mask | hidden].any()
    assert gradient[mask & ~hidden].all()
    moment.embed(moment.params, garbled, mask, hidden=hidden)  # outside of jit nothing is refused


def test_nothing_observed(moment):
    x = np.full((2, 24), np.nan, np.float32)
    embeddings, patches = moment.embed(moment.params, x, np.zeros(24, bool))
    tables = moment.params["embeddings"]
    assert not patches.any()
    assert_close(embeddings[0], tables["mask_embedding"] + tables["position"][:6])
    assert_close(states(moment, x, np.zeros(24, bool)).states, 0)
    for masks in ((np.zeros(24, bool), None), (None, np.ones(24, bool))):
        assert_close(reconstruct(moment, x, *masks), 0)


def test_a_constant_series_has_finite_gradients(moment):
    x = jnp.full(24, 7.0)
    out, gradient = jax.value_and_grad(lambda x: states(moment, x).states.sum())(x)
    assert np.isfinite(out)
    assert np.isfinite(gradient).all()


def test_scale_and_shift_of_the_series(moment):
    x = series(2)
    assert_close(states(moment, 100 * x - 40).states, states(moment, x).states, 1e-4)
    hidden = np.arange(24) < 8
    found, plain = (reconstruct(moment, batch, None, hidden) for batch in (100 * x - 40, x))
    assert_close(found, 100 * plain - 40, 1e-4)


@pytest.mark.parametrize("sizes", [(32, 128), (8, 16), (8, 5), (4, 2), (7, 20)])
def test_relative_buckets(sizes):
    found = relative_buckets(40, *sizes)
    expected = [[plain_bucket(key - query, *sizes) for key in range(40)] for query in range(40)]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("sizes", [(32, 128), (8, 16), (32, 64), (16, 100)])
def test_relative_buckets_against_transformers(sizes):
    torch = pytest.importorskip("torch", reason="install with tests/install_parity.sh")
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5", reason="see tests/install_parity.sh")
    offset = torch.arange(300)[None] - torch.arange(300)[:, None]
    bucket = t5.T5Attention._relative_position_bucket
    expected = bucket(offset, bidirectional=True, num_buckets=sizes[0], max_distance=sizes[1])
    np.testing.assert_array_equal(relative_buckets(300, *sizes), expected.numpy())


def test_random_model_reads_what_it_is_given():
    config = MomentConfig(
        16, 4, 6, 8, 1, 2, 3, 12, num_buckets=4, use_value_bias=True, use_revin_affine=True
    )
    model = jax.jit(lambda key: Moment.init(config, key, SeriesPreprocess(16, 4)))(jax.random.key(0))
    tables = model.params["embeddings"]
    assert set(tables) == {"value", "mask_embedding", "position", "revin"}
    assert_close(tables["position"], sinusoids(6, 8))
    x, mask = model.preprocess(series(2, steps=9))
    assert_close(states(model, x, mask).mask, [[False, False, True, True]] * 2)
    assert reconstruct(model, x, mask).shape == (2, 16)


@pytest.mark.parametrize(
    ("size", "sizes", "count"),
    [
        ("small", (512, 8, 6, 64, 1024), 37_901_512),
        ("base", (768, 12, 12, 64, 2048), 113_481_608),
        ("large", (1024, 24, 16, 64, 2816), 346_368_520),
    ],
)
def test_published_configurations(size, sizes, count):
    raw = {**HUB, "transformer_backbone": f"google/flan-t5-{size}"}
    named = dict(zip(("d_model", "num_layers", "num_heads", "d_kv", "d_ff"), sizes, strict=True))
    full = {**named, "feed_forward_proj": "gated-gelu", "is_encoder_decoder": True, "model_type": "t5"}
    config = MOMENT.read_config({**raw, "t5_config": full}, {})
    assert config == MOMENT.read_config(raw, {})
    found = (config.width, config.num_layers, config.num_heads, config.head_dim, config.mlp_dim)
    assert found == sizes
    assert (config.num_steps, config.num_buckets, config.max_distance) == (512, 32, 128)
    model = jax.eval_shape(lambda: Moment.init(config, jax.random.key(0)))
    assert model.num_parameters == count - 32128 * config.width
    assert MOMENT.read_preprocess(None, raw, config) == SeriesPreprocess(512, 8)


def test_checkpoints_are_recognized():
    shapes = {name: x.shape for name, x in state_dict(RAW).items()}
    assert MOMENT.recognizes(RAW, shapes)
    assert MOMENT.recognizes(HUB, {})
    assert not MOMENT.recognizes({}, {"patch_embed.proj.weight": (8, 3, 4, 4)})


def test_a_checkpoint_of_another_task_has_no_head():
    raw = {**RAW, "task_name": "classification"}
    tensors = state_dict(raw) | {"head.linear.weight": np.zeros((3, 8), np.float32)}
    model = read(tensors, raw)
    assert "head" not in model.params
    with pytest.raises(ValueError, match=r"config: expected use_head = True to reconstruct, got False"):
        model.reconstruct(model.params, series())


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({**RAW, "patch_stride_len": 2}, r"config: expected patch_stride_len to be one of 4, got 2"),
        ({**RAW, "transformer_type": "decoder_only"}, r"transformer_type .* 'encoder_only', got 'decoder_only'"),
        ({**RAW, "add_positional_embedding": False}, r"add_positional_embedding .* True, got False"),
        ({**RAW, "d_model": 16}, r"config: expected d_model to be one of None, 8, got 16"),
        (edited(feed_forward_proj="gated-mish"), r"feed_forward_proj: expected one of .*, got 'mish'"),
        ({**HUB, "transformer_backbone": "t5-xl"}, r"config: expected a t5_config or .*, got 't5-xl'"),
        ({**RAW, "t5_config": {"d_model": 8}}, r"config: expected a field 'num_layers', got d_model"),
    ],
)  # fmt: skip
def test_what_is_not_implemented_is_refused(raw, message):
    with pytest.raises(ValueError, match=message):
        MOMENT.read_config(raw, {})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(np.float32(1)), r"inputs: expected shape \(\*batch, steps\), steps >= 1, got \(\)"),
        (lambda m: m(np.zeros((2, 0), np.float32)), r"inputs: .* got \(2, 0\)"),
        (lambda m: m(np.zeros((2, 24), int)), r"inputs: expected a floating dtype, got int"),
        (lambda m: m(series(steps=22)), r"inputs: expected steps that fill patches of 4, got 22"),
        (lambda m: m(series(steps=44)), r"inputs: expected at most 10 patches of 4 steps, got 44 steps"),
        (lambda m: m(np.full(24, np.nan, np.float32)), r"inputs: expected finite values"),
        (lambda m: m(series(2), np.ones(6, bool)), r"mask: .*\(2, 24\), got \(6,\)"),
        (lambda m: m.embed(m.params, series(), hidden=np.ones(24)), r"hidden: expected dtype bool"),
        (lambda m: MomentConfig(num_steps=20), r"patch_len: expected a divisor of num_steps = 20, got 8"),
        (lambda m: MomentConfig(max_patches=63), r"max_patches: expected a whole number >= 64, got 63"),
        (lambda m: MomentConfig(num_buckets=3), r"num_buckets: expected a whole number >= 4, got 3"),
        (lambda m: MomentConfig(max_distance=8), r"max_distance: expected a whole number >= 9, got 8"),
        (lambda m: MomentConfig(activation="mish"), r"activation: expected one of .*, got 'mish'"),
    ],
)  # fmt: skip
def test_bad_input_is_named(moment, call, message):
    with pytest.raises(ValueError, match=message):
        call(moment)


def test_half_precision_is_close(moment):
    x, mask = series(4), np.arange(24) >= 4
    half = moment.replace(compute_dtype=jnp.bfloat16)
    out = states(half, x, mask)
    assert out.states.dtype == jnp.bfloat16
    full = states(moment, x, mask).states
    assert_close(out.states.astype(jnp.float32), full, 0.05)
    y, expected = (reconstruct(m, x, mask) for m in (half, moment))
    assert y.dtype == jnp.float32
    assert_close(y, expected, 0.05)


def test_double_precision_stays(x64):
    tensors = {name: x.astype(np.float64) for name, x in state_dict(RAW).items()}
    x, everything = series().astype(np.float64), np.ones(24, bool)
    model = read(tensors, RAW)
    h, _, y = reference(tensors, RAW, x, everything, ~everything)
    np.testing.assert_allclose(model(x).states, h, rtol=0, atol=1e-12)
    np.testing.assert_allclose(model.reconstruct(model.params, x), y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [13, 24, 36, 720])
def test_resampling_against_torch(steps):
    torch = pytest.importorskip("torch", reason="install with tests/install_parity.sh")
    x = series(2, 3, steps=steps)
    expected = torch.nn.functional.interpolate(
        torch.tensor(x), size=12, mode="linear", align_corners=False
    )
    found, mask = SeriesPreprocess(12, 4)(x)
    assert_close(found, expected.numpy())
    assert mask.all()


def test_resampling_by_hand():
    x = np.array([4.0, 1.0, np.nan, 3.0, 8.0, 5.0], np.float32)
    found, mask = jax.jit(SeriesPreprocess(4, 2))(x)  # read at 0.25, 1.75, 3.25, 4.75
    assert_close(found, [3.25, 0.0, 4.25, 5.75])
    np.testing.assert_array_equal(mask, [True, False, True, True])
    third = np.array([np.nan, 1.0, np.nan, np.nan, 2.0, np.inf], np.float32)
    found, mask = SeriesPreprocess(2, 2)(third, np.arange(6) < 5)  # read at 1 and at 4 alone
    assert_close(found, [1.0, 2.0])
    assert mask.all()


def test_padding_and_gaps():
    preprocess = SeriesPreprocess(8, 2)
    x, mask = preprocess(
        np.array([[1.0, 2.0, 3.0, np.nan, 5.0]], np.float32), np.array([True] * 4 + [False])
    )
    assert_close(x, [[0, 0, 0, 1, 2, 3, 0, 0]])
    np.testing.assert_array_equal(mask, [[False] * 3 + [True] * 3 + [False] * 2])
    equal, mask = preprocess(series(2, steps=8))
    np.testing.assert_array_equal(equal, series(2, steps=8))
    assert mask.all()


def test_preprocessing_describes_itself():
    preprocess = SeriesPreprocess()
    assert preprocess.describe(512) == {"steps": 512}
    assert preprocess.describe(720) == {"steps": 720, "resampled_to": 512}
    assert preprocess.describe(96) == {"steps": 96, "padded_to": 512}
    assert preprocess.describe(100) == {"steps": 100, "padded_to": 512, "steps_in_padded_patch": 4}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p(np.float32(1)), r"series: expected shape \(\*batch, steps\), got \(\)"),
        (lambda p: p(np.zeros(20, int)), r"series: expected a floating dtype, got int"),
        (lambda p: p(series(steps=7)), r"series: expected at least one patch of 8 steps, got 7"),
        (lambda p: p.describe(0), r"num_steps: expected at least one patch of 8 steps, got 0"),
        (lambda p: p(series(2), np.ones(2, bool)), r"mask: .*\(2, 24\), got \(2,\)"),
        (lambda p: SeriesPreprocess(20, 8), r"patch_len: expected a divisor of num_steps = 20, got 8"),
    ],
)
def test_bad_series_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(SeriesPreprocess())
