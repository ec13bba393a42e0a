"""Backbones written as they were loaded: the reference's names, dtypes and files."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tokenizers
from parity import build, run, torch, transformers

from poolax import backbones

TEXT = {"vocab_size": 11, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 8}
SIZES = {**TEXT, "intermediate_size": 16, "max_position_embeddings": 16}
IMAGE = {**SIZES, "image_size": 8, "patch_size": 4}
SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2],
        "window_size": 4}  # fmt: skip
# Linear layers and norms, heads side by side in one tensor, patches as convolutions, prefixes.
CASES = {
    "bert": ("BertModel", {**SIZES}),
    "bert-classes": ("BertForSequenceClassification", {**SIZES}),
    "mistral": ("MistralForCausalLM", {**SIZES, "num_key_value_heads": 1}),
    # Scales are kept less one, of which half precision has digits that it has not of the whole.
    "gemma": ("Gemma3ForCausalLM", {**SIZES, "num_key_value_heads": 1, "head_dim": 4}),
    "gpt2": (
        "GPT2Model",
        {"vocab_size": 11, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2},
    ),
    "vit": ("ViTModel", {**IMAGE}),
    "clip": ("CLIPVisionModel", {**IMAGE}),
    # A head whose keys have a bias, which is not read.
    "siglip": ("SiglipVisionModel", {**IMAGE}),
    "beit": ("BeitModel", {**IMAGE}),
    "swin": ("SwinModel", {**SWIN}),
}


def make(name, folder, **options):
    kind, settings = CASES[name]
    cls = getattr(transformers, kind)
    model = build(cls, cls.config_class(**settings)).to(options.get("dtype", torch.float32))
    model.save_pretrained(folder)
    return model


def tensors_of(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("poolax")]


@pytest.mark.parametrize("name", CASES)
def test_what_was_loaded_is_written_bit_for_bit(tmp_path, name, caplog):
    dtype = torch.bfloat16 if name in ("mistral", "gemma") else torch.float32
    make(name, tmp_path / "theirs", dtype=dtype)
    (tmp_path / "theirs" / "vocab.txt").write_bytes(b"caf\xe9\n")
    backbone = backbones.load(tmp_path / "theirs", stacked=name == "mistral")
    backbones.save(backbone, tmp_path / "ours", format="huggingface")

    theirs, ours = tensors_of(tmp_path / "theirs"), tensors_of(tmp_path / "ours")
    of_heads = ("classifier.", "lm_head.", "pooler.dense.", "bert.pooler.")
    assert set(ours) == {part for part in theirs if not part.startswith(of_heads)}
    left_out = sorted(set(theirs) - set(ours))
    assert bool(left_out) == (name in ("bert", "bert-classes", "mistral", "vit"))
    (told,) = warnings_of(caplog) if left_out else ("",)
    assert ", ".join(left_out[:3]) in told
    for part, tensor in ours.items():
        assert tensor.dtype == theirs[part].dtype
        np.testing.assert_array_equal(tensor.view(np.uint8), theirs[part].view(np.uint8))
    for file in ("config.json", "vocab.txt"):
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "theirs" / file).read_bytes()
    again = backbones.load(tmp_path / "ours", stacked=name == "mistral")
    jax.tree.map(np.testing.assert_array_equal, again.params, backbone.params)


def test_the_reference_loads_it_also_from_an_own_checkpoint_and_cast(tmp_path):
    model = make("bert", tmp_path / "theirs")
    backbones.save(backbones.load(tmp_path / "theirs"), tmp_path / "orbax")
    backbones.save(backbones.load(tmp_path / "orbax"), tmp_path / "ours", format="huggingface")
    again = transformers.BertModel.from_pretrained(tmp_path / "ours").eval()
    ids = np.array([[1, 4, 5, 2]])
    # Rounded otherwise, for it loads with fused attention.
    expected = run(model, input_ids=ids).last_hidden_state
    np.testing.assert_allclose(run(again, input_ids=ids).last_hidden_state, expected, atol=1e-5)
    half = backbones.load(tmp_path / "theirs", dtype=jnp.bfloat16)
    backbones.save(half, tmp_path / "half", format="huggingface")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    assert transformers.BertModel.from_pretrained(tmp_path / "half").dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["CLIP", "Siglip", "Siglip2"])
def test_a_tower_of_a_whole_model_becomes_a_model_of_its_own(tmp_path, name, caplog):
    vision = {part: value for part, value in IMAGE.items() if name != "Siglip2" or part != "image_size"}
    vision |= {"num_patches": 4} if name == "Siglip2" else {}
    config = getattr(transformers, f"{name}Config")(text_config=SIZES, vision_config=vision)
    model = build(getattr(transformers, f"{name}Model"), config)
    model.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "vocab.txt").write_text("of the texts")
    (tmp_path / "theirs" / "preprocessor_config.json").write_text('{"do_normalize": false}')
    backbone = backbones.load(tmp_path / "theirs")
    backbones.save(backbone, tmp_path / "ours", format="huggingface")
    (told,) = warnings_of(caplog)
    assert "left out: logit_" in told
    assert " more" in told
    assert {path.name for path in (tmp_path / "ours").iterdir()} == {
        "config.json", "model.safetensors", "preprocessor_config.json",
    }  # fmt: skip

    again = backbones.load(tmp_path / "ours")
    assert (again.config, again.pooler, again.preprocess) == (
        backbone.config, backbone.pooler, backbone.preprocess,
    )  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, again.params, backbone.params)
    reference = getattr(transformers, f"{name}VisionModel")
    tower, loading = reference.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(loading.values())
    theirs = model.vision_model.state_dict()
    assert theirs.keys() == tower.state_dict().keys()
    for part, tensor in tower.state_dict().items():
        assert torch.equal(tensor, theirs[part]), part


OWN = {"width": 8, "num_layers": 2, "num_heads": 2, "mlp_dim": 24}
MADE = {
    "GPT2Model": (backbones.GPT2, backbones.GPT2Config(20, 8, **OWN), None),
    "BertModel": (backbones.Bert, backbones.BertConfig(20, 8, **OWN), None),
    "ViTModel": (
        backbones.ViT,
        backbones.ViTConfig(8, 4, 3, **OWN, use_mask_token=True),
        backbones.ImagePreprocess(1 / 16),
    ),
    "Moment": (
        backbones.Moment,
        backbones.MomentConfig(16, 4, 4, **OWN, head_dim=4),
        backbones.SeriesPreprocess(16, 4),
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_models_of_ones_own_are_written_as_the_reference_reads_them(name, tmp_path):
    family, config, preprocess = MADE[name]
    ours = family.init(config, jax.random.key(0), preprocess)
    stacked = name == "GPT2Model"
    written = ours.stack_layers() if stacked else ours
    backbones.save(written, tmp_path / "folder", format="huggingface")
    again = backbones.load(tmp_path / "folder")
    inputs = np.arange(16.0, dtype=np.float32)[None] ** 2 % 7
    if name == "ViTModel":
        inputs = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
    elif name != "Moment":
        inputs = np.array([[2, 7, 19, 0]])
    expected = ours(inputs).states
    np.testing.assert_array_equal(again(inputs).states, expected)
    assert again.preprocess == preprocess
    if name == "Moment":
        return
    reference = getattr(transformers, name).from_pretrained(tmp_path / "folder").eval()
    given = torch.from_numpy(np.moveaxis(inputs, -1, 1) if name == "ViTModel" else inputs)
    with torch.no_grad():
        theirs = reference(given).last_hidden_state.numpy()
    np.testing.assert_allclose(theirs, expected, atol=2e-5)


def test_a_tokenizer_of_ones_own_is_written_too(tmp_path):
    vocabulary = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "a": 3, "b": 4}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    sizes = backbones.BertConfig(20, 8, **OWN)
    for prefix, suffix in (((), ()), (("[CLS]",), ("[SEP]",)), ((), ("[SEP]",))):
        prepare = backbones.TextPreprocess(words.to_str(), 8, prefix=prefix, suffix=suffix, pad_id=1)
        folder = tmp_path / f"{len(prefix)}{len(suffix)}"
        bert = backbones.Bert.init(sizes, jax.random.key(0), prepare)
        backbones.save(bert, folder, format="huggingface")
        assert backbones.load(folder).preprocess == prepare
    odd = backbones.TextPreprocess(words.to_str(), 8, prefix=("[CLS]", "[SEP]"))
    with pytest.raises(
        ValueError, match=r"preprocess: expected special tokens that the tokenizer adds"
    ):
        backbones.save(bert.replace(preprocess=odd), tmp_path / "x", format="huggingface")
    narrow = dataclasses.replace(sizes, embedding_dim=4)
    odd_sizes = backbones.Bert.init(narrow, jax.random.key(0))
    with pytest.raises(
        ValueError, match=r"backbone: expected sizes and switches that a folder of 'bert'"
    ):
        backbones.save(odd_sizes, tmp_path / "x", format="huggingface")
    assert not (tmp_path / "x").exists()


def test_what_cannot_be_written_is_refused_by_name(tmp_path):
    make("swin", tmp_path / "swin")
    backbone = backbones.load(tmp_path / "swin")
    with pytest.raises(ValueError, match="format: expected one of 'orbax', 'huggingface', got 'onnx'"):
        backbones.save(backbone, tmp_path / "ours", format="onnx")
    (tmp_path / "ours").mkdir()
    with pytest.raises(ValueError, match="directory: expected a new one"):
        backbones.save(backbone, tmp_path / "ours", format="huggingface")
    with pytest.raises(ValueError, match=r"expected one that was loaded from a folder.*got Swin"):
        backbones.save(backbone.replace(origin=None, name=None), tmp_path / "x", format="huggingface")
    assert not (tmp_path / "x").exists()
    two = json.loads(backbone.origin.content)
    two["config"] = json.dumps(
        {"model_type": "swin", "text_config": {"a": 1}, "vision_config": {"a": 1}}
    )
    towers = backbone.replace(origin=type(backbone.origin)(json.dumps(two)))
    with pytest.raises(ValueError, match=r"one tower of a model .* text_config and vision_config"):
        backbones.save(towers, tmp_path / "x", format="huggingface")

    # A larger window's table is read in part: what was left out cannot be written again.
    raw = json.loads((tmp_path / "swin" / "config.json").read_text()) | {"window_size": 8}
    (tmp_path / "swin" / "config.json").write_text(json.dumps(raw | {"image_size": 8}))
    tensors = tensors_of(tmp_path / "swin")
    tables = {part: np.zeros((225, 2), np.float32) for part in tensors if "bias_table" in part}
    safetensors.numpy.save_file(tensors | tables, tmp_path / "swin" / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"'orbax' for this Swin, whose tensor .*bias_table is read in part"
    ):
        backbones.save(backbones.load(tmp_path / "swin"), tmp_path / "x", format="huggingface")
    assert not (tmp_path / "x").exists()


def test_a_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    make("vit", tmp_path / "theirs")
    backbone = backbones.load(tmp_path / "theirs")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        backbones.save(backbone, tmp_path / "ours", format="huggingface")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_norms_that_earlier_versions_kept_whole_are_refused(tmp_path):
    make("gemma", tmp_path / "theirs")
    backbone = backbones.load(tmp_path / "theirs")
    config = dataclasses.replace(backbone.config, norms_from_one=False)
    with pytest.raises(ValueError, match=r"norm\.weight is changed as it is read, got 'huggingface'"):
        backbones.save(backbone.replace(config=config), tmp_path / "x", format="huggingface")
