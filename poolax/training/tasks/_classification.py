"""Tasks with one label an example: classes, and the next token of a text."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax

from poolax import codec
from poolax._checks import check_count
from poolax.training.tasks._base import (
    Baseline,
    Task,
    check_labels,
    check_some,
    choice,
    majority,
    score_of_first,
)


@codec.register("task", "classification")
@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """Classification: softmax cross-entropy and accuracy.

    Records hold balanced accuracy, macro F1, Matthews's correlation, the area under the receiver
    operating characteristic and calibration error beside; of two classes the F1 of the second.

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
    is_convex = True

    def __post_init__(self):
        """Refuse a number of classes below two."""
        check_count("num_classes", self.num_classes, at_least=2)

    @property
    def further_metrics(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Metrics that weigh classes alike, and those of probabilities."""
        of_one = ("f1_of_1",) if self.num_classes == 2 else ()
        return ("balanced_accuracy", "macro_f1", *of_one, "mcc", "auroc", "calibration_error")

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

    def answer(self, outputs, targets):
        """The class of the largest output, and probabilities of classes."""
        del targets
        return choice(outputs)

    def baseline(self, train_targets, test_targets):
        """Accuracy of predicting the most frequent class of the training split."""
        return score_of_first(self, train_targets, test_targets)

    def constants(self, train_targets, targets):
        """The most frequent class of the training split."""
        answers = majority(train_targets, targets, self.num_classes)
        right = (answers["prediction"] == targets).astype(np.float64)
        return {"majority class": Baseline(right, answers)}

    def check_targets(self, targets):
        """Refuse anything but whole numbers from 0 to ``num_classes - 1``, one an example."""
        check_labels(targets, self.num_classes)


@codec.register("task", "pair_classification")
@dataclasses.dataclass(frozen=True)
class PairClassification(Classification):
    """Classification of pairs of texts, such as paraphrases or what follows from a sentence.

    Both texts are pooled alike, to ``u`` and ``v``; a linear layer reads ``(u, v, |u - v|, u v)``, see
    :func:`joined_pair`. Loss, metrics and records are those of :class:`Classification`.

    Attributes:
        num_classes: Number of classes.

    Example:
        >>> task = PairClassification(num_classes=3)
        >>> task.num_parts, task.inputs_of(np.ones((5, 2, 8))).shape
        (2, (5, 32))
    """

    name = "pair_classification"
    num_parts = 2
    joins_parts = True


@codec.register("task", "next_token")
@dataclasses.dataclass(frozen=True)
class NextToken(Task):
    """Next-token prediction by a fresh language-model head on the pooled prefix of a text.

    Softmax cross-entropy over the vocabulary; a prefix counts as right if its next token is among the
    ``top_k`` largest outputs, of which ties are counted against it.

    Attributes:
        vocab_size: Number of token ids, or of those that are predicted.
        top_k: How many guesses count.

    Example:
        >>> task = NextToken(vocab_size=4, top_k=2)
        >>> scores = task.score(jnp.array([[0.1, 0.4, 0.3, 0.2]] * 2), jnp.array([2, 3]))
        >>> task.metrics(np.asarray(scores), np.array([2, 3]))
        {'top_2_accuracy': 0.5, 'accuracy': 0.0}
    """

    vocab_size: int
    top_k: int = 10

    name = "next_token"
    higher_is_better = True
    is_convex = True

    def __post_init__(self):
        """Refuse numbers that do not fit."""
        check_count("vocab_size", self.vocab_size, at_least=2)
        check_count("top_k", self.top_k)

    @property
    def metric(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Top-k accuracy, with the number."""
        return f"top_{self.top_k}_accuracy"

    @property
    def num_outputs(self) -> int:
        """One logit for each token id."""
        return self.vocab_size

    def loss(self, outputs, targets):
        """Cross-entropy of the softmax of ``outputs``."""
        return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)

    def score(self, outputs, targets):
        """Whether the target is among the ``top_k`` largest outputs, and whether it is the largest."""
        of_target = jnp.take_along_axis(outputs, targets[..., None], axis=-1)
        # Outputs that are not numbers are not below that of the target either.
        rank = jnp.sum(~(outputs < of_target), axis=-1, keepdims=True)
        return (rank <= jnp.array([self.top_k, 1])).astype(outputs.dtype)

    def answer(self, outputs, targets):
        """The token of the largest output."""
        del targets
        return {"prediction": jnp.argmax(outputs, axis=-1).astype(jnp.int32)}

    def example_scores(self, scores, targets):
        """Whether the target is among the ``top_k`` largest outputs."""
        del targets
        return scores[:, 0]

    def metrics(self, scores, targets):
        """Top-k accuracy and accuracy."""
        del targets
        check_some("scores", scores)
        top_k, first = np.mean(scores, axis=0)
        return {self.metric: float(top_k), "accuracy": float(first)}

    def baseline(self, train_targets, test_targets):
        """Top-k accuracy of always guessing the most frequent next tokens of the training split."""
        return score_of_first(self, train_targets, test_targets)

    def constants(self, train_targets, targets):
        """The most frequent tokens of the training split."""
        check_some("train_targets", train_targets)
        check_some("test_targets", targets)
        counts = np.bincount(train_targets, minlength=self.vocab_size)
        guesses = np.argsort(-counts, kind="stable")[: self.top_k]
        right = np.stack([np.isin(targets, guesses), targets == guesses[0]], axis=-1)
        first = np.full(len(targets), guesses[0])
        return {"most frequent tokens": Baseline(right.astype(np.float64), {"prediction": first})}

    def check_targets(self, targets):
        """Refuse anything but token ids below ``vocab_size``, one an example."""
        check_labels(targets, self.vocab_size)
