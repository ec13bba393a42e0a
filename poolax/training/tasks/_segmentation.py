"""Segmentation on a grid, from the pooled vector or from single tokens."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax

from poolax import codec
from poolax._checks import check_count
from poolax.training.tasks._base import (
    Baseline,
    Task,
    check_some,
    check_whole,
    score_of_first,
)

VOID = 255


@codec.register("task", "segmentation")
@dataclasses.dataclass(frozen=True)
class Segmentation(Task):
    """A class for each cell of a grid: cross-entropy, pixel accuracy and mean intersection over union.

    Cells with the label 255 are void: neither loss nor metrics see them.

    Attributes:
        num_classes: Number of classes.
        output_grid: Side of the square grid of labels.

    Example:
        >>> task = Segmentation(num_classes=2, output_grid=1)
        >>> scores = task.score(jnp.array([[2.0, 1.0], [0.0, 1.0]]), jnp.array([[[0]], [[0]]]))
        >>> task.metrics(np.asarray(scores), np.array([[[0]], [[0]]]))
        {'pixel_accuracy': 0.5, 'mean_iou': 0.25}
    """

    num_classes: int
    output_grid: int = 32

    name = "segmentation"
    metric = "pixel_accuracy"
    higher_is_better = True
    is_convex = True

    def __post_init__(self):
        """Refuse numbers that do not fit."""
        check_count("num_classes", self.num_classes, at_least=2)
        check_count("output_grid", self.output_grid)

    @property
    def num_outputs(self) -> int:
        """A logit for each class in each cell."""
        return self.output_grid**2 * self.num_classes

    def _logits(self, outputs):
        return outputs.reshape(
            *outputs.shape[:-1], self.output_grid, self.output_grid, self.num_classes
        )

    def loss(self, outputs, targets):
        """Mean cross-entropy over the cells that are not void; 0 where all are."""
        valid = targets != VOID
        losses = optax.softmax_cross_entropy_with_integer_labels(
            self._logits(outputs), jnp.where(valid, targets, 0)
        )
        total = jnp.sum(jnp.where(valid, losses, 0), axis=(-2, -1))
        return total / jnp.maximum(jnp.sum(valid, axis=(-2, -1)), 1)

    def score(self, outputs, targets):
        """Number of cells of each class (rows) taken for each (columns), ``(*batch, C, C)``."""
        classes = jnp.arange(self.num_classes)
        truth = (targets[..., None] == classes).astype(outputs.dtype)
        chosen = jnp.argmax(self._logits(outputs), axis=-1)[..., None] == classes
        return jnp.einsum("...ijt,...ijc->...tc", truth, chosen.astype(outputs.dtype))

    def answer(self, outputs, targets):
        """The number of cells that are scored."""
        del outputs
        return {"num_scored": jnp.sum(targets != VOID, axis=(-2, -1))}

    def example_scores(self, scores, targets):
        """Pixel accuracy of each example; NaN where all cells are void."""
        del targets
        cells = scores.sum(axis=(1, 2))
        hits = np.trace(scores, axis1=1, axis2=2)
        return np.where(cells > 0, hits / np.maximum(cells, 1), np.nan)

    def metrics(self, scores, targets):
        """Pixel accuracy, and intersection over union averaged over the classes that occur."""
        del targets
        check_some("scores", scores[scores != 0])
        confusion = scores.astype(np.float64).sum(axis=0)
        hits = np.diagonal(confusion)
        union = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
        iou = hits[union > 0] / union[union > 0]
        return {
            "pixel_accuracy": float(hits.sum() / confusion.sum()),
            "mean_iou": float(iou.mean()),
        }

    def baseline(self, train_targets, test_targets):
        """Pixel accuracy of predicting each cell's most frequent class of the training split."""
        return score_of_first(self, train_targets, test_targets)

    def constants(self, train_targets, targets):
        """Each cell's most frequent class of the training split."""
        counts = np.stack([(train_targets == c).sum(axis=0) for c in range(self.num_classes)])
        valid = targets != VOID
        check_some("train_targets", train_targets[train_targets != VOID])
        check_some("test_targets", targets[valid])
        chosen = np.broadcast_to(counts.argmax(axis=0), targets.shape)
        scores = np.zeros((len(targets), self.num_classes, self.num_classes))
        example = np.broadcast_to(np.arange(len(targets))[:, None, None], targets.shape)
        np.add.at(scores, (example[valid], targets[valid], chosen[valid]), 1)
        answers = {"num_scored": valid.sum(axis=(1, 2))}
        return {"majority class of each cell": Baseline(scores, answers)}

    def check_targets(self, targets):
        """Refuse anything but a grid of labels an example, 255 for void."""
        check_whole(targets, f"(N, {self.output_grid}, {self.output_grid})", 3)
        if targets.shape[1:] != (self.output_grid, self.output_grid):
            raise ValueError(
                f"targets: expected {self.output_grid} by {self.output_grid} cells, got "
                f"{targets.shape[1]} by {targets.shape[2]}"
            )
        labels = targets[targets != VOID]
        if labels.size == 0 or labels.min() < 0 or labels.max() >= self.num_classes:
            got = f"{labels.min()} to {labels.max()}" if labels.size else "void alone"
            raise ValueError(f"targets: expected labels from 0 to {self.num_classes - 1}, got {got}")
