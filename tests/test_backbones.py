import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FAMILIES
from helpers import assert_close

from poolax._patches import patchify
from poolax.backbones import ImagePreprocess, Preprocess, ViT, ViTConfig

CONFIG = ViTConfig(8, 4, 3, width=16, num_layers=2, num_heads=2, mlp_dim=24, use_mask_token=True)


@pytest.fixture(scope="module")
def vit():
    return ViT.init(CONFIG, jax.random.key(0), ImagePreprocess())


def images(*batch):
    return np.random.default_rng(0).normal(size=(*batch, 8, 8, 3)).astype(np.float32)


def test_patches_are_cut_row_by_row():
    image = jnp.arange(64.0).reshape(8, 8, 1)
    patches = patchify(image, 4)
    assert_close(patches[1], image[:4, 4:, 0].reshape(-1))
    assert_close(patches[2], image[4:, :4, 0].reshape(-1))


def test_against_a_plain_forward(vit):
    p = jax.tree.map(np.asarray, vit.params)
    x = images(2)

    def dense(part, x):
        return x @ part["kernel"] + part["bias"]

    def norm(part, x):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12) * part["scale"] + part["bias"]

    e = p["embeddings"]
    tokens = dense(e["patch"], np.asarray(patchify(jnp.asarray(x), 4)))
    cls = np.broadcast_to(e["cls_token"], (2, 1, 16))
    tokens = np.concatenate([cls, tokens], axis=1) + e["position"]
    for k in range(2):
        block = p["encoder"][f"block_{k}"]
        inner = norm(block["norm1"], tokens)
        q, key, v = (
            np.einsum("bnd,dhk->bhnk", inner, block["attention"][n]["kernel"])
            + block["attention"][n]["bias"][:, None]
            for n in ("query", "key", "value")
        )
        weights = jax.nn.softmax(q @ key.swapaxes(-1, -2) / np.sqrt(8), axis=-1)
        out = np.einsum("bhnk,hkd->bnd", weights @ v, block["attention"]["out"]["kernel"])
        tokens = tokens + out + block["attention"]["out"]["bias"]
        hidden = np.asarray(nn.gelu(dense(block["ffn"]["hidden"], norm(block["norm2"], tokens)), False))
        tokens = tokens + dense(block["ffn"]["out"], hidden)
    out = vit(x)
    assert_close(out.states, norm(p["encoder"]["norm"], tokens), 2e-5)
    assert out.num_prefix == 1
    assert out.mask is None


def test_layers_weights_and_batches(vit):
    x = images(2, 3)
    out = vit.apply(vit.params, x, return_weights=True)
    chex.assert_shape(out.states, (2, 3, 5, 16))
    chex.assert_shape(out.weights, [(2, 3, 2, 5, 5)] * 2)
    embeddings, mask = vit.embed(vit.params, x)
    assert_close(vit.apply(vit.params, x, layer=0).states, embeddings)
    assert_close(vit.encode(vit.params, embeddings, mask).states, out.states)
    with pytest.raises(ValueError, match=r"layer: expected -1 to 2, got 3"):
        vit.apply(vit.params, x, layer=3)


@pytest.mark.parametrize("stacked", [False, True])
def test_several_layers_of_one_pass_are_those_one_by_one(stacked):
    model = FAMILIES["decoder"]()
    model = model.stack_layers() if stacked else model
    ids = np.arange(7)[None]
    layers = (-1, 0, 2, 1)
    several = model.apply(model.params, ids, layer=layers, return_weights=True)
    width = model.config.width
    for place, layer in enumerate(layers):
        alone = model.apply(model.params, ids, layer=layer).states
        assert_close(several.states[..., place * width : (place + 1) * width], alone)
    assert len(several.weights) == 2
    for odd in ((), (1, 1), (1, 3), ("1",), True):
        with pytest.raises(ValueError, match="layer: expected"):
            model.apply(model.params, ids, layer=odd)


def test_masked_tokens_are_not_seen(vit):
    mask = np.array([True, True, False, True, True])
    x, garbled = images(1), images(1)
    garbled[0, :4, 4:] = 9.0  # the second patch
    one, other = (vit(jnp.asarray(batch), mask).states for batch in (x, garbled))
    assert_close(one[0][mask], other[0][mask])


def test_a_backbone_is_a_pytree(vit):
    half = jax.tree.map(lambda leaf: leaf / 2, vit)
    assert half.config == vit.config
    assert_close(half.params["embeddings"]["position"], vit.params["embeddings"]["position"] / 2)
    states = jax.jit(lambda vit, x: vit(x).states)(vit, images(1))
    assert_close(states, vit(images(1)).states)
    assert vit.summary_token == "first"
    assert vit.modality == "vision"
    assert vit.num_parameters == sum(leaf.size for leaf in jax.tree.leaves(vit.params))


def test_hidden_patches_become_the_mask_token(vit):
    hidden = np.array([[True, False, False, True]])
    embeddings, _ = vit.embed(vit.params, images(1), hidden=hidden)
    plain, _ = vit.embed(vit.params, images(1))
    e = vit.params["embeddings"]
    assert_close(embeddings[0, 1], e["mask_token"] + e["position"][1])
    assert_close(embeddings[0, 2], plain[0, 2])


def test_preprocess():
    assert_close(ImagePreprocess()(np.array([0, 255], np.uint8)), [-1.0, 1.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda v: v(np.zeros((1, 8, 8, 1), np.float32)),
            r"inputs: expected shape .*got \(1, 8, 8, 1\)",
        ),
        (
            lambda v: v(np.zeros((1, 8, 8, 3), np.uint8)),
            r"inputs: expected a floating dtype, got uint8",
        ),
        (lambda v: v(np.full((1, 8, 8, 3), np.nan)), r"inputs: expected finite values"),
        (lambda v: v(images(1), np.ones(4, bool)), r"mask: .*\(1, 5\), got \(4,\)"),
        (
            lambda v: v(np.zeros((2, 1, 1, 3), np.float32)),
            r"inputs: .*height >= 4', 'width >= 4', 3\), got \(2, 1, 1, 3\)",
        ),
        (lambda v: ViTConfig(8, 9, 1, 16, 1, 2, 8), r"patch_size: .*at most image_size = 8, got 9"),
        (
            lambda v: dataclasses.replace(v.config, interpolation="cubic"),
            r"interpolation: expected one of 'bicubic', .*'cubic'",
        ),
        (lambda v: dataclasses.replace(v.config, layer_scale="1"), r"layer_scale: expected a number"),
        (lambda v: ViTConfig(8, 4, 1, 16, 1, 3, 8), r"num_heads: .*width = 16, got 3"),
        (lambda v: ViTConfig(8, 4, 1, 16, 0, 2, 8), r"num_layers: .* >= 1, got 0"),
    ],
)
def test_bad_input_is_named(vit, call, message):
    with pytest.raises(ValueError, match=message):
        call(vit)


def test_no_mask_token_nothing_hidden():
    config = ViTConfig(8, 4, 3, width=16, num_layers=1, num_heads=2, mlp_dim=24)
    vit = ViT.init(config, jax.random.key(0))
    with pytest.raises(ValueError, match=r"hidden: expected None for a model without a mask token"):
        vit.embed(vit.params, images(1), hidden=np.ones((1, 4), bool))


class Brightened(Preprocess):
    """Declares nothing: it is called with inputs alone."""

    def __call__(self, images):
        return images + 1

    def __repr__(self):
        return "Brightened()"


class Observed(Preprocess):
    takes_mask = True

    def __call__(self, images, mask=None):
        return images, jnp.ones(5, bool) if mask is None else ~mask


@pytest.mark.parametrize(
    ("given", "inputs", "mask"),
    [
        (None, 0, None),
        (lambda images: images + 1, 1, None),
        (Brightened(), 1, None),
        (Observed(), 0, np.ones(5, bool)),
    ],
)
def test_preprocessing_declares_what_it_takes(given, inputs, mask):
    model = ViT.init(CONFIG, jax.random.key(0), given)
    assert model.preprocess is given
    raw = np.zeros((2, 8, 8, 3))
    found = model.prepare(raw)
    assert_close(found[0], raw + inputs)
    np.testing.assert_array_equal(found[1], mask)
    hidden = np.arange(5) < 2
    expected = hidden if mask is None else ~hidden
    np.testing.assert_array_equal(model.prepare(raw, hidden)[1], expected)
    described = model.preprocessing.describe_for(raw.shape)
    assert described == (None if given is None else repr(given))


def test_preprocessing_on_the_host_counts_tokens_and_lets_ids_pass():
    class Letters(Preprocess):
        on_host = True

        def __call__(self, texts):
            ids = np.array([[ord(letter) for letter in text] for text in texts])
            return ids, ids > 0

    ids, mask = Letters().prepare(["ab", "cd"])
    assert ids.tolist() == [[97, 98], [99, 100]]
    assert mask.all()
    passed = Letters().prepare(ids, mask)
    assert passed[0] is ids
    assert passed[1] is mask
    with pytest.raises(ValueError, match="mask: expected None for texts"):
        Letters().prepare(["ab"], mask)
    with pytest.raises(ValueError, match="max_tokens: expected None for Letters, which cuts no texts"):
        Letters().cut_to(3)
