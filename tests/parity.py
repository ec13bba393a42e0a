"""Reference models of PyTorch and Hugging Face, with random parameters throughout."""

import json

import jax
import numpy as np
import pytest
from real_weights import NotInstalledError, weights_folder

torch = pytest.importorskip("torch", reason="install with tests/install_parity.sh")
transformers = pytest.importorskip("transformers", reason="install with tests/install_parity.sh")

TOLERANCE = 1e-5  # relative to the largest entry of a layer, which is between 1 and 10


def build(cls, config, seed=0):
    """A reference model whose biases and norm scales are random as well, in eager attention."""
    torch.manual_seed(seed)
    config._attn_implementation = "eager"
    model = cls(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim <= 1 or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return model


def save(model, directory):
    """Write a reference model as a user of Hugging Face would."""
    model.save_pretrained(directory)
    return directory


def edit_config(directory, **fields):
    """Change fields of a saved configuration; a field set to ... is removed."""
    path = directory / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def run(model, **inputs):
    """The output of a reference model for NumPy inputs."""
    tensors = {
        name: torch.tensor(value) if isinstance(value, np.ndarray) else value
        for name, value in inputs.items()
    }
    with torch.inference_mode():
        return model(**tensors, output_hidden_states=True, return_dict=True)


def padded_masks(num_tokens):
    """A mask of three rows: padding on the right, on the left, none."""
    mask = np.ones((3, num_tokens), bool)
    mask[0, num_tokens - 3 :] = False
    mask[1, :4] = False
    return mask


def reference(name, fields, seed=0, part="Model"):
    """A reference model by the name of its class, without its ending."""
    config = getattr(transformers, f"{name}Config")(**fields)
    return build(getattr(transformers, f"{name}{part}"), config, seed)


def assert_layers(backbone, reference, inputs, mask=None, tolerance=TOLERANCE, real=None):
    """States of every layer against the reference's, at real tokens: those of ``mask`` unless given."""
    expected = [state.numpy() for state in reference.hidden_states[:-1]]
    expected.append(reference.last_hidden_state.numpy())
    if real is None:
        real = np.ones(expected[0].shape[:-1], bool) if mask is None else mask
    layers = [*range(backbone.num_layers), -1]

    def all_states(params, inputs, mask):
        return [backbone.apply(params, inputs, mask, layer=layer).states for layer in layers]

    # One program, in which what the layers have in common is computed and compiled once.
    found = jax.jit(all_states)(backbone.params, inputs, mask)
    for layer, states, expected_states in zip(layers, found, expected, strict=True):
        scale = max(np.abs(expected_states[real]).max(), 1.0)
        error = np.abs(np.asarray(states) - expected_states)[real].max()
        assert error <= tolerance * scale, (layer, error, scale)


def real_weights(name):
    """Folder of real weights, made first if need be; the test skips where their package is missing."""
    try:
        return weights_folder(name)
    except NotInstalledError as error:
        pytest.skip(str(error))
