import dataclasses
import json
import math
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from jax.scipy.special import erf

from poolax import backbones
from poolax.attention import Cosine, DotProduct
from poolax.backbones import LipsFormer, LipsFormerConfig, Swin, SwinConfig
from poolax.backbones._lipsformer import _convolve, _convolve_by_shifts
from poolax.backbones._windows import partition, relative_bias, unpartition, window_segments

KEY = jax.random.key(0)
SIZES = {"patch_size": 2, "width": 8, "depths": (2, 1), "num_heads": (2, 4), "window_size": 4}
# 9 tokens a row, padded to 12, then 5, padded to 8.
SWIN = SwinConfig(18, **SIZES)
THEOREM = LipsFormerConfig(16, **SIZES, kind=Cosine(3.0, 1.5, 1e-2), use_shift=True)
GOLDEN = pathlib.Path(__file__).parent / "golden" / "lipsformer_a.npz"


def random_model(cls, config):
    """A model with random numbers everywhere; what ``init`` draws takes seconds to compile."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        scale = math.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.3
        one = path[-1].key.endswith("scale")
        return jnp.asarray(one + scale * rng.normal(size=leaf.shape), jnp.float32)

    model = jax.eval_shape(lambda: cls.init(config, KEY))
    return model.replace(params=jax.tree_util.tree_map_with_path(draw, model.params))


@pytest.fixture(scope="module")
def lipsformer():
    return random_model(LipsFormer, THEOREM)


@pytest.fixture(scope="module", params=["swin", "lipsformer"])
def family(request, lipsformer):
    return lipsformer if request.param == "lipsformer" else random_model(Swin, SWIN)


def images(config, *batch):
    shape = (*batch, config.image_size, config.image_size, config.num_channels)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_windows_are_cut_row_by_row_and_put_back():
    x = jnp.arange(2 * 6 * 6 * 3.0).reshape(2, 6, 6, 3)
    windows = partition(x, 3)
    assert_close(windows[:, 1], x[:, :3, 3:].reshape(2, 9, 3))
    assert_close(windows[:, 2], x[:, 3:, :3].reshape(2, 9, 3))
    np.testing.assert_array_equal(unpartition(windows), x)


def test_segments_part_what_was_never_adjacent():
    segments = window_segments(6, 3, 1)
    assert len(np.unique(segments[0])) == 1
    assert segments[1].reshape(3, 3).tolist() == [[1, 1, 2]] * 3
    assert len(np.unique(segments[3])) == 4


def test_bias_depends_on_the_offset():
    bias = relative_bias(jnp.arange(25.0)[:, None], 3)[0]
    assert bias[0, 0] == bias[8, 8] == 12  # no offset
    assert bias[0, 1] == bias[4, 5] == 11  # the key one column to the right
    assert bias[3, 0] == bias[7, 4] == 17  # the key one row above


def test_layers_weights_and_batches(family):
    config = family.config
    x = images(config, 2, 3)

    @jax.jit
    def states(params, x):
        out = family.apply(params, x, return_weights=True)
        first = family.apply(params, x, layer=1, return_weights=True)
        last = family.apply(params, x, layer=2).states
        return out, first, last, family.embed(params, x)[0]

    out, first, last, embeddings = states(family.params, x)
    counts = [config.grid(stage) ** 2 for stage in (0, 1)]
    chex.assert_shape([out.states, last, first.states], (2, 3, counts[1], 16))
    chex.assert_shape(embeddings, (2, 3, counts[0], 8))
    assert family.num_layers == 2
    assert len(first.weights) == 2
    assert first.weights[0].shape[3:] == (2, 16, 16)
    for weights, num_heads in zip(out.weights, (2, 2, 4), strict=True):
        chex.assert_shape(weights, (2, 3, weights.shape[2], num_heads, 16, 16))
        assert_close(weights.sum(-1), np.ones(weights.shape[:-1]))
    assert np.all(np.asarray(out.weights[0]) > 0)
    assert np.any(np.asarray(out.weights[1]) == 0)  # shifted windows hold several segments
    with pytest.raises(ValueError, match=r"layer: expected one of .*, whose layers differ in tokens"):
        family.apply(family.params, x, layer=(1, 2))
    single = family.apply(family.params, x[1, 2], return_weights=True)
    assert_close(single.states, out.states[1, 2])
    encoded = family.encode(family.params, embeddings[1, 2], layer=2)
    assert_close(encoded.states, last[1, 2])
    assert encoded.mask is None
    assert encoded.num_prefix == 0
    assert_close(family.apply(family.params, x[1, 2], layer=0).states, embeddings[1, 2])


def test_rematerialised_blocks_give_the_same(family):
    config = dataclasses.replace(family.config, depths=(1,), num_heads=(2,))
    model = random_model(type(family), config)
    x = images(config, 1)

    def loss(model, x):
        return jnp.sum(jnp.square(model(x).states))

    grad = jax.jit(jax.grad(loss))
    expected, again = grad(model, x), grad(model.replace(remat=True), x)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    assert scale > 0
    chex.assert_trees_all_close(again.params, expected.params, atol=1e-5 * scale)
    assert "remat" in str(jax.make_jaxpr(loss)(model.replace(remat=True), x))


def test_bfloat16_compute_stays_close(family):
    x = images(family.config, 1)
    apply = jax.jit(lambda backbone, x: backbone(x).states)
    full, half = apply(family, x), apply(family.replace(compute_dtype=jnp.bfloat16), x)
    assert half.dtype == jnp.bfloat16
    error = np.abs(np.asarray(half, np.float32) - full)
    assert 0 < error.max() < 0.05 * np.abs(full).max()


def test_layer_specs_describe_every_layer(family):
    specs = family.layer_specs(family.params)
    is_swin = isinstance(family, Swin)
    parts = ("attention", "ffn") if is_swin else ("conv1", "conv2", "attention", "ffn")
    names = [f"stage_0/block_{k}/{part}" for k in (0, 1) for part in parts]
    names += ["stage_0/merge", *(f"stage_1/block_0/{part}" for part in parts), "norm"]
    assert [spec.name for spec in specs] == names
    encoder = dict(family.params["encoder"])
    for stage in ("stage_0", "stage_1"):
        blocks = encoder[stage].items()
        encoder[stage] = {
            name: {part: value for part, value in block.items() if part != "relative_bias"}
            for name, block in blocks
        }
    described = {id(leaf) for leaf in jax.tree.leaves(specs)}
    assert described == {id(leaf) for leaf in jax.tree.leaves(encoder)}
    by_name = dict(zip(names, specs, strict=True))
    attention = by_name["stage_0/block_1/attention"]
    assert attention.branch.partition == 16
    assert attention.branch.kind == (DotProduct() if is_swin else THEOREM.kind)
    assert (attention.residual_scale is None) == is_swin
    before, after = ("layer", None) if is_swin else (None, "center")
    assert (attention.norm_before and attention.norm_before.kind) == before
    assert (attention.norm_after and attention.norm_after.kind) == after
    merge = by_name["stage_0/merge"]
    assert merge.branch.num_merged == 4
    assert not merge.residual
    assert merge.norm_before.scale.shape == (32,)


def test_specs_say_where_zero_tokens_take_part():
    config = SwinConfig(24, 4, width=8, depths=(1, 1), num_heads=(1, 2), window_size=4)
    swin = Swin.init(config, jax.random.key(0))
    specs = {spec.name: spec.branch for spec in swin.layer_specs(swin.params)}
    # Grids of 6 and 3 tokens a side, in windows of 4 and 3.
    assert specs["stage_0/block_0/attention"].padded
    assert not specs["stage_1/block_0/attention"].padded
    assert not specs["stage_0/merge"].padded


def double(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def plain_lipsformer(params, config, x):
    """The theorem's LipsFormer, with attention over the whole grid and a mask for the windows."""

    def gelu(x):
        return 0.5 * x * (1 + np.asarray(erf(x / math.sqrt(2))))

    def dense(part, x):
        return x @ part["kernel"] + part["bias"]

    def norm(part, x):
        d = x.shape[-1]
        return part["scale"] * d / (d - 1) * (x - x.mean(-1, keepdims=True)) + part["bias"]

    def depthwise(part, x):
        side = math.isqrt(x.shape[1])
        padded = np.pad(x.reshape(-1, side, side, x.shape[2]), ((0, 0), (3, 3), (3, 3), (0, 0)))
        out = np.stack(
            [
                np.einsum("bijd,ijd->bd", padded[:, r : r + 7, c : c + 7], part["kernel"])
                for r in range(side)
                for c in range(side)
            ],
            axis=1,
        )
        return out + part["bias"]

    def unit(x):
        return x / np.sqrt((x**2).sum(-1, keepdims=True) + config.kind.eps)

    def attend(block, x, shift):
        side, window = math.isqrt(x.shape[1]), 4
        place = np.stack(np.divmod(np.arange(side**2), side))
        offset = place[:, :, None] - place[:, None]
        cut = (place - shift) % side // window
        same = (cut[:, :, None] == cut[:, None]).all(0) & (np.abs(offset) < window).all(0)
        row, column = np.clip(offset, 1 - window, window - 1) + window - 1
        bias = block["relative_bias"][row * (2 * window - 1) + column]
        part = block["attention"]
        out = np.zeros_like(x) + part["out"]["bias"]
        for h in range(bias.shape[-1]):
            q, k, v = (
                unit(x @ part[name]["kernel"][:, h] + part[name]["bias"][h])
                for name in ("query", "key", "value")
            )
            logits = config.kind.tau * q @ k.swapaxes(-1, -2) + bias[..., h]
            weights = np.where(same, np.exp(logits), 0.0)
            weights /= weights.sum(-1, keepdims=True)
            out += config.kind.nu * weights @ v @ part["out"]["kernel"][h]
        return out

    def block(p, x, shift):
        y = gelu(dense(p["conv1"]["pointwise"], gelu(depthwise(p["conv1"]["depthwise"], x))))
        x = x + p["conv1_scale"] * y
        x = x + p["conv2_scale"] * gelu(depthwise(p["conv2"]["depthwise"], x))
        x = norm(p["norm1"], x + p["attention_scale"] * attend(p, x, shift))
        y = dense(p["ffn"]["out"], gelu(dense(p["ffn"]["hidden"], x)))
        return norm(p["norm2"], x + p["ffn_scale"] * y)

    e, encoder = params["embeddings"], params["encoder"]
    side, patch = config.grid(0), config.patch_size
    tokens = [
        x[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].reshape(len(x), -1)
        for r in range(side)
        for c in range(side)
    ]
    x = norm(e["norm"], dense(e["patch"], np.stack(tokens, axis=1)))
    states = [x]
    x = block(encoder["stage_0"]["block_0"], x, 0)
    x = block(encoder["stage_0"]["block_1"], x, 2)
    grid = x.reshape(-1, side, side, 8)
    corners = [grid[:, 0::2, 0::2], grid[:, 1::2, 0::2], grid[:, 0::2, 1::2], grid[:, 1::2, 1::2]]
    x = np.concatenate(corners, axis=-1).reshape(-1, (side // 2) ** 2, 32)
    x = norm(encoder["stage_0"]["merge"]["norm"], x) @ encoder["stage_0"]["merge"]["kernel"]
    states.append(x)
    x = block(encoder["stage_1"]["block_0"], x, 0)
    return [*states, x, norm(encoder["norm"], x)]


def test_lipsformer_of_the_theorem_against_a_plain_forward(lipsformer, x64):
    params = double(lipsformer.params)
    model = lipsformer.replace(params=jax.tree.map(jnp.asarray, params))
    x = images(THEOREM, 2).astype(np.float64)
    layers = (0, 1, 2, -1)
    found = jax.jit(lambda m, x: [m.apply(m.params, x, layer=k).states for k in layers])(model, x)
    for states, expected in zip(found, plain_lipsformer(params, THEOREM, x), strict=True):
        assert states.dtype == jnp.float64
        assert_close(states, expected, 1e-12)


def golden(dtype):
    data = np.load(GOLDEN)
    tensors = {
        name.removeprefix("param/"): data[name].astype(dtype)
        for name in data.files
        if name.startswith("param/")
    }
    config = {"model_type": "lipsformer_swin", **json.loads(str(data["config"]))}
    return data, tensors, config, data["input"].transpose(0, 2, 3, 1).astype(dtype)


def assert_golden(dtype, tolerance):
    data, tensors, config, x = golden(dtype)
    model = backbones.from_state_dict(tensors, config)
    layers = {"stage0": 0, "stage1": 1, "stage2": 2, "tokens": -1}

    @jax.jit
    def apply(params, x):
        return {name: model.apply(params, x, layer=k).states for name, k in layers.items()}

    for name, states in apply(model.params, x).items():
        assert states.dtype == dtype
        np.testing.assert_allclose(states, data[name], rtol=0, atol=tolerance)


def test_the_released_model_in_single_precision():
    assert_golden(np.float32, 1e-5)


def test_the_released_model_in_double_precision(x64):
    assert_golden(np.float64, 1e-10)


def test_released_state_dicts_say_their_sizes():
    _, tensors, config, _ = golden(np.float32)
    expected = backbones.from_state_dict(tensors, config)
    assert expected.config.kind == Cosine(10.0, 1.0, 1e-24, plain_values=True)
    released = {f"module.{name}": tensor for name, tensor in tensors.items()}
    released["module.layers.0.blocks.0.attn.relative_position_index"] = np.zeros((16, 16), int)
    found = backbones.from_state_dict(released, {"model_type": "lipsformer_swin", "img_size": 32})
    assert found.config == expected.config
    chex.assert_trees_all_equal(found.params, expected.params)
    with pytest.raises(ValueError, match=r"stacked: expected False for LipsFormer"):
        backbones.from_state_dict(tensors, config, stacked=True)
    with pytest.raises(ValueError, match=r"config: expected ape to be one of False, got True"):
        backbones.from_state_dict(tensors, config | {"ape": True})
    with pytest.raises(ValueError, match=r"config: expected a field 'img_size'"):
        backbones.from_state_dict(tensors, {"model_type": "lipsformer_swin"})
    with pytest.raises(ValueError, match=r"config: expected a field 'patch_size'"):
        backbones.from_state_dict({}, {"model_type": "lipsformer_swin", "img_size": 32})


def test_kernels_begin_with_spectral_norm_one():
    p = double(LipsFormer.init(THEOREM, KEY).params)
    block = p["encoder"]["stage_0"]["block_1"]
    attention, convolution = block["attention"], block["conv1"]
    matrices = [
        p["embeddings"]["patch"]["kernel"],
        convolution["depthwise"]["kernel"].reshape(49, 8),
        convolution["pointwise"]["kernel"],
        np.concatenate(
            [attention[name]["kernel"].reshape(8, 8) for name in ("query", "key", "value")], axis=1
        ),
        attention["out"]["kernel"].reshape(8, 8),
        block["ffn"]["hidden"]["kernel"],
        block["ffn"]["out"]["kernel"],
        p["encoder"]["stage_0"]["merge"]["kernel"],
    ]
    for matrix in matrices:
        assert_close(np.linalg.norm(matrix, ord=2), 1.0)
    assert np.linalg.norm(attention["query"]["kernel"].reshape(8, 8), ord=2) < 0.99
    for branch in ("conv1", "conv2", "attention", "ffn"):
        assert_close(block[f"{branch}_scale"], np.full(8, 1 / 3))
    assert not np.any(attention["query"]["bias"])
    assert not np.any(block["ffn"]["out"]["bias"])
    for bias, inputs in (
        (convolution["depthwise"]["bias"], 49),
        (convolution["pointwise"]["bias"], 8),
        (p["embeddings"]["patch"]["bias"], 12),
    ):
        assert 0.3 * inputs**-0.5 < np.abs(bias).max() <= inputs**-0.5


def test_branches_are_scaled(lipsformer):
    """Without any branch a block is its two norms."""
    block = lipsformer.params["encoder"]["stage_0"]["block_0"]
    still = {name: 0 * leaf if name.endswith("_scale") else leaf for name, leaf in block.items()}
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 64, 8)), jnp.float32)
    found = lipsformer.block(0, 0).apply({"params": still}, x)
    for norm in (block["norm1"], block["norm2"]):
        x = 8 / 7 * norm["scale"] * (x - x.mean(-1, keepdims=True)) + norm["bias"]
    assert_close(found, x)


def test_both_convolutions_agree():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 5, 5, 3)), rng.normal(size=(7, 7, 3))
    x, kernel = jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)
    assert_close(_convolve(x, kernel), _convolve_by_shifts(x, kernel))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for_other_devices(lipsformer, platform):
    x = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    lowered = jax.export.export(jax.jit(lambda m, x: m(x).states), platforms=[platform])(lipsformer, x)
    assert "convolution" in lowered.mlir_module()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m(np.zeros((1, 8, 8, 3), np.float32)),
            r"inputs: expected shape .*16, 16, 3\), got \(1, 8, 8, 3\)",
        ),
        (lambda m: m(np.zeros((16, 16, 3), np.uint8)), r"inputs: expected a floating dtype, got uint8"),
        (lambda m: m(np.full((16, 16, 3), np.nan)), r"inputs: expected finite values"),
        (
            lambda m: m(images(THEOREM, 1), np.ones(64, bool)),
            r"mask: expected None, since tokens are merged .*, got an array",
        ),
        (
            lambda m: m.encode(m.params, np.zeros((1, 64, 8), np.float32), np.ones(64, bool)),
            r"mask: expected None",
        ),
        (
            lambda m: m.encode(m.params, np.zeros((1, 60, 8), np.float32)),
            r"embeddings: expected shape \('\*batch', 64, 8\), got \(1, 60, 8\)",
        ),
        (
            lambda m: m.apply(m.params, images(THEOREM, 1), layer=3),
            r"layer: expected -1 to 2, got 3",
        ),
        (lambda m: SwinConfig(18, 4), r"patch_size: .*image_size = 18, got 4"),
        (lambda m: SwinConfig(depths=[2, 2, 2, 2]), r"depths: expected a tuple .*got \[2, 2, 2, 2\]"),
        (lambda m: SwinConfig(depths=(2, 2)), r"num_heads: expected 2 numbers as in depths"),
        (lambda m: SwinConfig(depths=(2, 0, 2, 2)), r"depths: .* >= 1, got 0"),
        (lambda m: SwinConfig(depths=(), num_heads=()), r"number of depths: .* >= 1, got 0"),
        (
            lambda m: SwinConfig(num_heads=(3, 5, 12, 24)),
            r"num_heads: .*width of stage 1 = 192, got 5",
        ),
        (lambda m: SwinConfig(mlp_ratio=0.001), r"mlp_ratio \* width: .* >= 1, got 0"),
        (lambda m: SwinConfig(activation="mish"), r"activation: expected one of .*'mish'"),
        (lambda m: LipsFormerConfig(kind=DotProduct()), r"kind: expected attention.Cosine, got Dot"),
        (
            lambda m: LipsFormerConfig(window_size=6),
            r"window_size: expected a divisor of the 56 tokens of a row in stage 0, got 6",
        ),
        (
            lambda m: LipsFormerConfig(20, depths=(1, 1), num_heads=(1, 1)),
            r"depths: expected an even grid to merge after stage 0, got side 5",
        ),
    ],
)
def test_bad_input_is_named(lipsformer, call, message):
    with pytest.raises(ValueError, match=message):
        call(lipsformer)
