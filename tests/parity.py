"""Reference models of PyTorch and Hugging Face, with random parameters throughout."""

import json

import numpy as np
import pytest
from real_weights import NotInstalledError, weights_folder

torch = pytest.importorskip("torch", reason="install with tests/install_parity.sh")
transformers = pytest.importorskip("transformers", reason="install with tests/install_parity.sh")


def build(cls, config, seed=0):
    """A reference model whose biases and norm scales are random as well, in eager attention."""
    torch.manual_seed(seed)
    config._attn_implementation = "eager"
    model = cls(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or name.endswith("bias"):
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


def real_weights(name):
    """Folder of real weights, made first if need be; the test skips where their package is missing."""
    try:
        return weights_folder(name)
    except NotInstalledError as error:
        pytest.skip(str(error))
