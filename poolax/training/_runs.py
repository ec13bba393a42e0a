"""What runs are made of: batches in their order, states, and sums over steps."""

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Int, PyTree

from poolax._order import epoch_order, epoch_step_keys, in_batches


@struct.dataclass
class Batches:
    """A run's batches, in order: which examples, and how much each counts (padding 0).

    Attributes:
        indices: Rows of the data that the loss reads, shape ``(steps, batch)``.
        examples: Which examples those are, shape ``(steps, batch)``; what random keys depend on.
        weights: Shape ``(steps, batch)``.
        keys: One random key (its data) for each step, shape ``(steps, 2)``.
    """

    indices: Array | np.ndarray
    examples: Array | np.ndarray
    weights: Array | np.ndarray
    keys: Array | np.ndarray


def epoch_batches(seed: int, epoch: int, num_examples: int, batch_size: int) -> Batches:
    """The shuffled batches of one epoch; the last one is padded to full size.

    The order depends on seed and epoch alone, so that a resumed run goes on with the batches that an
    uninterrupted one would have seen.
    """
    indices, weights = in_batches(epoch_order(seed, epoch, num_examples), batch_size)
    keys = epoch_step_keys(seed, epoch, len(indices))
    return Batches(indices=indices, examples=indices, weights=weights, keys=keys)


def stack(trees: list[PyTree]) -> PyTree:
    """Stack equal trees of arrays along a new first axis."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


@struct.dataclass
class TrainState:
    """Runs of one structure; every leaf has leading axes (group, run).

    Attributes:
        params: Parameters.
        opt_state: State of the optimizer.
        step: Steps taken.
        diverged_step: Step whose loss or gradient was not finite, after which a run stands still; -1
            while there is none.
    """

    params: PyTree
    opt_state: PyTree
    step: Int[Array, "*runs"]
    diverged_step: Int[Array, "*runs"]


@struct.dataclass
class Sums:
    """What a stretch of steps adds up to, so that several add up to an epoch; (group, run) each.

    Attributes:
        loss: Sum of the losses of all examples.
        examples: Number of examples.
        gradient_norm: Sum of the norms of all steps' gradients.
        steps: Number of steps.
    """

    loss: Array | np.ndarray
    examples: Array | np.ndarray
    gradient_norm: Array | np.ndarray
    steps: Array | np.ndarray

    def __add__(self, other: "Sums") -> "Sums":
        """Sums of both stretches."""
        return jax.tree.map(np.add, self, other)

    @property
    def mean_loss(self) -> np.ndarray:
        """Mean loss of an example."""
        return np.asarray(self.loss) / np.asarray(self.examples)

    @property
    def mean_gradient_norm(self) -> np.ndarray:
        """Mean norm of a step's gradient."""
        return np.asarray(self.gradient_norm) / np.asarray(self.steps)
