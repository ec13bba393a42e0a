"""Heads of several small training splits of one size, solved at once."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, Int, PyTree

from poolax.training._convex.choose import count_folds, solve_head, worth_of
from poolax.training._convex.descent import descend_draws
from poolax.training._convex.head import SolvedHead
from poolax.training._convex.rule import HeldOut, best_of, beyond_the_edge
from poolax.training._scaling import Scaling
from poolax.training.solver import Converged
from poolax.training.tasks import Task


def solve_draws(
    vectors: Float[np.ndarray, "N d"],
    targets: PyTree,
    task: Task,
    draws: Sequence[Int[np.ndarray, " train"]],
    validation: Int[np.ndarray, " validation"],
    solver: Converged,
) -> list[SolvedHead]:
    """The heads of least loss on each of several training splits, as :func:`solve_head` finds one.

    All are descended to in one program where the loss is convex and validation chooses; which
    strengths are tried beyond the edges follows from each draw alone.

    Args:
        vectors: Pooled vectors.
        targets: One row an example.
        task: Loss and metric.
        draws: Indices of each training split, as many for each.
        validation: Indices of the validation split, which is that of all.
        solver: Strengths, tolerance and limits.

    Returns:
        A head for each.
    """
    folds = count_folds(len(draws[0]), len(validation)) > 1
    own = [jax.tree.map(lambda array, part=part: np.asarray(array)[part], targets) for part in draws]
    if folds or solver.refit or not task.is_convex or task.least_squares(own[0]) is not None:
        return [
            solve_head(
                vectors, targets, task, {"train": part, "validation": validation}, solver, seed=number
            )
            for number, part in enumerate(draws)
        ]
    scalings = [Scaling.of(vectors[part]) for part in draws]
    inputs = np.stack(
        [scaling.apply(vectors[part]) for scaling, part in zip(scalings, draws, strict=True)]
    )
    together = jax.tree.map(lambda *leaves: np.stack(leaves), *own)
    held: list[dict[float, HeldOut]] = [{} for _ in draws]
    paths: list[dict[float, tuple]] = [{} for _ in draws]
    asked = [sorted(map(float, solver.strengths)) for _ in draws]
    while any(asked):
        # A draw takes over what it has asked for alone: what others ask for changes nothing of it.
        for strengths in dict.fromkeys(tuple(one) for one in asked if one):
            found = descend_draws(
                inputs,
                together,
                task.loss,
                task.num_outputs,
                np.array(strengths),
                tolerance=solver.tolerance,
                max_steps=solver.max_steps,
            )
            for number, path in enumerate(found):
                if tuple(asked[number]) == strengths:
                    fitted = (scalings[number], path)
                    held[number] |= worth_of([fitted], [validation], vectors, targets, task)
                    paths[number] |= dict.fromkeys(strengths, fitted)
        asked = [
            beyond_the_edge(own, task) if one else [] for own, one in zip(held, asked, strict=True)
        ]
    return [_head(own, kept, task) for own, kept in zip(held, paths, strict=True)]


def _head(held, paths, task) -> SolvedHead:
    """The head of the strength that is taken."""
    best, tried = best_of(held, task), sorted(held)
    scaling, path = paths[best]
    place = int(np.flatnonzero(path.strengths == best)[0])
    kernel, bias = scaling.fold(path.kernel[place], path.bias[place])
    return SolvedHead(
        kernel,
        bias,
        best,
        tuple(tried),
        tuple(held[strength].score for strength in tried),
        tuple(held[strength].loss for strength in tried),
        "validation",
        best in (tried[0], tried[-1]),
        (),
        refitted=False,
        gradient=float(path.gradient[place]),
        num_steps=int(path.num_steps[place]),
        converged=bool(path.converged[place]),
        rank=path.rank,
    )
