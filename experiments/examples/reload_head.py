"""A trained head without poolax: arrays by Orbax, its configuration as JSON, and a few lines of NumPy.

    python experiments/examples/reload_head.py HEAD states.npy [mask.npy]

``HEAD`` is the checkpoint directory of a head, such as one below ``heads/`` of a sweep; ``states.npy``
holds token states ``(N, n, d)`` of its backbone. Prints a class a line. Copy what you need: nothing
here imports poolax, Flax or a model.
"""

import pathlib
import sys

import numpy as np
import orbax.checkpoint as ocp


def read_head(directory):
    """Arrays and configuration of the latest step."""
    with ocp.CheckpointManager(pathlib.Path(directory).absolute()) as manager:
        found = manager.restore(manager.latest_step())
    return found.state, found.metadata


def pool(pooler, params, states, mask):
    """Vectors ``(N, d)`` of the poolers that most heads have; others are a few lines more."""
    states = np.where(mask[..., None], states, 0)
    count = np.maximum(mask.sum(axis=1, keepdims=True), 1)
    name, options, rows = pooler["name"], pooler["options"], np.arange(len(states))
    if name == "first":
        return states[rows, np.argmax(mask, axis=1)]
    if name == "last":
        return states[rows, mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)]
    if name == "sum":
        return states.sum(axis=1)
    if name == "avg":
        return states.sum(axis=1) / count
    if name == "max":
        # Of no tokens at all it is zero.
        largest = np.where(mask[..., None], states, -np.inf).max(axis=1)
        return np.where(mask.any(axis=1)[:, None], largest, 0)
    if name == "wavg" and options["normalize"] == "softmax":
        # A weight for each place behind the first real token.
        places = np.maximum(np.arange(mask.shape[1]) - np.argmax(mask, axis=1)[:, None], 0)
        shares = np.where(mask, np.exp(np.asarray(params["weights"])[places]), 0)
        shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-30)
        return np.einsum("bn,bnd->bd", shares, states)
    raise ValueError(f"pooler: expected first, last, avg, sum, max or wavg, got {name!r}, {options}")


def predict(directory, states, mask=None):
    """Outputs ``(N, k)`` of a head."""
    state, metadata = read_head(directory)
    states = np.asarray(states, np.float32)
    mask = np.ones(states.shape[:2], bool) if mask is None else np.asarray(mask, bool)
    # Real tokens in front that the head was trained without.
    mask = mask & (np.cumsum(mask, axis=1) > (metadata.get("num_skipped") or 0))
    if "scaling" in state:
        states = (states - state["scaling"]["mean"]) / state["scaling"]["deviation"]
    vectors = pool(metadata["pooler"], state["params"].get("pooler", {}), states, mask)
    output = state["params"]["output"]
    return vectors @ np.asarray(output["kernel"]) + np.asarray(output["bias"])


def main():
    """Print a class for each row of states."""
    directory, *files = sys.argv[1:]
    arrays = [np.load(file) for file in files]
    print("\n".join(str(best) for best in predict(directory, *arrays).argmax(axis=1)))


if __name__ == "__main__":
    main()
