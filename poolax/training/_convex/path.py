"""What every solver gives: a head for each strength of the penalty."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Path(NamedTuple):
    """Heads for several strengths of the penalty, strongest first.

    A head is the least of ``mean loss + strength / 2 |kernel|^2``; the bias bears no penalty.

    Attributes:
        strengths: Descending, shape ``(strengths,)``.
        kernel: Shape ``(strengths, d, k)``.
        bias: Shape ``(strengths, k)``.
        objective: Loss and penalty there, shape ``(strengths,)``.
        gradient: Largest entry of the gradient there, in units of that at outputs of zero, shape
            ``(strengths,)``.
        num_steps: Steps taken; 0 for a closed form.
        converged: Whether the gradient is within the tolerance.
        rank: In how many directions inputs vary by more than rounding errors; the same for all.
    """

    strengths: Float[np.ndarray, " strengths"]
    kernel: Float[np.ndarray, "strengths d k"]
    bias: Float[np.ndarray, "strengths k"]
    objective: Float[np.ndarray, " strengths"]
    gradient: Float[np.ndarray, " strengths"]
    num_steps: Int[np.ndarray, " strengths"]
    converged: Bool[np.ndarray, " strengths"]
    rank: int


def rank_of(eigenvalues: Float[np.ndarray, " m"]) -> int:
    """How many eigenvalues of inputs' covariance are above what float32 rounding makes of 0."""
    largest = eigenvalues.max(initial=0.0)
    return int((eigenvalues > len(eigenvalues) * np.finfo(np.float32).eps * largest).sum())
