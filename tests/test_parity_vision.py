"""Vision Transformers against their reference implementations, at many sizes of images."""

import json

import jax
import numpy as np
import pytest
from parity import build, edit_config, run, save, transformers

from poolax import backbones
from poolax._patches import patchify

TOLERANCE = 1e-5  # relative to the largest entry of a layer

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}
VIT = SIZES | {"intermediate_size": 24}
GREY = {"num_channels": 1, "hidden_act": "relu", "layer_norm_eps": 1e-2}
SWITCHES = GREY | {"qkv_bias": False}
DINOV2 = SIZES | {"mlp_ratio": 2, "layerscale_value": 0.5}

SIGLIP2 = {name: value for name, value in VIT.items() if name != "image_size"} | {"num_patches": 16}

# Fields, then sizes of images: what positions are stored for, other ones, and what leaves pixels over.
CASES = {
    "vit": ("ViT", VIT, [(12, 20), (9, 5)]),
    "vit-left-over-pixels": ("ViT", VIT | {"image_size": 18}, [(18, 18)]),
    "vit-one-pixel": ("ViT", VIT | {"image_size": 4, "patch_size": 1}, [(1, 1), (1, 3)]),
    "dinov3-one-pixel": ("DINOv3ViT", VIT | {"image_size": 1, "patch_size": 1}, [(1, 1)]),
    "deit": ("DeiT", VIT | SWITCHES, [(16, 16), (9, 21)]),
    "mae": ("ViTMAE", VIT | SWITCHES | {"mask_ratio": 0.0}, [(8, 20)]),
    "msn": ("ViTMSN", VIT | SWITCHES, [(20, 8)]),
    "beit": ("Beit", VIT | {"use_relative_position_bias": True}, [(16, 16), (12, 22)]),
    "beit-shared": (
        "Beit",
        VIT | GREY | {"use_shared_relative_position_bias": True, "layer_scale_init_value": 0.0},
        [(8, 20)],
    ),
    "beit-all": (
        "Beit",
        VIT
        | {"use_relative_position_bias": True, "use_shared_relative_position_bias": True}
        | {"use_absolute_position_embeddings": True, "use_mask_token": True}
        | {"use_mean_pooling": False},
        [(12, 8)],
    ),
    "dinov2": ("Dinov2", DINOV2, [(16, 16), (12, 20), (9, 5)]),
    "dinov2-gate": ("Dinov2", DINOV2 | {"use_swiglu_ffn": True, "mlp_ratio": 3}, [(16, 16)]),
    "dinov2-switches": ("Dinov2", DINOV2 | SWITCHES | {"use_mask_token": False}, [(28, 4)]),
    "registers": ("Dinov2WithRegisters", DINOV2 | {"num_register_tokens": 3}, [(16, 16), (12, 20)]),
    "registers-gate": (
        "Dinov2WithRegisters",
        DINOV2 | SWITCHES | {"num_register_tokens": 1, "use_swiglu_ffn": True},
        [(4, 8)],
    ),
    "dinov3": ("DINOv3ViT", VIT | {"num_register_tokens": 2}, [(16, 16), (12, 22)]),
    "dinov3-switches": (
        "DINOv3ViT",
        VIT
        | GREY
        | {"rope_theta": 17.0, "query_bias": False, "key_bias": True, "value_bias": False}
        | {"proj_bias": False, "mlp_bias": False, "use_gated_mlp": True, "layerscale_value": 0.3},
        [(8, 4)],
    ),
    "clip": ("CLIPVision", VIT, [(16, 16), (12, 22)]),
    "clip-switches": ("CLIPVision", VIT | GREY, [(8, 8)]),
    "siglip": ("SiglipVision", VIT, [(16, 16), (12, 22)]),
    "siglip-switches": ("SiglipVision", VIT | GREY | {"vision_use_head": False}, [(8, 8)]),
    "siglip2": ("Siglip2Vision", SIGLIP2, [(16, 16), (8, 20)]),
    "siglip2-switches": ("Siglip2Vision", SIGLIP2 | GREY | {"vision_use_head": False}, [(4, 8)]),
}
# What interpolates only when it is asked to.
ON_REQUEST = ("ViT", "DeiT", "ViTMAE", "ViTMSN", "CLIPVision", "SiglipVision")


def reference(name, fields, seed=0):
    config = getattr(transformers, f"{name}Config")(**fields)
    return build(getattr(transformers, f"{name}Model"), config, seed)


def images(fields, size, count=3):
    shape = (count, *size, fields.get("num_channels", 3))
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def channels_first(x):
    return x.transpose(0, 3, 1, 2).copy()


def run_on_images(name, model, x):
    options = {"interpolate_pos_encoding": True} if name in ON_REQUEST else {}
    if name == "Siglip2Vision":
        patches = np.asarray(patchify(x, 4))
        shapes = np.tile(np.array([size // 4 for size in x.shape[1:3]]), (len(x), 1))
        seen = np.ones(patches.shape[:2], np.int64)
        return run(model, pixel_values=patches, pixel_attention_mask=seen, spatial_shapes=shapes)
    if name == "ViTMAE":
        # Patches are shuffled by this noise, and none is left out.
        num_patches = x.shape[1] // 4 * (x.shape[2] // 4)
        options["noise"] = np.tile(np.arange(num_patches, dtype=np.float32), (len(x), 1))
    return run(model, pixel_values=channels_first(x), **options)


def assert_layers(backbone, out, x):
    """States of every layer against the reference's, of a batch in one program."""
    layers = (*range(backbone.num_layers), -1)
    apply = jax.jit(lambda params, x: [backbone.apply(params, x, layer=k).states for k in layers])
    expected = [state.numpy() for state in (*out.hidden_states[:-1], out.last_hidden_state)]
    for layer, found, states in zip(layers, apply(backbone.params, x), expected, strict=True):
        scale = max(np.abs(states).max(), 1.0)
        assert np.abs(np.asarray(found) - states).max() <= TOLERANCE * scale, layer


@pytest.mark.parametrize(("name", "fields", "sizes"), CASES.values(), ids=CASES)
def test_every_layer(name, fields, sizes, tmp_path):
    model = reference(name, fields)
    backbone = backbones.load(save(model, tmp_path))
    for size in sizes:
        x = images(fields, size)
        out = run_on_images(name, model, x)
        assert_layers(backbone, out, x)
        pools = fields.get("vision_use_head", "Siglip" in name) or "CLIP" in name
        assert (backbone.pooler is not None) == fields.get("use_mean_pooling", pools or name == "Beit")
        if backbone.pooler is not None:
            pooled = backbone.pool(backbone.params, backbone(x))
            np.testing.assert_allclose(pooled, out.pooler_output, atol=3e-5)
    alone = backbone(x[0]).states
    np.testing.assert_allclose(alone, out.last_hidden_state[0], atol=5e-5)


@pytest.mark.parametrize("name", ["CLIP", "Siglip", "Siglip2"])
def test_the_vision_tower_of_a_whole_model(name, tmp_path):
    text = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = SIGLIP2 if name == "Siglip2" else VIT
    config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=vision)
    model = build(getattr(transformers, f"{name}Model"), config)
    backbone = backbones.load(save(model, tmp_path))
    x = images(vision, (16, 16), count=1)
    out = run_on_images(f"{name}Vision", model.vision_model, x)
    np.testing.assert_allclose(backbone(x).states, out.last_hidden_state, atol=3e-5)
    if name != "CLIP":
        pooled = backbone.pool(backbone.params, backbone(x))
        np.testing.assert_allclose(pooled, out.pooler_output, atol=3e-5)
        backbones.save(backbone, tmp_path / "own")
        again = backbones.load(tmp_path / "own")
        assert again.pooler == backbone.pooler
        np.testing.assert_array_equal(again.pool(again.params, again(x)), pooled)
    # Published configurations say of their towers what is not the library's own default alone.
    fields = backbones.load(tmp_path).config
    usual = json.loads((tmp_path / "config.json").read_text())["vision_config"]
    reference = getattr(transformers, f"{name}VisionConfig")()
    left_out = {key: ... for key in usual if usual[key] == getattr(reference, key)}
    assert {"layer_norm_eps", "hidden_act", "num_channels"} <= set(left_out)
    edit_config(tmp_path, vision_config={key: usual[key] for key in usual if key not in left_out})
    assert backbones.load(tmp_path).config == fields


def test_names_in_memory(tmp_path):
    for name in ("Dinov2", "DINOv3ViT", "DeiT"):
        fields = {"Dinov2": DINOV2 | {"use_swiglu_ffn": True}}.get(name, VIT)
        model = reference(name, fields)
        config = json.loads((save(model, tmp_path / name) / "config.json").read_text())
        in_memory = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
        on_disk = backbones.load(tmp_path / name)
        same = backbones.from_state_dict(in_memory, config)
        assert same.config == on_disk.config
        jax.tree.map(np.testing.assert_array_equal, same.params, on_disk.params)
