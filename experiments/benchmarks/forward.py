"""Forward passes of frozen backbones in float32 beside PyTorch.

Of each model the matrix products are timed alone as well, of the same shapes and as often, in both
libraries: what a forward pass reaches of their rate is what stands around them; what they reach of one
large product's rate is up to the libraries. PyTorch's attention is its fused one.

Needs the reference libraries and weights of ``tests/install_parity.sh``; cases without their weights
are left out, by name.
"""

import contextlib
import dataclasses
import pathlib
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import loading, mixed, parts
from benchmarks.products import Counts, flops_of, in_jax, in_torch, products_of
from benchmarks.timing import medians, paired_ratio, samples
from benchmarks.weights import MissingError, folder
from poolax import backbones
from poolax.records import environment

COLUMNS = {
    "case": "{}",
    "poolax_seconds": "{:.4f}",
    "torch_seconds": "{:.4f}",
    "ratio": "{:.2f}",
    "share_of_matrix_product": "{:.2f}",
    "torch_share_of_matrix_product": "{:.2f}",
    "products_seconds": "{:.4f}",
    "torch_products_seconds": "{:.4f}",
    "share_of_products": "{:.2f}",
    "torch_share_of_products": "{:.2f}",
    "torch_sorted_seconds": "{:.4f}",
    "ratio_to_sorted": "{:.2f}",
    "load_seconds": "{:.2f}",
    "mebibytes": "{:.0f}",
    "growth_of_peak": "{:.2f}",
    "part": "{}",
    "seconds": "{:.4f}",
    "percent": "{:.1f}",
    "percent_of_matrix_rate": "{:.0f}",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """The same model twice.

    Attributes:
        name: What is measured.
        forward: Our program, of parameters and inputs.
        arguments: What it is called with.
        reference: Runs the other and waits for the result.
    """

    name: str
    forward: Callable
    arguments: tuple[Any, ...]
    reference: Callable[[], object]

    def poolax(self) -> object:
        """Run ours and wait for the result."""
        return self.forward(*self.arguments).block_until_ready()

    @property
    def products(self) -> Counts:
        """Our matrix products."""
        return products_of(self.forward, *self.arguments)


def vit_small() -> Case:
    """ViT-small/16, batch 8 at 224 x 224, random weights."""
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
    reference = ViTModel(ViTConfig(**sizes), add_pooling_layer=False).eval()
    tensors = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    backbone = backbones.from_state_dict(tensors, reference.config.to_dict())
    return of_images("ViT-small, 8 images of 224²", backbone, reference, 8, 224)


def dinov2(count: int, side: int) -> Case:
    """DINOv2-small with real weights."""
    from transformers import Dinov2Model

    directory = folder("dinov2")
    reference = Dinov2Model.from_pretrained(directory).eval()
    name = f"DINOv2-small, {count} images of {side}²"
    return of_images(name, backbones.load(directory), reference, count, side)


def minilm() -> Case:
    """all-MiniLM-L6-v2 with its real weights, 32 texts of 64 tokens."""
    from transformers import BertModel

    directory = folder("minilm")
    reference = BertModel.from_pretrained(directory, add_pooling_layer=False).eval()
    return of_ids("MiniLM-L6, 32 texts of 64 tokens", directory, reference, 32)


def smollm2() -> Case:
    """SmolLM2-135M with its real weights, 8 texts of 64 tokens."""
    from transformers import LlamaModel

    directory = folder("smollm2")
    reference = LlamaModel.from_pretrained(directory).eval()
    reference.config.use_cache = False
    return of_ids("SmolLM2-135M, 8 texts of 64 tokens", directory, reference, 8)


CASES: tuple[Callable[[], Case], ...] = (
    vit_small,
    lambda: dinov2(8, 224),
    lambda: dinov2(32, 98),
    minilm,
    smollm2,
)


def of_images(name, backbone, reference, count, side) -> Case:
    """A case of random images."""
    import torch

    images = np.random.default_rng(0).normal(size=(count, side, side, 3)).astype(np.float32)
    pixels = torch.tensor(images.transpose(0, 3, 1, 2).copy())
    return make_case(name, backbone, images, reference, pixel_values=pixels)


def of_ids(name: str, directory: pathlib.Path, reference, count) -> Case:
    """A case of random token ids."""
    import torch

    ids = np.random.default_rng(0).integers(1000, 20_000, (count, 64))
    return make_case(name, backbones.load(directory), ids, reference, input_ids=torch.tensor(ids))


def make_case(name, backbone, inputs, reference, **reference_inputs) -> Case:
    """Both contestants, checked to give the same."""
    import torch

    def run_reference():
        with torch.inference_mode():
            return reference(**reference_inputs).last_hidden_state

    forward = jax.jit(lambda params, x: backbone.apply(params, x).states)
    arguments = (backbone.params, jnp.asarray(inputs))
    states, expected = np.asarray(forward(*arguments)), run_reference().numpy()
    difference = np.abs(states - expected).max() / np.abs(expected).max()
    if difference > 2e-4:
        raise SystemExit(f"{name}: the two models differ by {difference:g} of the largest entry")
    return Case(name, forward, arguments, run_reference)


def matrix_product(size: int = 2048) -> tuple[Callable[[], object], float]:
    """One large float32 product in JAX, and its floating-point operations."""
    x = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda x: x @ x)
    return lambda: product(x).block_until_ready(), 2.0 * size**3


def measure_case(case: Case, repeats: int, pause: float) -> dict[str, object]:
    """Seconds, ratios and shares of a case, which are medians over rounds."""
    product, product_flops = matrix_product()
    counts = case.products
    calls = {
        "poolax": case.poolax,
        "reference": case.reference,
        "product": product,
        "products": in_jax(counts),
        "torch_products": in_torch(counts),
    }
    seconds = samples(calls, repeats, pause)
    found, work = medians(seconds), flops_of(counts) / product_flops
    return {
        "case": case.name,
        "poolax_seconds": found["poolax"],
        "torch_seconds": found["reference"],
        "ratio": paired_ratio(seconds, "reference", "poolax"),
        "matrix_product_gflops": product_flops / found["product"] / 1e9,
        "share_of_matrix_product": work * paired_ratio(seconds, "product", "poolax"),
        "torch_share_of_matrix_product": work * paired_ratio(seconds, "product", "reference"),
        "products_seconds": found["products"],
        "torch_products_seconds": found["torch_products"],
        "share_of_products": paired_ratio(seconds, "products", "poolax"),
        "torch_share_of_products": paired_ratio(seconds, "torch_products", "reference"),
    }


def profile_case(case: Case, repeats: int, pause: float) -> list[dict[str, object]]:
    """Where a case's time goes, in parts that add up."""
    product, product_flops = matrix_product()
    seconds = statistics.median(samples({"product": product}, repeats, pause)["product"])
    rows = parts.of_program(case.forward, case.arguments, product_flops / seconds, repeats)
    return [{"case": case.name, **row} for row in rows]


def run(
    *,
    repeats: int,
    pause: float,
    threads: int | None,
    data_dir: str | None = None,
    by_part: bool = False,
) -> list[dict[str, object]]:
    """One record for each model, or with ``by_part`` one for each part of each model."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    rows: list[dict[str, object]] = []
    for make in CASES:
        with skipping():
            case = make()
            if by_part:
                rows += profile_case(case, repeats, pause)
            else:
                rows.append(measure_case(case, repeats, pause))
    if not by_part:
        with skipping():
            few = max(repeats // 3, 1)  # a round takes seconds
            rows.append({**mixed.measure(data_dir, few, pause), "repeats": few})
        for name in loading.MODELS:
            with skipping():
                rows.append(loading.measure(name))
    common = {
        "repeats": repeats,
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        **environment(),
    }
    return [{"kind": "benchmark", "suite": "forward", **common, **row} for row in rows]


@contextlib.contextmanager
def skipping() -> Iterator[None]:
    """Say what a case lacks and go on."""
    try:
        yield
    except MissingError as error:
        print(f"left out: {error}", file=sys.stderr)
