"""How the heads of each pooler are trained to the end, and what it costs: planned beforehand."""

import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from poolax.training._convex.choose import count_folds
from poolax.training._convex.cost import Cost, cost_of_descent, cost_of_squares
from poolax.training._states.pooled import is_fixed
from poolax.training.solver import Converged
from poolax.training.tasks import Task

_log = logging.getLogger(__name__)

SCHEDULE = "schedule"


class Method(NamedTuple):
    """How the heads of a pooler are trained to the end.

    Attributes:
        name: ``"closed form"``, ``"lbfgs"`` or ``"schedule"``.
        reason: Why.
        is_fixed: Whether the pooler has no parameters, so that its vectors are all its heads need.
        cost: Of solving the heads of one seed; ``None`` of poolers with parameters.
    """

    name: str
    reason: str
    is_fixed: bool
    cost: Cost | None = None

    def describe(self) -> dict[str, Any]:
        """What a record says of it."""
        said = {"method": self.name, "reason": self.reason}
        if self.cost is None:
            return said
        cost = {"flops": self.cost.flops, "bytes": self.cost.num_bytes, "seconds": self.cost.seconds}
        return {**said, "cost_of_solving": {k: float(f"{v:.3g}") for k, v in cost.items()}}


def methods_of(
    poolers: Mapping[str, nn.Module],
    task: Task,
    targets: PyTree,
    splits: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    solver: Converged | None,
) -> dict[str, Method]:
    """The method of each pooler, by what solving its heads would cost; said in the log.

    Args:
        poolers: Modules by label.
        task: What the heads predict.
        targets: Targets of all examples.
        splits: Indices of ``"train"`` and ``"validation"``.
        shapes: By label, shape of the token states that its heads see, ``(N, *parts, n, d)``.
        solver: How heads are trained to the end; ``None`` for Adam alone.

    Returns:
        By label; nothing without a solver.
    """
    if solver is None:
        return {}
    train, validation = (np.asarray(splits[name]) for name in ("train", "validation"))
    own = jax.tree.map(lambda array: np.asarray(array)[train], targets)
    closed = task.least_squares(own) is not None
    num_folds = count_folds(len(train), len(validation))
    # Folds hold nearly all examples of both splits.
    num_examples = len(train) + (len(validation) if num_folds > 1 or solver.refit else 0)
    found = {}
    for label, pooler in poolers.items():
        if not is_fixed(pooler, shapes[label]):
            found[label] = Method(SCHEDULE, "the pooler has parameters", is_fixed=False)
            continue
        *parts, width = _inputs_of(pooler, shapes[label], task)
        sizes = (num_examples * math.prod(parts), width, task.num_outputs)
        starts = 0 if task.is_convex else solver.num_starts - 1
        numbers = {"num_solves": num_folds * len(solver.strengths) + starts, "num_folds": num_folds}
        if closed:
            cost = cost_of_squares(*sizes, **numbers)
        else:
            cost = cost_of_descent(*sizes, **numbers, max_steps=solver.max_steps)
        found[label] = _method(cost, task, solver, closed=closed)
        _log.info(
            "%s: %s, %s; solving takes about %.2g FLOP, %.2g bytes, %.2g s on two cores",
            label,
            *found[label][:2],
            *cost,
            cost.seconds,
        )
    return found


def _method(cost: Cost, task: Task, solver: Converged, *, closed: bool) -> Method:
    over = [
        f"about {value:.2g} {unit}, more than {name}={limit:g}"
        for value, unit, name, limit in (
            (cost.flops, "FLOP", "max_flops", solver.max_flops),
            (cost.num_bytes, "bytes", "max_bytes", solver.max_bytes),
        )
        if value > limit
    ]
    if over:
        return Method(SCHEDULE, f"solving would take {' and '.join(over)}", is_fixed=True, cost=cost)
    if closed:
        return Method("closed form", "squared errors", is_fixed=True, cost=cost)
    reason = "a convex loss" if task.is_convex else "a loss that is not convex, from several starts"
    return Method("lbfgs", reason, is_fixed=True, cost=cost)


def _inputs_of(pooler: nn.Module, shape: tuple[int, ...], task: Task) -> tuple[int, ...]:
    """Shape ``(*parts, d)`` of what a linear layer reads of a pooler without parameters."""
    states = jax.ShapeDtypeStruct((1, *shape[1:]), jnp.float32)
    inputs: Any = jax.eval_shape(lambda z: task.inputs_of(pooler.apply({}, z)), states)
    return inputs.shape[1:]
