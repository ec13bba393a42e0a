"""A linear head that was trained to the end, and how it was found."""

import dataclasses

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a descent of a loss that is not convex has led from one start.

    Attributes:
        objective: Loss and penalty.
        score: The task's metric on the validation split; ``None`` where the head was trained on it.
        is_chosen: Whether the head is this one's.
    """

    objective: float
    score: float | None
    is_chosen: bool


@dataclasses.dataclass(frozen=True)
class SolvedHead:
    """A linear head trained to the end, for raw vectors.

    Attributes:
        kernel: Shape ``(d, k)``.
        bias: Shape ``(k,)``.
        strength: Of the penalty, for inputs in units of their deviation.
        tried: All strengths that were tried, ascending.
        tried_scores: The task's metric of each on what they were chosen by.
        tried_losses: The task's mean loss of each there.
        chosen_by: ``"validation"``, or ``"cross-validation"`` where it has too few examples.
        at_edge: Whether the strength is the least or the greatest that may be tried.
        starts: From which heads of this strength were looked for, where the loss is not convex; else
            none. The head is the one of least objective.
        refitted: Whether it was trained on the validation split as well.
        gradient: Largest entry of the gradient, in units of that of outputs of zero.
        num_steps: Steps of L-BFGS; 0 for a closed form.
        converged: Whether the gradient is within the tolerance.
        rank: In how many directions the inputs vary that it was trained on.
    """

    kernel: Float[np.ndarray, "d k"]
    bias: Float[np.ndarray, " k"]
    strength: float
    tried: tuple[float, ...]
    tried_scores: tuple[float, ...]
    tried_losses: tuple[float, ...]
    chosen_by: str
    at_edge: bool
    starts: tuple["Start", ...]
    refitted: bool
    gradient: float
    num_steps: int
    converged: bool
    rank: int

    @property
    def score_tried(self) -> float:
        """The task's metric by which the strength was chosen."""
        return self.tried_scores[self.tried.index(self.strength)]
