"""Metrics that are made of orders, of the same form as those that are made of sums."""

import numpy as np

from poolax.records import Predictions
from poolax.statistics._sums import Weighted, ratio

# Of the variance over all examples: what is left of it by rounding is none.
_NO_VARIANCE = 1e-12


def auroc(found: Predictions) -> Weighted:
    """Area under the receiver operating characteristic; of several classes one against the rest.

    The probability that an example of the class has the larger probability of it than one of another
    class, ties counted half. Of two classes that of the second, otherwise the mean over the classes
    that occur.
    """
    logs = found["log_probability"].astype(np.float64)
    if logs.shape[1] == 2:
        # The odds, which half precision tells apart near either class.
        return _area(logs[:, 1] - logs[:, 0], found.target == 1)
    areas = [_area(logs[:, label], found.target == label) for label in np.unique(found.target)]

    def of(weights):
        values = np.stack([area(weights) for area in areas])
        is_known = ~np.isnan(values)
        return ratio(np.where(is_known, values, 0).sum(0), is_known.sum(0))

    return of


def _area(values, is_positive):
    starts, order, _ = _ties(values)
    sign = is_positive[order, None]

    def of(weights):
        own = weights[order]
        positive = np.add.reduceat(own * sign, starts)
        negative = np.add.reduceat(own * ~sign, starts)
        below = np.cumsum(negative, axis=0) - negative / 2
        return ratio((positive * below).sum(0), positive.sum(0) * negative.sum(0))

    return of


def _ties(values):
    """Where equal values begin in ascending order, that order, and of which group each example is."""
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    is_new = np.concatenate([[True], ascending[1:] != ascending[:-1]])
    groups = np.empty(len(values), int)
    groups[order] = np.cumsum(is_new) - 1
    return np.flatnonzero(is_new), order, groups


def spearman(found: Predictions) -> Weighted:
    """Correlation of the ranks of targets and predictions, the mean rank for ties."""
    target, prediction, scored = _scored(found)
    ranks = _ranks(target), _ranks(prediction)

    def of(weights):
        own = weights[scored]
        return _correlation(ranks[0](own), ranks[1](own), own)

    return of


def pearson(found: Predictions) -> Weighted:
    """Correlation of targets and predictions."""
    target, prediction, scored = _scored(found)
    return lambda weights: _correlation(target[:, None], prediction[:, None], weights[scored])


def _scored(found):
    """Numbers of the examples that have a target, and which these are."""
    target, prediction = (np.asarray(found[name], np.float64) for name in ("target", "prediction"))
    scored = np.flatnonzero(~np.isnan(target))
    return target[scored], prediction[scored], scored


def _ranks(values):
    """Ranks ``(N, B)`` among examples that are there as often as their weight says."""
    starts, order, groups = _ties(values)

    def of(weights):
        counts = np.add.reduceat(weights[order], starts)
        return (np.cumsum(counts, axis=0) - (counts - 1) / 2)[groups]

    return of


def _correlation(left, right, weights):
    total = weights.sum(0)

    def centred(values):
        # About the mean over all examples first: what is common to them does not round.
        values = values - values.mean(0)
        least = _NO_VARIANCE * np.square(values).mean(0)
        values = values - (weights * values).sum(0) / total
        variance = (weights * np.square(values)).sum(0) / total
        return values, np.where(variance > least, variance, 0)

    (left, one), (right, other) = centred(left), centred(right)
    return ratio((weights * left * right).sum(0) / total, np.sqrt(one * other))
