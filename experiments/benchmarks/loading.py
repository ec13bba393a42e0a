"""Time and host memory of loading real weights, each in a process of its own.

Memory is the growth of the peak over what a process holds that has imported poolax and started its
device, which alone takes some 50 MiB; a tokenizer is part of what grows.
"""

import multiprocessing
import time
from typing import Any

from benchmarks.timing import own_peak_mebibytes
from benchmarks.weights import folder

MODELS = {"minilm": "MiniLM-L6", "dinov2": "DINOv2-small", "smollm2": "SmolLM2-135M"}


def measure(name: str) -> dict[str, Any]:
    """Load one of ``MODELS`` in a new process.

    Raises:
        MissingError: if its weights are not there.
    """
    directory = str(folder(name))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return {"case": f"loading {MODELS[name]}", **pool.apply(_load, (directory,))}


def _load(directory: str) -> dict[str, Any]:
    import jax

    from poolax import backbones

    jax.numpy.zeros(1).block_until_ready()
    before, start = own_peak_mebibytes(), time.perf_counter()
    backbone = backbones.load(directory)
    jax.block_until_ready(backbone.params)
    seconds, grown = time.perf_counter() - start, own_peak_mebibytes() - before
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(backbone.params)) / 2**20
    return {"load_seconds": seconds, "mebibytes": size, "growth_of_peak": grown / size}
