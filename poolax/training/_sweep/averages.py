"""Heads that start from the average: of poolers that are it for some of their parameters."""

import logging
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from poolax.pooling import (
    AveragePool,
    EfficientProbingPool,
    GatedAttentionPool,
    HybridPool,
    LatentAttentionPool,
    PositionAttentionPool,
    QueryAttentionPool,
    WeightedAveragePool,
)
from poolax.training._convex.choose import solve_head
from poolax.training._engine.heads import head_module
from poolax.training._states.pooled import pool
from poolax.training._states.sources import TokenSource
from poolax.training._states.views import View
from poolax.training._sweep.methods import SCHEDULE, methods_of
from poolax.training.solver import Converged
from poolax.training.tasks import Task

_log = logging.getLogger(__name__)

# No logits are far enough that a mixture is one of its poolers; these leave the others a hundredth.
_LOGIT = 5.0


def at_average(pooler: nn.Module, shapes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Parameters with which a pooler is the average, those that do not matter left out.

    Args:
        pooler: The pooler.
        shapes: Its parameters, or their shapes.

    Returns:
        What replaces the parameters of these names; ``None`` for a pooler that is never the average.

    Example:
        >>> pooler, z = QueryAttentionPool(num_heads=2), jnp.array([[0.0, 1.0], [4.0, 1.0]])
        >>> params = pooler.init(jax.random.key(0), z)["params"]
        >>> pooler.apply({"params": {**params, **at_average(pooler, params)}}, z).tolist()
        [2.0, 1.0]
    """

    def zeros(name):
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes[name])

    def identity(name):
        # Slices that stand side by side are what they are slices of.
        return np.eye(shapes[name].shape[0], dtype=np.float32).reshape(shapes[name].shape)

    match pooler:
        case WeightedAveragePool(normalize="softmax"):
            return {"weights": zeros("weights")}
        case HybridPool():
            is_average = np.array([isinstance(own, AveragePool) for own in pooler.poolers])
            return {"mixture": _LOGIT * is_average} if is_average.any() else None
        case QueryAttentionPool(full=False) | EfficientProbingPool():
            return {"query": zeros("query"), "value": identity("value")}
        case PositionAttentionPool():
            return {name: zeros(name) for name in ("query", "slope")} | {"value": identity("value")}
        case GatedAttentionPool():
            return {"score": zeros("score")}
        case LatentAttentionPool():  # what is added to each token, and to their mean
            return {name: zeros(name) for name in ("out", "mlp_out")}
    return None


def starts_of(
    poolers: Mapping[str, nn.Module],
    views: Mapping[str, View],
    source: TokenSource,
    targets: PyTree,
    task: Task,
    splits: Mapping[str, np.ndarray],
    solver: Converged,
    mapping: str,
) -> dict[str, dict[str, Any]]:
    """Parameters from which heads start that can be a linear head on the average.

    The linear layer is that of least loss, of the strength that validates best, as for the average
    itself; where solving it would take more than ``solver`` allows, it starts as drawn.

    Args:
        poolers: Modules by label.
        views: What each sees of the source.
        source: Token states as the heads read them.
        targets: Targets of all examples.
        task: What the heads predict.
        splits: Indices of ``"train"`` and ``"validation"``.
        solver: Strengths and limits.
        mapping: How programs are mapped over devices.

    Returns:
        By label, of poolers that can be the average, what replaces drawn parameters.
    """
    found, layers = {}, {}
    for label, pooler in poolers.items():
        shape = views[label].shape(source.shape)
        states = jax.ShapeDtypeStruct((1, *shape[1:]), jnp.float32)
        module = head_module(pooler, task.num_outputs, pairs=task.joins_parts)
        shapes: Any = jax.eval_shape(module.init, jax.random.key(0), states)
        own = at_average(pooler, shapes["params"].get("pooler", {}))
        if own is None:
            continue
        if views[label] not in layers:
            layers[views[label]] = _layer(views[label], source, targets, task, splits, solver, mapping)
        found[label] = {"pooler": own, **layers[views[label]]}
    return found


def _layer(view, source, targets, task, splits, solver, mapping) -> dict[str, Any]:
    """The linear layer of least loss on the average."""
    average = {"average": AveragePool()}
    shapes = {"average": view.shape(source.shape)}
    method = methods_of(average, task, targets, splits, shapes, solver)["average"]
    if method.name == SCHEDULE:
        return {}
    vectors = task.inputs_of(pool(average, {"average": view}, source, mapping)["average"])
    head = solve_head(np.asarray(vectors), targets, task, splits, solver)
    _log.info("the linear layer of the average was solved, for heads that start from it")
    return {"output": {"kernel": head.kernel, "bias": head.bias}}
