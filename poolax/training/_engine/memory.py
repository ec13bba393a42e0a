"""How many heads are trained at once: what they take, counted before they are made."""

import dataclasses
import math
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

# Parameters, two moments of Adam, the gradient, and the state that the next one is chosen from.
_COPIES = 6


@dataclasses.dataclass(frozen=True)
class HeadCost:
    """Bytes that one head takes while it is trained.

    Attributes:
        parameters: Parameters, gradient, moments and their successors.
        activations: What a step keeps for its backward pass.
    """

    parameters: int
    activations: int

    def __add__(self, other: "HeadCost") -> "HeadCost":
        """Cost of two heads."""
        return HeadCost(self.parameters + other.parameters, self.activations + other.activations)

    @property
    def total(self) -> int:
        """Both."""
        return self.parameters + self.activations


def head_cost(loss_fn: Callable[[PyTree, PyTree], Array], params: PyTree, batch: PyTree) -> HeadCost:
    """What one head takes, from shapes alone: nothing is computed.

    Args:
        loss_fn: ``(params, batch) -> (batch,)``, the loss of each example.
        params: Parameters of one head, or their ``jax.ShapeDtypeStruct``.
        batch: What a step reads, likewise.

    Returns:
        Its cost.

    Example:
        >>> shape = jax.ShapeDtypeStruct((4, 2), jnp.float32)
        >>> cost = head_cost(lambda w, x: jnp.sum((x @ w.T) ** 2, -1), shape, shape)
        >>> cost.parameters  # six copies of eight numbers
        192
    """

    def residuals(params, batch):
        return jax.vjp(lambda params: jnp.sum(loss_fn(params, batch)), params)[1]

    kept = jax.eval_shape(residuals, params, batch)
    return HeadCost(_COPIES * _bytes(params), _bytes(kept))


def split_runs(runs: tuple, cost: HeadCost, groups: int, budget: int) -> list[tuple]:
    """Runs in as few parts as fit a budget, as equal as can be.

    Args:
        runs: What is split.
        cost: Of one head.
        groups: Heads of each run.
        budget: Bytes; a part of one run may exceed it.

    Returns:
        The parts.

    Example:
        >>> split_runs((0, 1, 2, 3, 4), HeadCost(10, 0), groups=1, budget=35)
        [(0, 1, 2), (3, 4)]
    """
    at_once = max(1, budget // (cost.total * groups))
    num_parts = math.ceil(len(runs) / at_once)
    size = math.ceil(len(runs) / num_parts)
    return [runs[start : start + size] for start in range(0, len(runs), size)]


def default_budget() -> int:
    """Half of what is free: of the first device's memory, or of the host's where that is not known."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return (statistics["bytes_limit"] - statistics["bytes_in_use"]) // 2
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
