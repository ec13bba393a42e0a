"""What it costs to find heads of least loss, before any of them is looked for."""

from typing import NamedTuple

# L-BFGS takes 15 to 110 steps for a strength of a classification of 77 classes.
_STEPS = 100
# Outputs, the loss's derivative by them and the gradient, with a tenth of all line searches repeated.
_PASSES = 2.2
# Pairs of differences that L-BFGS remembers, and the heads it works on.
_HEADS_KEPT = 2 * 10 + 6
# Of two cores; a GPU is a hundred times faster.
_FLOPS_PER_SECOND = 1e11
_SINGLE, _DOUBLE = 4, 8


class Cost(NamedTuple):
    """What solving the heads of one pooler and seed takes, for all strengths of the penalty.

    Attributes:
        flops: Floating-point operations.
        num_bytes: Most bytes at once.
    """

    flops: float
    num_bytes: float

    @property
    def seconds(self) -> float:
        """On two cores, about: a number to plan by, and the same on every machine."""
        return self.flops / _FLOPS_PER_SECOND


def cost_of_descent(
    num_rows: int, dim: int, num_outputs: int, *, num_solves: int, num_folds: int, max_steps: int
) -> Cost:
    """Of L-BFGS on all examples at once.

    Args:
        num_rows: Vectors that heads are trained on.
        dim: Their width.
        num_outputs: Width of a head.
        num_solves: Strengths, of all folds and starts.
        num_folds: Sets of examples that heads are trained on.
        max_steps: Most steps for a strength.

    Returns:
        About what it costs: how many steps it takes is known afterwards.

    Example:
        >>> cost = cost_of_descent(
        ...     20_000, 384, 30_000, num_solves=5, num_folds=1, max_steps=1000
        ... )
        >>> round(cost.seconds / 3600, 1), round(cost.num_bytes / 1e9, 1)
        (1.4, 8.6)
    """
    steps = min(max_steps, _STEPS)
    spectrum = 2 * num_rows * dim**2 * 2 + 10 * dim**3
    flops = num_folds * spectrum + num_solves * steps * _PASSES * 2 * num_rows * dim * num_outputs
    vectors = num_rows * dim * (_SINGLE + 2 * _DOUBLE)
    outputs = 3 * num_rows * num_outputs * _SINGLE
    return Cost(float(flops), float(vectors + outputs + _HEADS_KEPT * dim * num_outputs * _SINGLE))


def cost_of_squares(
    num_rows: int, dim: int, num_outputs: int, *, num_solves: int, num_folds: int
) -> Cost:
    """Of the closed form; arguments as for :func:`cost_of_descent`."""
    smaller = min(num_rows, dim)
    spectrum = 2 * num_rows * dim * smaller + 10 * smaller**3
    solve = 2 * dim * smaller * num_outputs + 4 * num_rows * dim * num_outputs
    kept = 3 * num_rows * dim + 4 * num_rows * num_outputs
    heads = (num_solves // num_folds) * dim * num_outputs
    return Cost(float(num_folds * spectrum + num_solves * solve), float(_DOUBLE * (kept + heads)))
