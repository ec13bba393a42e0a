"""Tasks: what a head predicts, its loss and its score."""

import abc
import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from poolax._checks import check_count


class Task(abc.ABC):
    """A task on pooled vectors; losses and scores are per example, so that padding can be masked.

    Attributes:
        name: As records hold it.
        metric: Name of the score.
        higher_is_better: Whether a larger score is better.
    """

    name: str
    metric: str
    higher_is_better: bool

    @property
    @abc.abstractmethod
    def num_outputs(self) -> int:
        """Width of the linear head."""

    @abc.abstractmethod
    def loss(self, outputs: Float[Array, "*batch k"], targets: Array) -> Float[Array, "*batch"]:
        """Loss of each example."""

    @abc.abstractmethod
    def score(self, outputs: Float[Array, "*batch k"], targets: Array) -> Float[Array, "*batch"]:
        """Score of each example; the metric is their mean."""

    @abc.abstractmethod
    def baseline(self, train_targets: np.ndarray, test_targets: np.ndarray) -> float:
        """Score of the best prediction that does not look at the input."""

    @abc.abstractmethod
    def check_targets(self, targets: np.ndarray) -> None:
        """Refuse targets that do not fit the task with a ``ValueError``."""


@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """Classification: softmax cross-entropy and accuracy.

    Attributes:
        num_classes: Number of classes.

    Example:
        >>> task = Classification(num_classes=2)
        >>> task.score(jnp.array([[2.0, 1.0], [0.0, 3.0]]), jnp.array([0, 0]))
        Array([1., 0.], dtype=float32)
    """

    num_classes: int

    name = "classification"
    metric = "accuracy"
    higher_is_better = True

    def __post_init__(self):
        """Refuse a number of classes below two."""
        check_count("num_classes", self.num_classes, at_least=2)

    @property
    def num_outputs(self) -> int:
        """One logit for each class."""
        return self.num_classes

    def loss(self, outputs, targets):
        """Cross-entropy of the softmax of ``outputs``."""
        return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)

    def score(self, outputs, targets):
        """1 where the largest output is the target, else 0."""
        return (jnp.argmax(outputs, axis=-1) == targets).astype(outputs.dtype)

    def baseline(self, train_targets, test_targets):
        """Accuracy of predicting the most frequent class of the training split."""
        majority = np.bincount(train_targets, minlength=self.num_classes).argmax()
        return float(np.mean(test_targets == majority))

    def check_targets(self, targets):
        """Refuse anything but whole numbers from 0 to ``num_classes - 1``, one an example."""
        if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
            raise ValueError(
                f"targets: expected whole numbers of shape (N,), got {targets.dtype} of shape "
                f"{targets.shape}"
            )
        if targets.size and (targets.min() < 0 or targets.max() >= self.num_classes):
            raise ValueError(
                f"targets: expected labels from 0 to {self.num_classes - 1}, got {targets.min()} to "
                f"{targets.max()}"
            )
