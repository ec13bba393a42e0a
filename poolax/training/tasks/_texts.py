"""Tasks on several texts an example, compared by the cosine of their projections."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from poolax import codec
from poolax._checks import check_count, check_number
from poolax._numerics import exponent_of, safe_norm, times_power
from poolax.training.tasks._base import (
    Baseline,
    Task,
    check_labels,
    check_some,
    choice,
    majority,
    score_of_first,
)


def cosine(left: Float[Array, "*batch k"], right: Float[Array, "*batch k"]) -> Float[Array, "*batch"]:
    """Cosine of the angle between vectors; 0 where one of them is zero."""
    left, right = _near_one(left), _near_one(right)
    lengths = safe_norm(left, axis=-1) * safe_norm(right, axis=-1)
    return jnp.sum(left * right, axis=-1) / jnp.where(lengths > 0, lengths, 1)


def _near_one(vectors):
    """The vectors times powers of two, exactly: products of lengths neither over- nor underflow."""
    return times_power(vectors, -exponent_of(vectors, axis=-1))


@codec.register("task", "sentence_similarity")
@dataclasses.dataclass(frozen=True)
class SentenceSimilarity(Task):
    """Similarity of two sentences: cosine of their projections, squared error, rank correlation.

    Records hold Pearson's correlation and the absolute error beside.

    Targets are scores rescaled to the interval from 0 to 1.

    Attributes:
        projection_dim: Width of the projections.

    Example:
        >>> task = SentenceSimilarity(projection_dim=2)
        >>> outputs = jnp.array([[[1.0, 0.0], [2.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
        >>> task.score(outputs, jnp.array([1.0, 0.0]))
        Array([1., 0.], dtype=float32)
    """

    projection_dim: int = 128

    name = "sentence_similarity"
    metric = "spearman"
    higher_is_better = True
    further_metrics = ("spearman", "pearson", "mae")
    num_parts = 2

    def __post_init__(self):
        """Refuse a width below one."""
        check_count("projection_dim", self.projection_dim)

    @property
    def num_outputs(self) -> int:
        """Width of a projection."""
        return self.projection_dim

    def loss(self, outputs, targets):
        """Squared difference of cosine and score."""
        return jnp.square(self.score(outputs, targets) - targets)

    def score(self, outputs, targets):
        """Cosine of the projections."""
        del targets
        return cosine(outputs[..., 0, :], outputs[..., 1, :])

    def answer(self, outputs, targets):
        """The cosine, which is the score as well."""
        return {"prediction": self.score(outputs, targets)}

    def metrics(self, scores, targets):
        """Spearman's rank correlation, 0 where one side is constant, and squared error."""
        from scipy import stats

        check_some("scores", scores)
        correlation = 0.0
        if np.ptp(scores) != 0 and np.ptp(targets) != 0:
            found: Any = stats.spearmanr(scores, targets)
            correlation = float(found.statistic)
        return {self.metric: correlation, "mse": float(np.mean(np.square(scores - targets)))}

    def baseline(self, train_targets, test_targets):
        """0, the rank correlation of a constant."""
        del train_targets, test_targets
        return 0.0

    def constants(self, train_targets, targets):
        """The mean of the training split."""
        check_some("train_targets", train_targets)
        mean = np.full(len(targets), np.mean(train_targets, dtype=np.float64))
        return {"training mean": Baseline(mean, {"prediction": mean})}

    def check_targets(self, targets):
        """Refuse anything but numbers from 0 to 1, one an example."""
        fits = isinstance(targets, np.ndarray) and targets.ndim == 1
        if not fits or not np.issubdtype(targets.dtype, np.floating):
            raise ValueError(f"targets: expected float scores of shape (N,), got {_describe(targets)}")
        if targets.size and not (targets.min() >= 0 and targets.max() <= 1):
            raise ValueError(
                f"targets: expected scores from 0 to 1, got {targets.min():g} to {targets.max():g}"
            )


@codec.register("task", "sentence_completion")
@dataclasses.dataclass(frozen=True)
class SentenceCompletion(Task):
    """Choice of the ending that fits a context: cosines of projections, cross-entropy over the endings.

    The parts of an example are its context and its endings. Records hold balanced accuracy, Matthews's
    correlation and calibration error beside macro F1 and accuracy.

    Attributes:
        num_endings: Endings to choose from.
        projection_dim: Width of the projections.
        temperature: Divides the cosines before the softmax.

    Example:
        >>> task = SentenceCompletion(num_endings=2, projection_dim=2)
        >>> outputs = jnp.array([[[1.0, 0.0], [0.0, 1.0], [3.0, 0.1]]])
        >>> task.score(outputs, jnp.array([1]))
        Array([1.], dtype=float32)
    """

    num_endings: int = 4
    projection_dim: int = 128
    temperature: float = 1.0

    name = "sentence_completion"
    metric = "macro_f1"
    higher_is_better = True
    further_metrics = ("balanced_accuracy", "mcc", "calibration_error")

    def __post_init__(self):
        """Refuse numbers that do not fit."""
        check_count("num_endings", self.num_endings, at_least=2)
        check_count("projection_dim", self.projection_dim)
        check_number("temperature", self.temperature, above=0.0)

    @property
    def num_parts(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The context and the endings."""
        return 1 + self.num_endings

    @property
    def num_outputs(self) -> int:
        """Width of a projection."""
        return self.projection_dim

    def _logits(self, outputs):
        return cosine(outputs[..., :1, :], outputs[..., 1:, :]) / self.temperature

    def loss(self, outputs, targets):
        """Cross-entropy of the softmax of the cosines."""
        return optax.softmax_cross_entropy_with_integer_labels(self._logits(outputs), targets)

    def score(self, outputs, targets):
        """Number of the chosen ending."""
        del targets
        return jnp.argmax(self._logits(outputs), axis=-1).astype(outputs.dtype)

    def answer(self, outputs, targets):
        """The chosen ending, and probabilities of the endings."""
        del targets
        return choice(self._logits(outputs))

    def example_scores(self, scores, targets):
        """1 where the right ending is chosen, else 0."""
        return (scores == targets).astype(scores.dtype)

    def metrics(self, scores, targets):
        """F1 averaged over the numbers of the endings, and accuracy."""
        from sklearn.metrics import f1_score

        labels = np.arange(self.num_endings)
        chosen = scores.astype(np.int64)
        options = {"average": "macro", "zero_division": 0}
        f1 = f1_score(targets, chosen, labels=labels, **options)
        return {self.metric: float(f1), "accuracy": float(np.mean(chosen == targets))}

    def baseline(self, train_targets, test_targets):
        """Macro F1 of always choosing the most frequent number of the training split."""
        return score_of_first(self, train_targets, test_targets)

    def constants(self, train_targets, targets):
        """The most frequent number of the training split."""
        answers = majority(train_targets, targets, self.num_endings)
        return {"majority class": Baseline(answers["prediction"].astype(np.float64), answers)}

    def check_targets(self, targets):
        """Refuse anything but numbers of endings, one an example."""
        check_labels(targets, self.num_endings)


def _describe(targets):
    if isinstance(targets, np.ndarray):
        return f"{targets.dtype} of shape {targets.shape}"
    return type(targets).__name__
