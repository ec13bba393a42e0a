"""Strengths of the penalty, chosen by examples that were not trained on."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from poolax.training._convex.descent import descend_path
from poolax.training._convex.path import Path
from poolax.training._convex.ridge import ridge_path
from poolax.training._scaling import Scaling
from poolax.training.solver import Converged
from poolax.training.tasks import Task

# Fewer validation examples say too little to choose by: 1 of 50 is two points of accuracy.
FEWEST_VALIDATION = 50
_FOLDS = 5
_FACTOR = 10.0
_LOWEST, _HIGHEST = 1e-9, 1e4


@dataclasses.dataclass(frozen=True)
class SolvedHead:
    """A linear head trained to the end, for raw vectors.

    Attributes:
        kernel: Shape ``(d, k)``.
        bias: Shape ``(k,)``.
        strength: Of the penalty, for inputs in units of their deviation.
        tried: All strengths that were tried, ascending.
        tried_scores: The task's metric of each on what they were chosen by.
        chosen_by: ``"validation"``, or ``"cross-validation"`` where it has too few examples.
        at_edge: Whether the strength is the least or the greatest that may be tried.
        gradient: Largest entry of the gradient, in units of that of outputs of zero.
        num_steps: Steps of L-BFGS; 0 for a closed form.
        converged: Whether the gradient is within the tolerance.
    """

    kernel: Float[np.ndarray, "d k"]
    bias: Float[np.ndarray, " k"]
    strength: float
    tried: tuple[float, ...]
    tried_scores: tuple[float, ...]
    chosen_by: str
    at_edge: bool
    gradient: float
    num_steps: int
    converged: bool


def solve_head(
    vectors: Float[np.ndarray, "N *parts d"],
    targets: PyTree,
    task: Task,
    splits: Mapping[str, Int[np.ndarray, "_"]],
    solver: Converged,
    *,
    seed: int = 0,
) -> SolvedHead:
    """The linear head of least loss on the training split, of the strength that validates best.

    Of strengths that score alike the strongest is taken. Where the best one lies at the edge of those
    that were tried, weaker or stronger ones are tried as well.

    Args:
        vectors: Pooled vectors.
        targets: One row an example.
        task: Loss and metric.
        splits: Indices of ``"train"`` and ``"validation"``.
        solver: Strengths, tolerance and limits.
        seed: Of the start, for losses that are not convex; of folds of cross-validation.

    Returns:
        The head.
    """
    train, validation = (np.asarray(splits[name]) for name in ("train", "validation"))
    fit = functools.partial(_fit, vectors, targets, task, solver, seed)
    folds = [(train, validation)]
    if len(validation) < FEWEST_VALIDATION:
        folds = _folds(np.concatenate([train, validation]), targets, seed)
    scores, tried_paths = {}, {}
    pending = sorted(map(float, solver.strengths))
    while pending:
        fitted = [fit(part, tuple(pending)) for part, _ in folds]
        scores |= _scores(fitted, [held_out for _, held_out in folds], vectors, targets, task)
        if len(folds) == 1:
            tried_paths |= dict.fromkeys(pending, fitted[0])
        pending = _beyond_the_edge(scores, task)
    best = _best(scores, task)
    whole = np.concatenate([train, validation]) if solver.refit else train
    if len(folds) > 1 or solver.refit:
        tried_paths = {best: fit(whole, (best,))}
    scaling, path = tried_paths[best]
    place = int(np.flatnonzero(path.strengths == best)[0])
    kernel, bias = scaling.fold(path.kernel[place], path.bias[place])
    tried = sorted(scores)
    return SolvedHead(
        kernel,
        bias,
        best,
        tuple(tried),
        tuple(scores[strength] for strength in tried),
        "validation" if len(folds) == 1 else "cross-validation",
        best in (tried[0], tried[-1]),
        float(path.gradient[place]),
        int(path.num_steps[place]),
        bool(path.converged[place]),
    )


def _fit(vectors, targets, task, solver, seed, examples, strengths) -> tuple[Scaling, Path]:
    """Heads for raw vectors' units, trained on some examples."""
    own = jax.tree.map(lambda array: np.asarray(array)[examples], targets)
    scaling = Scaling.of(vectors[examples])
    inputs = scaling.apply(vectors[examples])
    squares = task.least_squares(own)
    if squares is not None:
        path = ridge_path(
            inputs,
            squares.values,
            np.array(strengths),
            weights=squares.weights,
            tolerance=solver.tolerance,
        )
        return scaling, path
    start = None
    if not task.is_convex:
        # A random projection keeps angles about as they are.
        shape = (inputs.shape[-1], task.num_outputs)
        start = np.random.default_rng(seed).normal(size=shape) / np.sqrt(shape[0])
    path = descend_path(
        inputs,
        own,
        task.loss,
        task.num_outputs,
        np.array(strengths),
        start=start,
        tolerance=solver.tolerance,
        max_steps=solver.max_steps,
    )
    return scaling, path


def _scores(fitted, held_out, vectors, targets, task: Task) -> dict[float, float]:
    """The metric of each strength, over the held-out examples of all folds."""
    chosen = np.concatenate(held_out)
    inputs = [scaling.apply(vectors[part]) for (scaling, _), part in zip(fitted, held_out, strict=True)]
    own = jax.tree.map(lambda array: np.asarray(array)[chosen], targets)
    found = {}
    for place, strength in enumerate(fitted[0][1].strengths):
        outputs = [
            np.einsum("...d,dk->...k", rows, path.kernel[place]) + path.bias[place]
            for (_, path), rows in zip(fitted, inputs, strict=True)
        ]
        scores = task.score(jnp.asarray(np.concatenate(outputs), jnp.float32), own)
        found[float(strength)] = task.metrics(np.asarray(scores), own)[task.metric]
    return found


def _best(scores: Mapping[float, float], task: Task) -> float:
    sign = 1 if task.higher_is_better else -1
    return max(sorted(scores, reverse=True), key=lambda strength: sign * scores[strength])


def _beyond_the_edge(scores: Mapping[float, float], task: Task) -> list[float]:
    """Strengths to try beside those that were, where the best of them is the last on its side."""
    best = _best(scores, task)
    beyond = []
    if best == min(scores):
        beyond += [best / _FACTOR, best / _FACTOR**2]
    if best == max(scores):
        beyond += [best * _FACTOR, best * _FACTOR**2]
    return sorted(s for s in beyond if _LOWEST <= s <= _HIGHEST)


def _folds(examples, targets, seed) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and held-out examples of each fold; classes are spread evenly where there are any."""
    order = np.random.default_rng(seed).permutation(examples)
    labels = targets if isinstance(targets, np.ndarray) else None
    if labels is not None and labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
        order = order[np.argsort(labels[order], kind="stable")]
    number = np.arange(len(order)) % min(_FOLDS, len(order))
    return [(order[number != fold], order[number == fold]) for fold in range(number.max() + 1)]
