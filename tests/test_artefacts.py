"""Heads as files that JAX alone runs, of any number of inputs and tokens."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolax import backbones, pooling, training
from poolax.training import Head, HeadModule

WIDTH = 8


def head_of(pooler, *, num_tokens=6, **config):
    variables = HeadModule(pooler, 3).init(jax.random.key(0), jnp.ones((num_tokens, WIDTH)))
    return Head(pooler, variables, {"num_outputs": 3, "task": "classification", **config})


RUN = """
import sys
import jax, numpy as np
content = bytearray(open(sys.argv[1], "rb").read())
given = np.load(sys.argv[2])
outputs = jax.export.deserialize(content).call(*(given[name] for name in given.files))
np.save(sys.argv[3], outputs)
assert not {"poolax", "flax"} & set(sys.modules)
"""


def run_alone(tmp_path, file, *arguments):
    """Outputs of an artefact in a process that has nothing but JAX and NumPy."""
    np.savez(tmp_path / "given.npz", *arguments)
    command = [sys.executable, "-c", "import jax.export\n" + RUN, file, tmp_path / "given.npz"]
    subprocess.run([*map(str, command), str(tmp_path / "outputs.npy")], check=True, cwd=tmp_path)
    return np.load(tmp_path / "outputs.npy")


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


def test_a_backbone_goes_with_its_head_and_needs_neither_of_us(tmp_path):
    config = backbones.ViTConfig(8, 4, 1, width=WIDTH, num_layers=1, num_heads=2, mlp_dim=8)
    vit = backbones.ViT.init(config, jax.random.key(0), backbones.ImagePreprocess(scale=1 / 16))
    head = head_of(pooling.from_name("avg"))
    training.export_head(head, tmp_path / "whole.jax", backbone=vit)
    images = np.random.default_rng(0).uniform(0, 16, (3, 8, 8, 1)).astype(np.float32)
    outputs = run_alone(tmp_path, tmp_path / "whole.jax", images)
    states = training.extract_states(vit, images).states
    np.testing.assert_allclose(outputs, head.predict(states), rtol=1e-5, atol=1e-6)


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
