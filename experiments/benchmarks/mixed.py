"""Embeddings of real texts of mixed lengths, BANKING77 by MiniLM, beside PyTorch.

Ours is :func:`poolax.training.embed`, which puts texts of like length together. PyTorch takes batches
in the order in which texts come, padded to the longest of each, and once more sorted by length. Both
start from token ids and end with the mean over each text's tokens.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.timing import medians, paired_ratio, samples
from benchmarks.weights import MissingError, folder

NUM_TEXTS = 2048
_BATCH = 32  # what sentence-transformers takes


def measure(data_dir: str | None, repeats: int, pause: float) -> dict[str, object]:
    """Seconds of all texts, and how many times faster ours is.

    Raises:
        MissingError: without a folder with ``banking77/``, or without the weights.
    """
    from transformers import BertModel

    from poolax import backbones, data
    from poolax.pooling import AveragePool
    from poolax.training import embed

    if data_dir is None:
        raise MissingError("texts of mixed lengths: give a folder with banking77/ by --data-dir")
    directory = folder("minilm")
    backbone = backbones.load(directory).replace(pooler=AveragePool())
    dataset = data.load("banking77", data_dir=data_dir)
    chosen = np.random.default_rng(0).permutation(len(dataset.inputs))[:NUM_TEXTS]
    ids, mask = backbone.preprocess([dataset.inputs[index] for index in chosen])
    lengths = mask.sum(-1)
    reference = BertModel.from_pretrained(directory, add_pooling_layer=False).eval()
    calls: dict[str, Callable[[], Any]] = {
        "poolax": lambda: embed(backbone, ids, mask),
        "in_order": lambda: in_torch(reference, ids, mask, np.arange(len(ids))),
        "sorted": lambda: in_torch(reference, ids, mask, np.argsort(lengths, kind="stable")),
    }
    name = f"MiniLM-L6, {len(ids)} texts of {lengths.min()} to {lengths.max()} tokens"
    found = [call() for call in calls.values()]
    difference = max(np.abs(found[0] - other).max() for other in found[1:])
    if difference > 1e-4:
        raise SystemExit(f"{name}: the two models differ by {difference:g}")
    seconds = samples(calls, repeats, pause)
    middle = medians(seconds)
    return {
        "case": name,
        "poolax_seconds": middle["poolax"],
        "torch_seconds": middle["in_order"],
        "ratio": paired_ratio(seconds, "in_order", "poolax"),
        "torch_sorted_seconds": middle["sorted"],
        "ratio_to_sorted": paired_ratio(seconds, "sorted", "poolax"),
        "mean_tokens": float(lengths.mean()),
    }


def in_torch(model, ids: np.ndarray, mask: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Means over the tokens of texts, in the order in which they were given, by batches in another."""
    import torch

    vectors = np.zeros((len(ids), model.config.hidden_size), np.float32)
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        longest = mask[rows].sum(-1).max()
        real = torch.from_numpy(mask[rows, :longest])
        with torch.inference_mode():
            tokens = torch.from_numpy(ids[rows, :longest]).long()
            states = model(input_ids=tokens, attention_mask=real.long()).last_hidden_state
            total = (states * real[..., None]).sum(1)
            vectors[rows] = (total / real.sum(1, keepdim=True)).numpy()
    return vectors
