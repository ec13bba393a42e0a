"""What every task is."""

import abc
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from poolax.training.tasks._joined import joined_pair

# Probabilities of more classes are made for no example.
_MOST_CLASSES = 256


class LeastSquares(NamedTuple):
    """A loss that is a squared error: ``weight * mean((outputs - values)^2)`` of each example.

    Attributes:
        values: What the outputs should be, shape ``(N, k)``.
        weights: How much each example counts, shape ``(N,)``; ``None`` for 1.
    """

    values: Float[np.ndarray, "N k"]
    weights: Float[np.ndarray, " N"] | None = None


class Baseline(NamedTuple):
    """What comes of a rule that learns nothing, such as the most frequent class or the last value.

    Attributes:
        scores: As :meth:`Task.score` gives them of all examples.
        answers: As :meth:`Task.answer` gives them.
    """

    scores: Float[np.ndarray, "N ..."]
    answers: Mapping[str, np.ndarray]


class Task(abc.ABC):
    """A task on pooled vectors: what heads predict, their loss and their scores.

    Losses and scores are per example, so that padding can be masked; what cannot be averaged over
    examples, such as a rank correlation, is made from all scores by :meth:`metrics`.

    Attributes:
        name: As records hold it.
        metric: Name of the metric that is reported first and that learning rates are chosen by.
        higher_is_better: Whether a larger value of it is better.
        further_metrics: Names of :data:`poolax.statistics.METRICS` that records hold beside what
            :meth:`metrics` gives.
        num_parts: Sequences of an example. With one, outputs have shape ``(*batch, k)``, otherwise
            ``(*batch, parts, k)``: every part is pooled and projected alike.
        joins_parts: Whether the linear layer reads the vectors of both of two parts together, as
            :func:`joined_pair` gives them: outputs then have shape ``(*batch, k)``.
        is_convex: Whether the loss is a convex function of the outputs, so that a linear head has one
            least loss, whatever it starts from.
    """

    name: str
    metric: str
    higher_is_better: bool
    further_metrics: tuple[str, ...] = ()
    num_parts: int = 1
    joins_parts: bool = False
    is_convex: bool = False

    @property
    @abc.abstractmethod
    def num_outputs(self) -> int:
        """Width ``k`` of the linear head."""

    def inputs_of(self, vectors: Any) -> Any:
        """What the linear layer reads of pooled vectors ``(*batch, *parts, d)``, of NumPy or JAX."""
        return joined_pair(vectors) if self.joins_parts else vectors

    @abc.abstractmethod
    def loss(self, outputs: Float[Array, "*batch k"], targets: PyTree) -> Float[Array, "*batch"]:
        """Loss of each example."""

    def least_squares(self, targets: PyTree) -> LeastSquares | None:
        """The loss on these targets as a squared error, if it is one; here ``None``."""
        del targets
        return None

    @abc.abstractmethod
    def score(self, outputs: Float[Array, "*batch k"], targets: PyTree) -> Float[Array, "..."]:
        """What the metrics are made of for each example, shape ``(*batch, ...)``."""

    def metrics(self, scores: Float[np.ndarray, "N ..."], targets: PyTree) -> dict[str, float]:
        """The metrics over examples, from their scores; here the mean.

        Args:
            scores: Scores of all examples.
            targets: Targets of all examples.

        Returns:
            Names and values, :attr:`metric` among them.

        Raises:
            ValueError: where nothing is scored.
        """
        del targets
        check_some("scores", scores)
        return {self.metric: float(np.mean(scores))}

    def example_scores(
        self, scores: Float[np.ndarray, "N ..."], targets: PyTree
    ) -> Float[np.ndarray, " N"]:
        """One number for each example, such as whether it is right, which records keep.

        Args:
            scores: Scores of all examples.
            targets: Targets of all examples.

        Returns:
            The numbers; here the scores, which are one number each.
        """
        del targets
        return scores

    def answer(
        self, outputs: Float[Array, "*batch k"], targets: PyTree
    ) -> Mapping[str, Float[Array, "..."]]:
        """What records keep of each example beside its score; here nothing.

        Args:
            outputs: Outputs of a head.
            targets: Targets of the examples.

        Returns:
            Arrays of shape ``(*batch, ...)`` by the names that :class:`poolax.records.Predictions` has.
        """
        del outputs, targets
        return {}

    def single_targets(self, targets: PyTree) -> np.ndarray | None:
        """One target for each example, which records keep; here those that are one number an example.

        Args:
            targets: Targets of all examples.

        Returns:
            The targets, shape ``(N,)``, or ``None``.
        """
        return targets if isinstance(targets, np.ndarray) and targets.ndim == 1 else None

    def constants(self, train_targets: PyTree, targets: PyTree) -> Mapping[str, Baseline]:
        """Predictions that do not look at the input, by their names; here none.

        Args:
            train_targets: Targets that they are made of.
            targets: Targets of the examples that they are compared with.

        Returns:
            The one that fits training targets best, as :meth:`baseline` takes it, at first.
        """
        del train_targets, targets
        return {}

    def rules(self, read: Callable[[], np.ndarray], targets: PyTree) -> Mapping[str, Baseline]:
        """Predictions that a rule makes of raw inputs, by their names; here none.

        Args:
            read: Gives the raw inputs of the examples.
            targets: Their targets.

        Returns:
            Scores and answers of each rule.
        """
        del read, targets
        return {}

    @abc.abstractmethod
    def baseline(self, train_targets: PyTree, test_targets: PyTree) -> float:
        """:attr:`metric` on test targets of the constant prediction that fits training targets best.

        A constant does not look at the input. Another one may fit the test targets better: with these
        in both places, the result is that of the best constant there is.

        Raises:
            ValueError: where nothing is scored.
        """

    @abc.abstractmethod
    def check_targets(self, targets: Any) -> None:
        """Refuse targets that do not fit the task with a ``ValueError``."""


def check_some(name: str, scored: Any) -> None:
    """Refuse an average over nothing: an array without entries, or counts that add up to zero."""
    if not np.size(scored):
        raise ValueError(f"{name}: expected at least one that is scored, got none")


def check_whole(targets: Any, shape: str, ndim: int) -> None:
    """Refuse targets that are not whole numbers with so many axes."""
    is_array = isinstance(targets, np.ndarray)
    if not is_array or targets.ndim != ndim or not np.issubdtype(targets.dtype, np.integer):
        got = f"{targets.dtype} of shape {targets.shape}" if is_array else type(targets).__name__
        raise ValueError(f"targets: expected whole numbers of shape {shape}, got {got}")


def check_labels(targets: Any, num_classes: int) -> None:
    """Refuse anything but whole numbers from 0 to ``num_classes - 1``, one an example."""
    check_whole(targets, "(N,)", 1)
    if targets.size and (targets.min() < 0 or targets.max() >= num_classes):
        raise ValueError(
            f"targets: expected labels from 0 to {num_classes - 1}, got {targets.min()} to "
            f"{targets.max()}"
        )


def choice(logits: Float[Array, "*batch k"]) -> dict[str, Array]:
    """What is kept of a choice among classes: the class, how sure it is, logarithms of probabilities.

    In half precision: logarithms keep the order of probabilities near 0 and near 1.
    """
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    found = {
        "prediction": jnp.argmax(logits, axis=-1).astype(jnp.int32),
        "confidence": jnp.exp(jnp.max(log_probability, axis=-1)).astype(jnp.float16),
    }
    if logits.shape[-1] <= _MOST_CLASSES:
        found["log_probability"] = log_probability.astype(jnp.float16)
    return found


def score_of_first(task: Task, train_targets: PyTree, targets: PyTree) -> float:
    """The first metric of the first of a task's :meth:`Task.constants`."""
    constant = next(iter(task.constants(train_targets, targets).values()))
    return task.metrics(constant.scores, targets)[task.metric]


def majority(train_targets: np.ndarray, targets: np.ndarray, num_classes: int) -> dict[str, Any]:
    """What :func:`choice` is of the frequencies of classes in the training split."""
    check_some("train_targets", train_targets)
    check_some("test_targets", targets)
    share = np.bincount(train_targets, minlength=num_classes) / len(train_targets)
    # A class that is never met is less probable than any that is met once.
    logs = np.log(np.maximum(share, 0.5 / len(train_targets))).astype(np.float16)
    num = len(targets)
    return {
        "prediction": np.full(num, share.argmax()),
        "confidence": np.full(num, share.max(), np.float16),
        "log_probability": np.broadcast_to(logs, (num, num_classes)),
    }
