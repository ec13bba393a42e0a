"""Metrics that are made of sums over examples, each counted as often as its weight says.

Each takes predictions and gives a function from weights ``(N, B)``, of which a column is one resampling
of the examples, to the metric ``(B,)``, NaN where it is not defined.
"""

from collections.abc import Callable

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from poolax.records import Predictions

Weighted = Callable[[Float[np.ndarray, "N B"]], Float[np.ndarray, " B"]]

# Of the confidence, equally wide.
CALIBRATION_BINS = 15


def mean_score(found: Predictions) -> Weighted:
    """Mean of the scores; of those that are means of several values, over all values."""
    return _mean(found, found.score)


def mean_squared_error(found: Predictions) -> Weighted:
    """Mean squared error, from predictions or, where there are many an example, from scores."""
    return _mean(found, np.square(_errors(found))) if _has_errors(found) else mean_score(found)


def mean_absolute_error(found: Predictions) -> Weighted:
    """Mean absolute error, likewise."""
    return _mean(found, np.abs(_errors(found)) if _has_errors(found) else found["absolute_error"])


def _has_errors(found):
    return {"target", "prediction"} <= set(found.kept)


def _errors(found):
    return found.prediction.astype(np.float64) - found.target


def _mean(found, values):
    """Weighted mean over examples of which something is scored."""
    count = np.asarray(found.kept.get("num_scored", np.ones(len(values))), np.float64)
    products = np.where(count > 0, values.astype(np.float64) * count, 0)
    return _quotient(products, count)


def _quotient(numerator, denominator):
    """The quotient of two weighted sums over examples."""
    # Not by BLAS, whose threads wait for one another longer than such a product takes.
    sums = scipy.sparse.csr_matrix(np.stack([numerator, denominator]).astype(np.float64))
    return lambda weights: ratio(*(sums @ weights))


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """A quotient; NaN for one of nothing."""
    is_known = denominator > 0
    return np.where(is_known, numerator, np.nan) / np.where(is_known, denominator, 1)


def accuracy(found: Predictions) -> Weighted:
    """Share of examples whose class is right."""
    return _mean(found, found.prediction == found.target)


def balanced_accuracy(found: Predictions) -> Weighted:
    """Mean over the classes that occur of the share of their examples that are right."""
    counts = _counts(found)

    def of(weights):
        hits, support, _ = counts(weights)
        num_classes = (support > 0).sum(0)
        recall = hits / np.where(support > 0, support, 1)
        return ratio(recall.sum(0), np.where(num_classes > 1, num_classes, 0))

    return of


def macro_f1(found: Predictions) -> Weighted:
    """F1 averaged over the classes that occur, as targets or as predictions."""
    counts = _counts(found)

    def of(weights):
        hits, support, predicted = counts(weights)
        both = support + predicted
        f1 = 2 * hits / np.where(both > 0, both, 1)
        return ratio(f1.sum(0), (both > 0).sum(0))

    return of


def f1_of(label: int, found: Predictions) -> Weighted:
    """F1 of one class; not defined where it neither occurs nor is predicted."""
    is_target, is_predicted = found.target == label, found.prediction == label
    return _quotient(2 * (is_target & is_predicted), is_target * 1 + is_predicted)


def mcc(found: Predictions) -> Weighted:
    """Matthews's correlation of classes; not defined where targets or predictions are of one."""
    counts = _counts(found)

    def of(weights):
        hits, support, predicted = counts(weights)
        total = weights.sum(0)
        covariance = hits.sum(0) * total - (support * predicted).sum(0)
        spreads = [total**2 - np.square(of_class).sum(0) for of_class in (support, predicted)]
        return ratio(covariance, np.sqrt(spreads[0] * spreads[1]))

    return of


def _counts(found):
    """Weights of the examples of each class ``(C, B)``: those that are right, all, those predicted."""
    num = len(found)
    known, codes = np.unique(np.concatenate([found.target, found.prediction]), return_inverse=True)
    target, prediction = codes[:num], codes[num:]
    width = len(known)
    of_target, of_prediction = _one_hot(target, width), _one_hot(prediction, width)
    is_right = np.where(target == prediction, target, -1)
    of_hits = _one_hot(is_right, width)
    return lambda weights: (of_hits @ weights, of_target @ weights, of_prediction @ weights)


def _one_hot(codes: Int[np.ndarray, " N"], width: int) -> scipy.sparse.csr_matrix:
    """A row for each class, with ones at its examples; those of a code below 0 are of none."""
    columns = np.flatnonzero(codes >= 0)
    ones = np.ones(len(columns))
    return scipy.sparse.csr_matrix((ones, (codes[columns], columns)), (width, len(codes)))


def calibration_error(found: Predictions) -> Weighted:
    """Expected calibration error: how far confidence is from accuracy, over 15 equally wide bins.

    ``sum_b n_b / N |accuracy_b - mean confidence_b|`` over the bins ``((b - 1) / 15, b / 15]``.
    """
    confidence = found["confidence"].astype(np.float64)
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS) - 1, 0, CALIBRATION_BINS - 1).astype(int)
    excess = (found.prediction == found.target) - confidence
    of_bin = _one_hot(bins, CALIBRATION_BINS).multiply(excess).tocsr()
    return lambda weights: ratio(np.abs(of_bin @ weights).sum(0), weights.sum(0))
