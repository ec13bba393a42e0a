"""Real pretrained weights: a DINOv2-small, against the reference and the graph that it is read from."""

import numpy as np
import pytest
from parity import real_weights, run, transformers
from real_weights import dinov2_graph_states

from poolax import backbones, data, training


@pytest.fixture(scope="module")
def directory():
    return real_weights("dinov2")


def test_images_that_are_not_square_against_graph_and_reference(directory):
    dinov2 = backbones.load(directory, stacked=True)
    image = np.random.default_rng(0).integers(0, 256, (1, 30, 43, 3), dtype=np.uint8)
    x = np.asarray(dinov2.preprocess(image))
    pixels = x.transpose(0, 3, 1, 2).copy()
    states = np.asarray(dinov2(x).states)
    assert states.shape == (1, 1 + 2 * 3, 384)
    model = transformers.Dinov2Model.from_pretrained(directory, attn_implementation="eager").eval()
    reference = run(model, pixel_values=pixels).last_hidden_state.numpy()
    graph = dinov2_graph_states(pixels)
    for one, other in ((reference, graph), (states, graph), (states, reference)):
        assert np.abs(one - other).max() < 1e-4
    assert np.abs(graph).max() > 1


@pytest.mark.slow
def test_a_linear_probe_on_the_cls_token_knows_cifar10(directory, test_data):
    """With 1,500 training images of 98 x 98 pixels about 69 in 100 are right."""
    dinov2 = backbones.load(directory, stacked=True)
    parts = [np.load(test_data / "cifar10" / f"{name}.npz") for name in ("train", "test")]
    images = np.concatenate([parts[0]["image"][:1800], parts[1]["image"][:700]])
    labels = np.concatenate([parts[0]["label"][:1800], parts[1]["label"][:700]])
    splits = {"train": np.arange(1500), "validation": np.arange(1500, 1800)}
    splits["test"] = np.arange(1800, 2500)
    pixels = dinov2.preprocess.collect(list(images), size=98)
    dataset = data.Dataset("cifar10", pixels, labels, splits, "CIFAR-10", "none stated")
    task = training.Classification(10)
    [row] = training.sweep(dinov2, dataset, task, poolers=("cls",), seeds=1, solver="converged")
    assert row["positions"] == "bicubic from 37 x 37 to 7 x 7 patches"
    assert 0.64 <= row["test"] <= 0.75
