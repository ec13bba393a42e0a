"""Swin against its reference implementation: hidden states of every stage."""

import json

import jax
import numpy as np
import pytest
from parity import build, edit_config, run, save, transformers

from poolax import backbones

swin = pytest.importorskip("transformers.models.swin.modeling_swin")

TOLERANCE = 1e-5  # relative to the largest entry of a stage

SWIN = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 2,
}
CASES = {
    "swin": SWIN,
    "no-qkv-bias": SWIN | {"qkv_bias": False},
    "positions": SWIN | {"use_absolute_embeddings": True},
    "gelu-tanh": SWIN | {"hidden_act": "gelu_pytorch_tanh"},
    "mlp-ratio": SWIN | {"mlp_ratio": 2.3},
    "grey-eps": SWIN | {"num_channels": 1, "layer_norm_eps": 1e-2},
    "three-stages": SWIN | {"depths": [2, 3, 2], "num_heads": [1, 2, 4], "embed_dim": 6},
    "window-is-the-grid": SWIN | {"window_size": 4},
    "odd-window": SWIN | {"window_size": 3},  # 8 and 4 tokens a row, padded to 9 and 6
    "odd-grid": SWIN | {"image_size": 28, "window_size": 3},  # 7 tokens a row, then 4
}


def reference(fields, seed=0):
    return build(transformers.SwinModel, transformers.SwinConfig(**fields), seed)


def images(fields, count=2):
    shape = (count, fields["image_size"], fields["image_size"], fields.get("num_channels", 3))
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def channels_first(x):
    return x.transpose(0, 3, 1, 2).copy()


def assert_stages(backbone, out, x):
    apply = jax.jit(lambda params, x: [backbone.apply(params, x, layer=k).states for k in layers])
    layers = [*range(backbone.num_layers + 1), -1]
    expected = [state.numpy() for state in (*out.hidden_states, out.last_hidden_state)]
    for layer, found, states in zip(layers, apply(backbone.params, x), expected, strict=True):
        scale = max(np.abs(states).max(), 1.0)
        assert np.abs(np.asarray(found) - states).max() <= TOLERANCE * scale, layer


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_stages(fields, tmp_path):
    model = reference(fields)
    backbone = backbones.load(save(model, tmp_path))
    x = images(fields)
    assert_stages(backbone, run(model, pixel_values=channels_first(x)), x)


def clamped(config):
    """The reference with tables for the windows that its stages really have.

    Its own are for larger windows, and it fails there.
    """
    model = transformers.SwinModel(config)
    for stage, layer in enumerate(model.encoder.layers):
        window = min(config.window_size, config.image_size // config.patch_size // 2**stage)
        for block in layer.blocks:
            block.attention.relative_position_bias = swin.SwinRelativePositionBias(
                config.num_heads[stage], (window, window)
            )
    return model


def test_windows_larger_than_the_grid(tmp_path):
    fields = SWIN | {"window_size": 5}  # 8 tokens a row, padded to 10 and shifted, then 4
    model = build(clamped, transformers.SwinConfig(**fields))
    backbone = backbones.load(save(model, tmp_path / "clamped"))
    assert_stages(backbone, run(model, pixel_values=channels_first(images(fields))), images(fields))
    # A file of the reference's has the large tables; offsets beyond the window do not occur.
    whole = reference(fields)
    tables = {
        name: tensor.numpy()
        for name, tensor in whole.state_dict().items()
        if name.endswith("bias_table")
    }
    loaded = backbones.load(save(whole, tmp_path / "whole"))
    table = next(value for name, value in tables.items() if ".layers.1." in name)
    np.testing.assert_array_equal(
        loaded.params["encoder"]["stage_1"]["block_0"]["relative_bias"],
        table.reshape(9, 9, 4)[1:8, 1:8].reshape(49, 4),
    )


def test_attention_of_the_last_block_of_each_stage(tmp_path):
    model = reference(SWIN)
    backbone = backbones.load(save(model, tmp_path))
    x = images(SWIN)
    out = run(model, pixel_values=channels_first(x), output_attentions=True)
    weights = jax.jit(lambda x: backbone.apply(backbone.params, x, return_weights=True).weights)(x)
    for found, expected in zip(weights[1::2], out.attentions, strict=True):
        np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-5)


def test_a_batch_is_its_images(tmp_path):
    backbone = backbones.load(save(reference(SWIN), tmp_path))
    x = images(SWIN, 3)
    apply = jax.jit(lambda x: backbone(x).states)
    states = apply(x)
    for index in range(3):
        np.testing.assert_allclose(states[index], apply(x[index]), atol=1e-5)


def test_names_in_memory(tmp_path):
    model = reference(SWIN)
    config = json.loads((save(model, tmp_path) / "config.json").read_text())
    in_memory = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert any(name.endswith("attention.q_proj.weight") for name in in_memory)
    on_disk = backbones.load(tmp_path)
    same = backbones.from_state_dict(in_memory, config)
    assert same.config == on_disk.config
    jax.tree.map(np.testing.assert_array_equal, same.params, on_disk.params)


def test_heads_of_others_are_left_aside(tmp_path):
    for head in ("SwinForImageClassification", "SwinForMaskedImageModeling"):
        model = build(getattr(transformers, head), transformers.SwinConfig(**SWIN))
        backbone = backbones.load(save(model, tmp_path / head))
        x = images(SWIN)
        assert_stages(backbone, run(model.swin, pixel_values=channels_first(x)), x)


def test_images_that_are_not_square(tmp_path):
    save(reference(SWIN), tmp_path)
    edit_config(tmp_path, image_size=[32, 32])
    assert backbones.load(tmp_path).config.image_size == 32
    edit_config(tmp_path, image_size=[32, 64])
    with pytest.raises(ValueError, match=r"config: expected image_size .*\[32, 32\], got \[32, 64\]"):
        backbones.load(tmp_path)
