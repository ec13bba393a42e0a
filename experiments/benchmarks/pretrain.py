"""A training step of a small GPT-2 in float32 beside PyTorch: forward, backward and AdamW.

PyTorch's model is that of transformers with its fused attention and the fused activation; ours has its
weights, and both have to give the same losses over the first steps. L2 attention trains beside, which
PyTorch has no model of. The memory of each is what the peak of a process of its own grows by; of ours
with compilation, and of another process that finds the compiled program in a cache. Beside it stands
what the program asks for: parameters, moments, batch, and what is kept between forward and backward.

Needs the reference libraries of ``tests/install_parity.sh``.
"""

import dataclasses
import multiprocessing
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.forward import matrix_product
from benchmarks.products import flops_of, products_of
from benchmarks.timing import medians, own_peak_mebibytes, paired_ratio, samples
from poolax import backbones
from poolax.attention import L2, DotProduct, Kind
from poolax.records import environment

COLUMNS = {
    "case": "{}",
    "poolax_seconds": "{:.3f}",
    "torch_seconds": "{:.3f}",
    "ratio": "{:.2f}",
    "tokens_per_second": "{:.0f}",
    "share_of_matrix_product": "{:.2f}",
    "l2_seconds": "{:.3f}",
    "l2_over_dot_product": "{:.2f}",
    "poolax_mebibytes": "{:.0f}",
    "poolax_cached_mebibytes": "{:.0f}",
    "poolax_program_mebibytes": "{:.0f}",
    "torch_mebibytes": "{:.0f}",
    "l2_mebibytes": "{:.0f}",
    "l2_cached_mebibytes": "{:.0f}",
}
LEARNING_RATE, WEIGHT_DECAY = 6e-4, 0.1
_CONTESTANTS = ("poolax", "torch", "l2")
_SAME_STEPS = 3


@dataclasses.dataclass(frozen=True)
class Case:
    """A GPT-2 and its batches.

    Attributes:
        width: Width of the tokens.
        num_layers: Blocks.
        num_heads: Heads.
        block: Tokens of a row that predict the next one.
        rows: Rows of a batch.
        vocab_size: Number of token ids.
    """

    width: int
    num_layers: int
    num_heads: int
    block: int = 128
    rows: int = 8
    vocab_size: int = 4096

    @property
    def name(self) -> str:
        """What is measured."""
        return (
            f"GPT-2, {self.num_layers} layers of {self.width}, {self.rows} rows of {self.block} tokens"
        )

    @property
    def ids(self) -> np.ndarray:
        """Random token ids, shape ``(rows, block + 1)``."""
        return np.random.default_rng(0).integers(0, self.vocab_size, (self.rows, self.block + 1))


CASES = (Case(192, 4, 4), Case(384, 6, 6))


def reference(case: Case) -> Any:
    """The model of transformers, with random weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=case.vocab_size,
        n_positions=case.block,
        n_embd=case.width,
        n_layer=case.num_layers,
        n_head=case.num_heads,
        activation_function="gelu_pytorch_tanh",  # in one operation, where "gelu_new" takes eight
        attn_implementation="sdpa",
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        **dict.fromkeys(("bos_token_id", "eos_token_id"), 0),
    )
    return GPT2LMHeadModel(config).train()


def in_torch(model: Any, ids: np.ndarray) -> Callable[[], float]:
    """One step of the reference, whose loss comes back."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    inputs, targets = torch.tensor(ids[:, :-1]), torch.tensor(ids[:, 1:])

    def step():
        optimizer.zero_grad()
        logits = model(input_ids=inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def next_token_loss(params: Any, gpt2: Any, ids: Any) -> Any:
    """Mean cross-entropy of the next tokens."""
    states = gpt2.apply(params, ids[:, :-1]).states
    logits = states @ params["embeddings"]["token"].T
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]))


class InPoolax:
    """Steps of a model of ours; parameters and moments are donated from one to the next."""

    def __init__(self, gpt2: Any, ids: np.ndarray):
        model = dataclasses.replace(gpt2, params=None)
        optimizer = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)

        def step(params, moments, ids):
            loss, gradient = jax.value_and_grad(next_token_loss)(params, model, ids)
            updates, moments = optimizer.update(gradient, moments, params)
            return optax.apply_updates(params, updates), moments, loss

        self.step = step
        self.compiled = jax.jit(step, donate_argnums=(0, 1))
        params = gpt2.params  # donated: the model is of no use afterwards
        self.arguments = [params, optimizer.init(params), jnp.asarray(ids)]

    def __call__(self) -> float:
        """One step, whose loss comes back."""
        *self.arguments[:2], loss = self.compiled(*self.arguments)
        return float(loss)

    def program_mebibytes(self) -> float:
        """What the compiled step takes: arguments, in whose place results stand, and all between."""
        found: Any = self.compiled.lower(*self.arguments).compile().memory_analysis()
        results = found.output_size_in_bytes - found.alias_size_in_bytes
        return (found.argument_size_in_bytes + results + found.temp_size_in_bytes) / 2**20


def with_weights_of(model: Any, case: Case) -> InPoolax:
    """Ours with the weights of the reference."""
    tensors = {name: leaf.detach().numpy() for name, leaf in model.transformer.state_dict().items()}
    return InPoolax(backbones.from_state_dict(tensors, model.config.to_dict()), case.ids)


def with_attention(kind: Kind, case: Case) -> InPoolax:
    """Ours with random weights."""
    sizes = (case.vocab_size, case.block, case.width, case.num_layers, case.num_heads, 4 * case.width)
    config = backbones.GPT2Config(*sizes, kind, "gelu_pytorch_tanh")
    return InPoolax(backbones.GPT2.init(config, jax.random.key(0)), case.ids)


def grown_mebibytes(case: Case, contestant: str, threads: int, cache: str) -> float:
    """By how much the peak of a new process grows from its imports over the first steps.

    A program that is not in the folder ``cache`` is compiled, and kept there.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_grown, (case, contestant, threads, cache))


def _grown(case, contestant, threads, cache):
    if contestant == "torch":
        import torch

        torch.set_num_threads(threads)
        reference(dataclasses.replace(case, width=8, num_heads=1))  # imports what belongs to it
        before = own_peak_mebibytes()
        step = in_torch(reference(case), case.ids)
    else:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        jnp.zeros(1).block_until_ready()
        before = own_peak_mebibytes()
        step = with_attention(DotProduct() if contestant == "poolax" else L2(), case)
    for _ in range(_SAME_STEPS):
        step()
    return own_peak_mebibytes() - before


def measure_case(case: Case, repeats: int, pause: float, threads: int) -> dict[str, object]:
    """Seconds and ratios of a case, which are medians over rounds, and the memory of each."""
    model = reference(case)
    mine, theirs = with_weights_of(model, case), in_torch(model, case.ids)
    for number in range(_SAME_STEPS):
        found, expected = mine(), theirs()
        if abs(found - expected) > 1e-4 * expected:
            raise SystemExit(
                f"{case.name}: expected a loss of {expected:g} in step {number}, got {found:g}"
            )
    product, product_flops = matrix_product()
    calls = {"poolax": mine, "torch": theirs, "l2": with_attention(L2(), case), "product": product}
    seconds = samples(calls, repeats, pause)
    median, work = medians(seconds), flops_of(products_of(mine.step, *mine.arguments)) / product_flops
    return {
        "case": case.name,
        **dataclasses.asdict(case),
        "poolax_seconds": median["poolax"],
        "torch_seconds": median["torch"],
        "ratio": paired_ratio(seconds, "torch", "poolax"),
        "tokens_per_second": case.rows * case.block / median["poolax"],
        "matrix_product_gflops": product_flops / median["product"] / 1e9,
        "share_of_matrix_product": work * paired_ratio(seconds, "product", "poolax"),
        "l2_seconds": median["l2"],
        "l2_over_dot_product": paired_ratio(seconds, "l2", "poolax"),
        "poolax_program_mebibytes": mine.program_mebibytes(),
        **memory_of(case, threads),
    }


def memory_of(case: Case, threads: int) -> dict[str, float]:
    """What the peak of each contestant's process grows by, of ours also without compilation."""
    with tempfile.TemporaryDirectory() as cache:
        first = {name: grown_mebibytes(case, name, threads, cache) for name in _CONTESTANTS}
        again = {name: grown_mebibytes(case, name, threads, cache) for name in ("poolax", "l2")}
    found = {f"{name}_mebibytes": value for name, value in first.items()}
    return found | {f"{name}_cached_mebibytes": value for name, value in again.items()}


def run(*, repeats: int, pause: float, threads: int | None) -> list[dict[str, object]]:
    """One record for each case.

    Raises:
        SystemExit: if losses of ours and of PyTorch differ.
    """
    import torch

    threads = threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    common = {
        "kind": "benchmark",
        "suite": "pretrain",
        "repeats": repeats,
        "torch": torch.__version__,
        "torch_threads": threads,
        **environment(),
    }
    return [{**common, **measure_case(case, repeats, pause, threads)} for case in CASES]
