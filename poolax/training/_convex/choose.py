"""Strengths of the penalty, chosen by examples that were not trained on."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from poolax.records import FEWEST_VALIDATION
from poolax.training._convex.descent import descend_path
from poolax.training._convex.head import SolvedHead, Start
from poolax.training._convex.path import Path
from poolax.training._convex.ridge import ridge_path
from poolax.training._convex.rule import HeldOut, best_of, beyond_the_edge
from poolax.training._folds import NUM_FOLDS, even_folds
from poolax.training._scaling import Scaling
from poolax.training.solver import Converged
from poolax.training.tasks import Task


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

    Of strengths whose scores are within a standard error of the best one, the one of least loss is
    taken (:func:`best_of`). Where it lies at the edge of those that were tried, weaker or stronger ones
    are tried as well.

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
    if count_folds(len(train), len(validation)) > 1:
        folds = even_folds(np.concatenate([train, validation]), targets, seed)
    held: dict[float, HeldOut] = {}
    tried_paths = {}
    pending = sorted(map(float, solver.strengths))
    while pending:
        fitted = [fit(part, tuple(pending)) for part, _ in folds]
        held |= worth_of(fitted, [held_out for _, held_out in folds], vectors, targets, task)
        if len(folds) == 1:
            tried_paths |= dict.fromkeys(pending, fitted[0])
        pending = beyond_the_edge(held, task)
    best = best_of(held, task)
    whole = np.concatenate([train, validation]) if solver.refit else train
    if len(folds) > 1 or solver.refit:
        tried_paths = {best: fit(whole, (best,))}
    (scaling, path), starts = tried_paths[best], ()
    place = int(np.flatnonzero(path.strengths == best)[0])
    if not task.is_convex:
        others = [fit(whole, (best,), start=number) for number in range(1, solver.num_starts)]
        found = [(scaling, _only(path, place)), *others]
        held_out = None if solver.refit else validation
        starts = _starts(found, held_out, vectors, targets, task)
        lowest = next(number for number, start in enumerate(starts) if start.is_chosen)
        (scaling, path), place = found[lowest], 0
    kernel, bias = scaling.fold(path.kernel[place], path.bias[place])
    tried = sorted(held)
    return SolvedHead(
        kernel,
        bias,
        best,
        tuple(tried),
        tuple(held[strength].score for strength in tried),
        tuple(held[strength].loss for strength in tried),
        "validation" if len(folds) == 1 else "cross-validation",
        best in (tried[0], tried[-1]),
        starts,
        solver.refit,
        float(path.gradient[place]),
        int(path.num_steps[place]),
        bool(path.converged[place]),
        path.rank,
    )


def count_folds(num_train: int, num_validation: int) -> int:
    """Parts of the examples that are held out in turn: 1 where the validation split is enough."""
    if num_validation >= FEWEST_VALIDATION:
        return 1
    return min(NUM_FOLDS, num_train + num_validation)


def _starts(found, held_out, vectors, targets, task) -> tuple[Start, ...]:
    """What heads of one strength have reached; the lowest is chosen."""
    objectives = [float(path.objective[0]) for _, path in found]
    scores = [None] * len(found)
    if held_out is not None:
        scores = [
            next(iter(worth_of([one], [held_out], vectors, targets, task).values())).score
            for one in found
        ]
    lowest = int(np.argmin(np.nan_to_num(objectives, nan=np.inf)))
    return tuple(
        Start(objective, score, number == lowest)
        for number, (objective, score) in enumerate(zip(objectives, scores, strict=True))
    )


def _only(path: Path, place: int) -> Path:
    """One of several heads."""
    arrays = {name: array for name, array in path._asdict().items() if name != "rank"}
    return path._replace(**{name: array[place : place + 1] for name, array in arrays.items()})


def _fit(vectors, targets, task, solver, seed, examples, strengths, *, start=0) -> tuple[Scaling, Path]:
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
    origin = None
    if not task.is_convex:
        # A random projection keeps angles about as they are.
        shape = (inputs.shape[-1], task.num_outputs)
        rng = np.random.default_rng(seed if start == 0 else (seed, start))
        origin = rng.normal(size=shape) / np.sqrt(shape[0])
    path = descend_path(
        inputs,
        own,
        task.loss,
        task.num_outputs,
        np.array(strengths),
        start=origin,
        tolerance=solver.tolerance,
        max_steps=solver.max_steps,
    )
    return scaling, path


def worth_of(fitted, held_out, vectors, targets, task: Task) -> dict[float, HeldOut]:
    """What the head of each strength is worth, over the held-out examples of all folds."""
    chosen = np.concatenate(held_out)
    inputs = [scaling.apply(vectors[part]) for (scaling, _), part in zip(fitted, held_out, strict=True)]
    own = jax.tree.map(lambda array: np.asarray(array)[chosen], targets)
    found = {}
    for place, strength in enumerate(fitted[0][1].strengths):
        outputs = [
            rows @ path.kernel[place] + path.bias[place]
            for (_, path), rows in zip(fitted, inputs, strict=True)
        ]
        outputs = jnp.asarray(np.concatenate(outputs), jnp.float32)
        scores = np.asarray(task.score(outputs, own))
        value = task.metrics(scores, own)[task.metric]
        single = np.asarray(task.example_scores(scores, own), np.float64)
        loss = float(jnp.mean(task.loss(outputs, own)))
        is_mean = single.ndim == 1 and np.isclose(single.mean(), value, rtol=1e-4, atol=0)
        found[float(strength)] = HeldOut(value, loss, single if is_mean else None)
    return found
