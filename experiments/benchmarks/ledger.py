"""The ledger of a decoder with seven billion random parameters, a block of them in memory at a time."""

import collections
import dataclasses
import math
import resource
import time
import zlib

import jax
import jax.numpy as jnp

from poolax import backbones, bounds
from poolax.records import environment

COLUMNS = {
    "case": "{}",
    "billion_parameters": "{:.2f}",
    "seconds": "{:.0f}",
    "peak_mebibytes": "{:.0f}",
    "log10_lipschitz": "{:.1f}",
}

# The sizes of Mistral 7B (Jiang et al., 2023).
CONFIG = backbones.DecoderConfig(
    vocab_size=32_000,
    width=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    mlp_dim=14_336,
)


class RandomEncoder(collections.UserDict):
    """Layers of a decoder in bfloat16; the parameters of a block are drawn when it is read."""

    def __init__(self, config: backbones.DecoderConfig, key):
        """Take the shapes from a decoder that is never made."""
        model = jax.eval_shape(lambda key: backbones.Decoder.init(config, key), key)
        super().__init__(model.params["encoder"])
        self.key = key

    def __getitem__(self, name):
        """Kernels whose outputs have the scale of their inputs, and norms that scale by 1."""

        def draw(path, leaf):
            if leaf.ndim == 1:
                return jnp.ones(leaf.shape, jnp.bfloat16)
            place = f"{name}{jax.tree_util.keystr(path)}"
            key = jax.random.fold_in(self.key, zlib.crc32(place.encode()))
            inputs = leaf.size // leaf.shape[-1] if "out" in place else leaf.shape[0]
            return inputs**-0.5 * jax.random.normal(key, leaf.shape, jnp.bfloat16)

        return jax.tree.map_with_path(draw, super().__getitem__(name))


def run(*, num_layers: int = CONFIG.num_layers, num_tokens: int = 512) -> list[dict[str, object]]:
    """Sharp and tight ledgers of the first layers; drawing the parameters counts as their reading."""
    config = dataclasses.replace(CONFIG, num_layers=num_layers)
    encoder = RandomEncoder(config, jax.random.key(0))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(encoder.data))
    decoder = backbones.Decoder(params=None, config=config, preprocess=None)
    records = []
    for method in bounds.PROVED:
        start = time.perf_counter()
        table = bounds.ledger(
            decoder.iter_layer_specs({"encoder": encoder}),
            num_tokens=num_tokens,
            radius=1.0,
            method=method,
        )
        log_lipschitz = float(table.log_lipschitz)
        records.append(
            {
                "kind": "benchmark",
                "suite": "ledger",
                "case": f"{method}, {num_layers} layers",
                "method": method,
                "num_layers": num_layers,
                "num_tokens": num_tokens,
                "billion_parameters": parameters / 1e9,
                "seconds": time.perf_counter() - start,
                # Linux counts in KiB; the peak is that of the process so far.
                "peak_mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
                "log10_lipschitz": log_lipschitz / math.log(10),
                **environment(),
            }
        )
    return records
