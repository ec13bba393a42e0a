"""Sizes of images: the reference's processors on images that are not square, and any other size."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from parity import transformers
from PIL import Image

from poolax import backbones, codec, pooling, training
from poolax.backbones import ImageGeometry, ImagePreprocess
from poolax.backbones.pretrained._image_settings import read_preprocess
from poolax.backbones.pretrained._timm import TIMM_VIT

# Wide, high, and smaller than what is cut out of it.
SIZES = [(41, 60), (67, 33), (18, 25)]
CASES = {
    # As published for DINOv2: the shorter edge, then the centre.
    "shorter-edge-crop": (
        "Bit",
        {"size": {"shortest_edge": 36}, "crop_size": {"height": 31, "width": 28}},
    ),
    "crop-of-small-images": ("CLIP", {"do_resize": False, "crop_size": 30}),
    "shorter-edge-of-one-number": ("CLIP", {"size": 24, "crop_size": 24, "resample": 2}),
    "both-sides": ("ViT", {"size": {"height": 20, "width": 32}}),
    "both-sides-of-one-number": ("ViT", {"size": 23, "resample": 1}),
    "both-sides-then-crop": ("DeiT", {"size": 32, "crop_size": 28}),
    "switched-off": ("Beit", {"size": 24, "do_rescale": False, "do_normalize": False}),
    "other-factor": ("Siglip", {"size": {"height": 24, "width": 24}, "rescale_factor": 0.5}),
}
DEFAULTS = {kind: (kind, {}) for kind in ("Bit", "CLIP", "ViT", "DeiT", "Beit", "Siglip")}


def photos():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


@pytest.mark.parametrize(("kind", "fields"), (CASES | DEFAULTS).values(), ids=CASES | DEFAULTS)
def test_as_the_reference_processes_images(kind, fields, tmp_path):
    reference = getattr(transformers, f"{kind}ImageProcessorPil")(**fields)
    images = photos()
    expected = np.stack([reference(image)["pixel_values"][0].transpose(1, 2, 0) for image in images])
    written = {"image_processor_type": f"{kind}ImageProcessorFast", **fields}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    prepare = read_preprocess(tmp_path, {}, None)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(prepare(images), expected, atol=1e-6 * scale)
    # What the reference writes of itself says all that it left out here.
    reference.save_pretrained(tmp_path)
    again = read_preprocess(tmp_path, {}, None)
    assert again.geometry == prepare.geometry
    np.testing.assert_allclose(again(images), expected, atol=1e-6 * scale)


def test_lists_are_resized_and_arrays_are_not():
    prepare = ImagePreprocess(geometry=ImageGeometry(resize=32, crop=(28, 28)))
    images = photos()
    assert prepare(images).shape == (3, 28, 28, 3)
    assert prepare(Image.fromarray(images[0]).convert("L")).shape == (1, 28, 28, 3)
    # In proportion: the shorter edge is 16 before the crop.
    expected = ImageGeometry(resize=16, crop=(14, 14))(images)
    np.testing.assert_array_equal(prepare.collect(images, size=14), expected)
    assert prepare(images, size=(20, 12)).shape == (3, 20, 12, 3)
    batch = np.stack([images[0]] * 2)
    np.testing.assert_array_equal(prepare(batch), ImagePreprocess()(batch))
    assert prepare(batch, size=14).shape == (2, 14, 14, 3)
    # Records and heads are of arrays, to which nothing of it is done.
    assert prepare.describe_for(batch.shape) == ImagePreprocess().describe_for(batch.shape)
    assert repr(prepare) == repr(ImagePreprocess())
    assert codec.from_plain(codec.to_plain(prepare, of="preprocess"), of="preprocess") == prepare
    grey = ImagePreprocess(mean=(0.5,), std=(0.5,))
    assert grey(images, size=8).shape == (3, 8, 8, 1)
    assert ImageGeometry(resize=8)([images[1]]).shape == (1, 16, 8, 3)
    assert ImagePreprocess()([batch[0] / 255] * 2).dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ImageGeometry()(photos()),
            r"images: .*all of one size after resizing, got \[\(18, 25\)",
        ),
        (lambda: ImageGeometry()([]), r"images: expected at least one.*got none"),
        (lambda: ImageGeometry()([np.zeros((4, 4))]), r"images: .*uint8 .*got float64 \(4, 4\)"),
        (lambda: ImageGeometry(8)([np.zeros((4, 4, 2), np.uint8)]), r"images: .*got uint8 \(4, 4, 2\)"),
        (lambda: ImageGeometry()(photos(), size=0), r"size: expected a whole number >= 1, got 0"),
        (lambda: ImageGeometry()(photos(), channels=2), r"channels: expected one of 1, 3, got 2"),
        (lambda: ImageGeometry(crop=8), r"crop: expected height and width, got 8"),
        (lambda: ImageGeometry(resample="cubic"), r"resample: .*'bicubic'.*got 'cubic'"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"size": {"longest_edge": 8}},
            r"config: expected size to be one number, .*got {'longest_edge': 8}",
        ),
        ({"do_center_crop": True, "size": 8}, r"config: expected crop_size to be .*got None"),
        ({"size": 8, "resample": 7}, r"resample: expected one of 0, 1, .*got 7"),
        ({"size": "big"}, r"config: expected size to be .*got 'big'"),
    ],
)
def test_bad_settings_are_named(fields, message, tmp_path):
    written = {"do_normalize": False, **fields}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    with pytest.raises(ValueError, match=message):
        read_preprocess(tmp_path, {}, None)


def test_a_folder_is_loaded_with_its_geometry(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16,
        patch_size=4,
    )  # fmt: skip
    transformers.ViTModel(config).save_pretrained(tmp_path / "hub")
    transformers.BitImageProcessorPil(size={"shortest_edge": 10}, crop_size=8).save_pretrained(
        tmp_path / "hub"
    )
    vit = backbones.load(tmp_path / "hub")
    assert vit.preprocess.geometry == ImageGeometry(10, (8, 8))
    assert vit(vit.preprocess(photos())).states.shape == (3, 5, 8)
    pooled = vit.replace(pooler=pooling.AveragePool())
    expected = vit(vit.preprocess(photos())).states.mean(axis=1)
    np.testing.assert_allclose(training.embed(pooled, photos()), expected, atol=1e-5)
    nested = {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 12},
        "crop_size": 8,
    }
    (tmp_path / "hub" / "processor_config.json").write_text(json.dumps({"image_processor": nested}))
    assert backbones.load(tmp_path / "hub").preprocess.geometry == ImageGeometry(12, (8, 8))
    backbones.save(vit, tmp_path / "own")
    assert backbones.load(tmp_path / "own").preprocess == vit.preprocess


@pytest.mark.parametrize(
    ("fields", "geometry"),
    [
        (
            {"crop_pct": 0.9, "interpolation": "bilinear"},
            ImageGeometry(248, (224, 224), "bilinear", True),
        ),
        ({}, ImageGeometry(256, (224, 224), "bicubic", True)),
        (
            {"crop_pct": 1.0, "crop_mode": "squash"},
            ImageGeometry((224, 224), (224, 224), "bicubic", True),
        ),
        ({"input_size": None}, None),
    ],
)
def test_sizes_of_timm(fields, geometry):
    fields = {"input_size": [3, 224, 224], "mean": [0.1] * 3} | fields
    prepare = TIMM_VIT.read_preprocess(None, {"pretrained_cfg": fields}, None)
    assert prepare == ImagePreprocess(mean=(0.1,) * 3, std=(0.5,) * 3, geometry=geometry)
    bad = {"pretrained_cfg": {"input_size": [3, 8, 8], "crop_mode": "border"}}
    with pytest.raises(ValueError, match=r"crop_mode to be one of 'center', 'squash', got 'border'"):
        TIMM_VIT.read_preprocess(None, bad, None)


def test_where_a_crop_starts_between_two_pixels():
    image = np.arange(7, dtype=np.uint8)[None, :].repeat(4, axis=0)  # 3 too many: at 1 or at 2
    for rounds_to_even, first in ((False, 1), (True, 2)):
        geometry = ImageGeometry(crop=(4, 4), rounds_to_even=rounds_to_even)
        assert geometry([image], channels=1)[0, 0, 0, 0] == first
