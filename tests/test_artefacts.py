"""Heads as files that JAX alone runs, of any number of inputs and tokens."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from poolax import backbones, pooling, training
from poolax.training import Head, HeadModule

WIDTH = 8


def head_of(pooler, *, num_tokens=6, **config):
    variables = HeadModule(pooler, 3).init(jax.random.key(0), jnp.ones((num_tokens, WIDTH)))
    return Head(pooler, variables, {"num_outputs": 3, "task": "classification", **config})


RUN = """
import sys
sys.modules["poolax"] = sys.modules["flax"] = None  # importing them raises
import jax.export, numpy as np
for name in sys.argv[1:]:
    content = bytearray(open(name, "rb").read())
    given = np.load(name + ".npz")
    outputs = jax.export.deserialize(content).call(*(given[name] for name in given.files))
    np.save(name + ".npy", outputs)
"""


def run_alone(folder, **arguments):
    """Outputs of artefacts in a process that has nothing but JAX and NumPy."""
    for name, given in arguments.items():
        np.savez(folder / f"{name}.npz", *given)
    subprocess.run([sys.executable, "-c", RUN, *arguments], check=True, cwd=folder)
    return {name: np.load(folder / f"{name}.npy") for name in arguments}


@pytest.mark.parametrize("name", ["avg", "wavg", "attn", "map"])
def test_a_head_runs_on_states_of_any_number_and_length(tmp_path, name):
    head = head_of(pooling.from_name(name))
    training.export_head(head, tmp_path / "head.jax")
    exported = jax.export.deserialize(bytearray((tmp_path / "head.jax").read_bytes()))
    rng = np.random.default_rng(0)
    for batch, num_tokens in ((1, 1), (3, 5)):
        states = rng.normal(size=(batch, num_tokens, WIDTH)).astype(np.float32)
        mask = np.arange(num_tokens) < rng.integers(1, num_tokens + 1, (batch, 1))
        np.testing.assert_allclose(
            exported.call(states, mask), head.predict(states, mask), rtol=1e-5, atol=1e-6
        )
    about = json.loads((tmp_path / "head.jax.json").read_text())
    assert about["inputs"][0]["shape"] == ["b", "n", WIDTH]
    assert about["head"]["task"] == "classification"
    if name == "wavg":  # it has a weight for each of six positions
        with pytest.raises(ValueError, match="refining shapes"):
            exported.call(np.ones((1, 7, WIDTH), np.float32), np.ones((1, 7), bool))


def test_a_description_names_the_classes_of_the_outputs(tmp_path):
    head = head_of(pooling.AveragePool())
    training.export_head(head, tmp_path / "head.jax", class_names=("a", "b", "c"))
    about = json.loads((tmp_path / "head.jax.json").read_text())
    assert about["outputs"] == {"dtype": "float32", "shape": ["b", 3], "class_names": ["a", "b", "c"]}
    with pytest.raises(ValueError, match="class_names: expected one for each of 3 outputs, got 2"):
        training.export_head(head, tmp_path / "head.jax", class_names=("a", "b"))


def words():
    model = tokenizers.models.WordLevel({"[UNK]": 0, "[SEP]": 1, "a": 2, "b": 3}, unk_token="[UNK]")
    found = tokenizers.Tokenizer(model)
    found.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return found


def small_backbones():
    """A backbone of each modality, width 8, and raw inputs."""
    sizes = {"width": WIDTH, "num_layers": 1, "num_heads": 2, "mlp_dim": 8}
    key, rng = jax.random.key(0), np.random.default_rng(0)
    prepare = backbones.ImagePreprocess(mean=3.0, std=2.0, geometry=backbones.ImageGeometry(8))
    vit = backbones.ViT.init(backbones.ViTConfig(8, 4, 1, **sizes), key, prepare)
    yield "images", vit, (rng.uniform(0, 16, (3, 8, 8, 1)).astype(np.float32),)
    prepare = backbones.TextPreprocess(words().to_str(), 6, suffix=("[SEP]",), padding_side="left")
    bert = backbones.Bert.init(backbones.BertConfig(5, 6, **sizes), key, prepare)
    yield "ids", bert, prepare(["a", "b a", "a a b b a a b"])
    series = rng.normal(2, 3, (4, 24)).astype(np.float32)
    config = backbones.PatchTSTConfig(24, 4, 4, **sizes)
    observed = np.arange(24) >= np.array([[0], [4], [8], [9]])
    yield "series", backbones.PatchTST.init(config, key), (series, observed)


def test_backbones_go_with_their_heads_and_need_neither_of_us(tmp_path):
    expected, given, about = {}, {}, {}
    for name, backbone, arguments in small_backbones():
        head = head_of(pooling.from_name("map"))
        training.export_head(head, tmp_path / name, backbone=backbone)
        about[name] = json.loads((tmp_path / f"{name}.json").read_text())
        raw, mask = arguments[0], (arguments[1] if len(arguments) > 1 else None)
        states = training.extract_states(backbone, raw, mask=mask)
        expected[name] = head.predict(states.states, states.mask)
        given[name] = arguments
    for name, outputs in run_alone(tmp_path, **given).items():
        np.testing.assert_allclose(outputs, expected[name], rtol=1e-5, atol=1e-5)
        [first, *_] = about[name]["inputs"]
        assert (first["name"], about[name]["platforms"]) == (name, ["cpu", "cuda", "tpu"])
    [images], [ids, mask], [series, _] = (about[name]["inputs"] for name in expected)
    assert images["preprocess"]["options"]["mean"] == 3.0
    assert images["preprocess"]["options"]["geometry"]["options"]["resize"] == 8
    assert ids["shape"] == mask["shape"] == ["b", "n"]
    assert ids["preprocess"]["options"]["padding_side"] == "left"
    assert series["shape"] == ["b", 24]
    # What texts become can be done without poolax too.
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / about["ids"]["tokenizer"]))
    assert tokenizer.encode("a b", add_special_tokens=False).ids == [2, 3]


def test_another_backbone_is_refused(tmp_path):
    config = backbones.ViTConfig(8, 4, 1, width=WIDTH, num_layers=1, num_heads=2, mlp_dim=8)
    vit = backbones.ViT.init(config, jax.random.key(0))
    head = head_of(pooling.from_name("avg"), backbone_fingerprint="of another")
    with pytest.raises(ValueError, match="backbone: expected the one that the head was trained on"):
        training.export_head(head, tmp_path / "whole.jax", backbone=vit)


def test_the_layer_that_a_head_reads_goes_with_it(tmp_path):
    config = backbones.ViTConfig(8, 4, 1, width=WIDTH, num_layers=2, num_heads=2, mlp_dim=8)
    vit = backbones.ViT.init(config, jax.random.key(0), backbones.ImagePreprocess(scale=1 / 16))
    head = head_of(pooling.from_name("avg"), layers="1")
    training.export_head(head, tmp_path / "whole.jax", backbone=vit)
    exported = jax.export.deserialize(bytearray((tmp_path / "whole.jax").read_bytes()))
    images = np.random.default_rng(0).uniform(0, 16, (3, 8, 8, 1)).astype(np.float32)
    expected = head.predict(training.extract_states(vit, images, layer=1).states)
    np.testing.assert_allclose(exported.call(images), expected, rtol=1e-5, atol=1e-6)
    output = head.predict(training.extract_states(vit, images).states)
    assert np.abs(np.asarray(expected) - np.asarray(output)).max() > 1e-3


def test_a_graph_of_onnx_is_of_a_head_on_states_alone(tmp_path, monkeypatch):
    head, file = head_of(pooling.AveragePool()), tmp_path / "head.onnx"
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ValueError, match=r'format: expected jax2onnx for "onnx" \(pip install'):
        training.export_head(head, file, format="onnx")
    others = {"GatedAttentionPool": pooling.GatedAttentionPool()}
    others[r"QueryAttentionPool\(full=True\)"] = pooling.QueryAttentionPool(full=True)
    for name, pooler in others.items():
        with pytest.raises(ValueError, match=f"head: expected a pooler of FirstPool, .*, got {name}"):
            training.export_head(dataclasses.replace(head, pooler=pooler), file, format="onnx")
    _, vit, _ = next(small_backbones())
    with pytest.raises(ValueError, match=r"backbone: expected None for .*, got ViT"):
        training.export_head(head, file, backbone=vit, format="onnx")
    with pytest.raises(ValueError, match="format: expected one of 'jax', 'onnx', got 'tflite'"):
        training.export_head(head, file, format="tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the libraries that jax2onnx reads
@pytest.mark.parametrize("standardized", [False, True])
@pytest.mark.parametrize(
    "name", ["first", "last", "avg", "sum", "max", "sqrt", "l2", "lse", "wavg", "attn", "map"]
)
def test_onnxruntime_gives_what_heads_give(tmp_path, name, standardized):
    pytest.importorskip("jax2onnx", reason='pip install "poolax[onnx]"')
    onnxruntime = pytest.importorskip("onnxruntime")
    head = head_of(pooling.from_name(name))
    rng = np.random.default_rng(0)
    if standardized:
        scaling = {"mean": jnp.arange(WIDTH, dtype=jnp.float32), "deviation": jnp.full(WIDTH, 3.0)}
        head = Head(head.pooler, {**head.variables, "scaling": scaling}, head.config)
    training.export_head(head, tmp_path / "head.onnx", format="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "head.onnx")
    for num_tokens in (1, 2, 3, 5, 6):
        states = rng.normal(0, 3, (4, num_tokens, WIDTH)).astype(np.float32)
        mask = rng.random((4, num_tokens)) < 0.5
        mask[0], mask[1] = True, False
        [outputs] = session.run(["outputs"], {"states": states, "mask": mask})
        np.testing.assert_allclose(outputs, head.predict(states, mask), rtol=1e-5, atol=1e-5)
    states[~mask] = np.nan
    [unseen] = session.run(["outputs"], {"states": states, "mask": mask})
    np.testing.assert_array_equal(unseen, outputs)
    about = json.loads((tmp_path / "head.onnx.json").read_text())
    assert (about["format"], about["inputs"][0]["shape"]) == ("onnx", ["b", "n", WIDTH])
