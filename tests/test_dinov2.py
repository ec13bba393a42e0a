"""Real pretrained weights: a DINOv2-small, against the reference and the graph that it is read from."""

import numpy as np
import pytest
from parity import real_weights, run, transformers
from real_weights import dinov2_graph_states

from poolax import backbones


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
