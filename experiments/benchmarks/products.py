"""The matrix products of a function: which there are, what they cost, and how fast they are alone."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, order=True)
class Product:
    """``batch`` products of matrices of ``m`` by ``k`` and ``k`` by ``n`` entries."""

    batch: int
    m: int
    k: int
    n: int

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.batch * self.m * self.k * self.n


Counts = Mapping[Product, int]


def products_of(fn: Callable, *args: Any) -> Counts:
    """The matrix products of a function of arrays, and how often each is computed.

    Read from the function itself, so that it is right for every family: gated layers, shared key and
    value heads, embeddings of patches. Products with a vector or of less than 2^16 operations, such as
    those that resize a table of positions along one axis, count as well.

    Raises:
        ValueError: for convolutions and loops without a known number of steps.

    Example:
        >>> products_of(lambda x, w: jnp.tanh(x @ w) @ w, jnp.ones((2, 5, 3)), jnp.ones((3, 3)))
        Counter({Product(batch=1, m=10, k=3, n=3): 2})
    """
    found: collections.Counter[Product] = collections.Counter()
    for product, times in _walk(jax.make_jaxpr(fn)(*args).jaxpr):
        found[product] += times
    return found


def flops_of(counts: Counts) -> int:
    """Multiplications and additions of all products."""
    return sum(product.flops * times for product, times in counts.items())


def _walk(jaxpr) -> Iterator[tuple[Product, int]]:
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            yield _product(equation), 1
        elif name in ("conv_general_dilated", "while"):
            raise ValueError(f"fn: expected matrix products that can be counted, got {name}")
        times = equation.params["length"] if name == "scan" else 1
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                for product, count in _walk(getattr(inner, "jaxpr", inner)):
                    yield product, count * times


def _is_jaxpr(value) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _product(equation) -> Product:
    left, right = (variable.aval.shape for variable in equation.invars)
    (inner, other), (batch, other_batch) = equation.params["dimension_numbers"]
    free = [size for axis, size in enumerate(left) if axis not in (*inner, *batch)]
    columns = [size for axis, size in enumerate(right) if axis not in (*other, *other_batch)]
    return Product(
        math.prod(left[axis] for axis in batch),
        math.prod(free),
        math.prod(left[axis] for axis in inner),
        math.prod(columns),
    )


def _operands(counts: Counts) -> dict[Product, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    operands = {}
    for product in sorted(counts):
        batch = (product.batch,) if product.batch > 1 else ()
        operands[product] = (
            draw(*batch, product.m, product.k),
            draw(*batch, product.k, product.n),
        )
    return operands


def in_jax(counts: Counts) -> Callable[[], object]:
    """Computes all products in JAX, one after the other, and waits."""
    multiply = jax.jit(jnp.matmul)
    pairs = [(counts[product], *map(jnp.asarray, both)) for product, both in _operands(counts).items()]

    def run():
        for times, left, right in pairs:
            for _ in range(times):
                multiply(left, right).block_until_ready()

    return run


def in_torch(counts: Counts) -> Callable[[], object]:
    """Computes all products in PyTorch, one after the other."""
    import torch

    pairs = [
        (counts[product], *map(torch.from_numpy, both)) for product, both in _operands(counts).items()
    ]

    def run():
        with torch.inference_mode():
            for times, left, right in pairs:
                for _ in range(times):
                    torch.matmul(left, right)

    return run
