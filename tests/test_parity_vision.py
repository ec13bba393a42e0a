"""Vision Transformers against their reference implementations, at many sizes of images."""

import jax
import numpy as np
import pytest
from parity import build, run, save, transformers

from poolax import backbones

TOLERANCE = 1e-5  # relative to the largest entry of a layer

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}
VIT = SIZES | {"intermediate_size": 24}
DINOV2 = SIZES | {"mlp_ratio": 2, "layerscale_value": 0.5}

# Fields, then the sizes of images: what positions are stored for, other ones, and what is left over.
CASES = {
    "vit": ("ViT", VIT, [(12, 20), (9, 5)]),
    "dinov2": ("Dinov2", DINOV2, [(16, 16), (12, 20), (9, 5)]),
    "dinov2-gate-no-bias": (
        "Dinov2",
        DINOV2 | {"use_swiglu_ffn": True, "qkv_bias": False, "mlp_ratio": 3},
        [(16, 16)],
    ),
    "dinov2-relu-eps-grey": (
        "Dinov2",
        DINOV2 | {"hidden_act": "relu", "layer_norm_eps": 1e-2, "num_channels": 1},
        [(28, 4)],
    ),
    "dinov2-no-mask-token": ("Dinov2", DINOV2 | {"use_mask_token": False}, [(4, 16)]),
}
# What interpolates only when it is asked to.
ON_REQUEST = ("ViT",)


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
    alone = backbone(x[0]).states
    np.testing.assert_allclose(alone, out.last_hidden_state[0], atol=5e-5)
