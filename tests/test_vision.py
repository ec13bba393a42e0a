"""Vision Transformers with the switches set that few families have: all that holds for every backbone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import scrambled
from helpers import assert_close

from poolax import backbones, bounds, data, training
from poolax.attention import MultiHeadAttention, PatchRotary
from poolax.backbones._grids import patch_offsets, resize_matrix, resize_table

SIZES = {"image_size": 8, "patch_size": 4, "num_channels": 3, "width": 8, "num_layers": 2}
SIZES |= {"num_heads": 2, "mlp_dim": 12, "norm_eps": 1e-2}
SWITCHES = {
    # Offsets between patches, own and shared.
    "beit": {"use_relative_bias": True, "use_shared_relative_bias": True, "use_positions": False},
    # No token in front, norms in front instead of behind, no bias that can be left out.
    "tower": {
        "use_cls_token": False,
        "use_embedding_norm": True,
        "use_final_norm": False,
        "use_patch_bias": False,
        "use_qkv_bias": False,
        "use_out_bias": False,
        "use_mlp_bias": False,
        "interpolation": "bilinear-antialias",
    },
    # Norms inside of the layers, patches that are counted.
    "eva": {
        "use_gate": True,
        "use_mlp_norm": True,
        "use_attention_norm": True,
        "rotary_theta": 1e2,
        "rotary_grid": 4,
        "use_qkv_bias": ("query", "value"),
    },
    # A token in front that has no position, and one that has.
    "registers": {"num_registers": 2, "num_prefix_positions": 2, "use_mask_token": True},
}


@pytest.mark.parametrize("name", SWITCHES)
def test_switches(name, tmp_path):
    config = backbones.ViTConfig(**SIZES, **SWITCHES[name])
    vit = scrambled(backbones.ViT.init(config, jax.random.key(0)))
    x = np.random.default_rng(0).normal(size=(2, 9, 12, 3)).astype(np.float32)
    apply = jax.jit(lambda model, x: model.apply(model.params, x).states)
    states = apply(vit, x)
    assert states.shape == (2, config.num_prefix + 6, 8)
    assert_close(apply(vit, x[1]), states[1], 1e-5)
    # What is left over at the bottom is not seen.
    assert_close(vit(x[:, :8]).states, states, 1e-5)
    embeddings, mask = vit.embed(vit.params, x)
    assert mask is None
    there = vit.replace(grid=(2, 3))
    assert_close(there.encode(vit.params, embeddings).states, states, 1e-5)
    half = vit.replace(compute_dtype=jnp.bfloat16)(x).states
    assert half.dtype == jnp.bfloat16
    assert 0 < np.abs(np.asarray(half, np.float32) - states).max() < 0.1 * np.abs(states).max()
    backbones.save(vit, tmp_path)
    again = backbones.load(tmp_path, stacked=True)
    assert again.config == config
    assert_close(apply(again, x), states, 1e-5)
    chex.assert_trees_all_equal(again.params, vit.stack_layers().params)
    platforms = ["cpu", "tpu", "cuda"]
    assert jax.export.export(apply, platforms=platforms)(again, x).platforms == tuple(platforms)
    _assert_ledger(there, embeddings[0])


def test_patches_in_holes_of_a_mask_are_not_seen():
    vit = scrambled(backbones.ViT.init(backbones.ViTConfig(**SIZES), jax.random.key(0)))
    x = np.random.default_rng(0).normal(size=(1, 8, 12, 3)).astype(np.float32)
    mask = np.array([True, True, False, True, True, False, True])  # CLS, then two rows of patches
    other = x.copy()
    other[:, :4, 4:8], other[:, 4:, 4:8] = 9.0, -9.0
    states, changed = (np.asarray(vit(images, mask).states)[0, mask] for images in (x, other))
    assert_close(changed, states, 1e-6)
    assert np.abs(np.asarray(vit(x).states)[0, mask] - states).max() > 1e-3


def test_an_image_of_one_pixel():
    sizes = SIZES | {"patch_size": 1, "image_size": 1}
    vit = scrambled(backbones.ViT.init(backbones.ViTConfig(**sizes), jax.random.key(0)))
    prepare = backbones.ImagePreprocess()
    one = prepare([np.full((1, 1, 3), 200, np.uint8)])
    assert vit(one).states.shape == (1, 2, 8)
    # A row of three has one position, thrice.
    row = prepare(np.array([[[[200] * 3, [200] * 3, [200] * 3]]], np.uint8))
    states = vit(row).states[0]
    assert_close(states[1], states[2], 1e-6)
    assert_close(states[1], states[3], 1e-6)


def _assert_ledger(vit, x):
    """Measured at one input, below the tight bound and the sharp one on its domain."""
    states = jax.jit(lambda x: vit.encode(vit.params, x[None]).states[0])
    jacobian = np.asarray(jax.jit(jax.jacrev(states))(x))
    measured = np.log(np.linalg.norm(jacobian.reshape(x.size, -1), 2))
    domain = bounds.domain_of(x)
    sizes = {"num_tokens": len(x), "radius": domain.radius, "spread": domain.spread}
    specs = vit.layer_specs(vit.params)
    sharp, tight = (bounds.ledger(specs, **sizes, method=method) for method in ("sharp", "tight"))
    assert measured <= tight.log_lipschitz <= sharp.log_lipschitz
    assert bounds.domain_of(states(x)).radius <= sharp.domain.radius


def test_norms_inside_of_layers_are_bounded_by_ledgers_alone():
    layer, x = MultiHeadAttention(2, inner_norm_eps=1e-3), jnp.ones((3, 8))
    variables = layer.init(jax.random.key(0), x)
    with pytest.raises(bounds.NoBoundError, match=r"inner_norm_eps: .*only bounds.ledger .*got 0.001"):
        bounds.attention(layer, variables, num_tokens=3, radius=1.0)
    config = backbones.ViTConfig(**SIZES, **SWITCHES["eva"])
    vit = backbones.ViT.init(config, jax.random.key(0)).replace(grid=(1, 2))
    weights = vit.encode(vit.params, x, return_weights=True).weights
    with pytest.raises(bounds.NoBoundError, match=r"inner_norm_eps: .*got 0.01"):
        bounds.local_ledger(vit.layer_specs(vit.params), x, weights)


def test_interpolation_keeps_constants_and_the_grid_itself():
    for method in ("bicubic", "bicubic-antialias", "bilinear", "bilinear-antialias"):
        for old, new in ((5, 3), (3, 5), (1, 4), (4, 1)):
            assert_close(resize_matrix(old, new, method).sum(axis=1), np.ones(new), 1e-12)
        np.testing.assert_allclose(resize_matrix(4, 4, method), np.eye(4), atol=1e-12)
    table = jnp.arange(12.0).reshape(6, 2)
    assert resize_table(table, (2, 3), (2, 3), "bicubic") is table


def test_offsets_are_those_of_patches():
    index = patch_offsets((2, 3))
    assert index.shape == (7, 7)
    assert index[0].tolist() == [17, 15, 15, 15, 15, 15, 15]
    assert index[1:, 0].tolist() == [16] * 6
    assert len(np.unique(np.diag(index)[1:])) == 1
    # From a patch to the one at its right, and to the one below.
    assert index[1, 2] == index[2, 3] == index[5, 6] == index[1, 1] - 1
    assert index[1, 4] == index[3, 6] == index[1, 1] - 5


def test_patches_turn_by_their_place_and_keep_their_length():
    x = jnp.ones((7, 2, 8))
    turned = PatchRotary(num_prefix=1, grid=(2, 3))(x)
    assert_close(turned[0], x[0])
    assert_close(jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(x, axis=-1), 1e-6)
    # Patches of a row differ in the quarters that turn with the column.
    same = np.isclose(turned[1], turned[2], atol=1e-6).all(axis=0)
    assert same.tolist() == [True, True, False, False] * 2


def test_records_say_how_positions_were_interpolated():
    images = np.random.default_rng(0).integers(0, 256, (12, 12, 8, 3), dtype=np.uint8)
    vit = backbones.ViT.init(
        backbones.ViTConfig(**SIZES), jax.random.key(0), backbones.ImagePreprocess()
    )
    splits = {"train": np.arange(8), "validation": np.arange(8, 10), "test": np.arange(10, 12)}
    targets = np.arange(12) % 2

    def row_of(images):
        dataset = data.Dataset("images", images, targets, splits, "drawn here", "none")
        task = training.Classification(2)
        return training.sweep(vit, dataset, task, poolers=("avg",), seeds=1, epochs=1)[0]

    assert row_of(images)["positions"] == "bicubic from 2 x 2 to 3 x 2 patches"
    assert "positions" not in row_of(images[:, :8])
    tower = vit.replace(config=backbones.ViTConfig(**SIZES, use_positions=False))
    assert tower.describe_positions((5, 16, 16, 3)) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: PatchRotary()(jnp.ones((4, 2, 8))),
            r"x: expected 1 tokens and those of a grid, a square, got n = 4",
        ),
        (
            lambda: PatchRotary(grid=(2, 2))(jnp.ones((8, 2, 8))),
            r"x: expected 1 tokens .*, 2 x 2, got n = 8",
        ),
        (lambda: PatchRotary()(jnp.ones((5, 2, 6))), r"x: expected d_h to be a multiple of 4, got 6"),
        (lambda: PatchRotary(theta=0.0), r"theta: .*got 0"),
        (
            lambda: backbones.ViTConfig(**SIZES, num_prefix_positions=2),
            r"num_prefix_positions: expected at most the 1 tokens in front, got 2",
        ),
        (
            lambda: backbones.ViTConfig(**SIZES, use_relative_bias=True, num_registers=1),
            r"use_relative_bias: expected False without CLS alone in front, got 2 tokens there",
        ),
        (
            lambda: backbones.ViTConfig(**SIZES, use_mlp_norm=True),
            r"use_mlp_norm: expected False without use_gate, got True",
        ),
        (lambda: PatchRotary(counted_to=0), r"counted_to: .*got 0"),
        (
            lambda: backbones.ViTConfig(**SIZES, use_qkv_bias=("out",)),
            r"use_qkv_bias: expected one of 'query', 'key', 'value', got 'out'",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
