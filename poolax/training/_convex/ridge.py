r"""Least squares with a penalty, in closed form for all strengths from one eigendecomposition.

With weights :math:`w_i`, centred inputs :math:`X` and targets :math:`T`, and :math:`c = 2 / (N k)`, the
least of

.. math:: \frac1N \sum_i \frac{w_i}{k} |W^\top x_i + b - t_i|^2 + \frac\lambda2 |W|^2

solves :math:`(c X^\top D X + \lambda I) W = c X^\top D T` with :math:`D = \mathrm{diag}(w)`, and
:math:`b` is the weighted mean of what is left.
"""

import numpy as np
import scipy.linalg
from jaxtyping import Float

from poolax.training._convex.path import Path, rank_of


def ridge_path(
    inputs: Float[np.ndarray, "N d"],
    values: Float[np.ndarray, "N k"],
    strengths: Float[np.ndarray, " strengths"],
    *,
    weights: Float[np.ndarray, " N"] | None = None,
    tolerance: float = 1e-5,
) -> Path:
    """Linear heads of least squared error, for all strengths of the penalty.

    The eigendecomposition is that of the smaller of the two Gram matrices, in double precision.

    Args:
        inputs: Standardised vectors.
        values: What the head is to give, all finite.
        strengths: Of the penalty, above 0.
        weights: How much the error of each example counts; ``None`` for 1.
        tolerance: What the gradient may be.

    Returns:
        The heads, strongest penalty first.
    """
    x, t = np.asarray(inputs, np.float64), np.asarray(values, np.float64)
    strengths = np.sort(np.asarray(strengths, np.float64))[::-1]
    num, dim, width = *x.shape, t.shape[1]
    w = np.ones(num) if weights is None else np.asarray(weights, np.float64)
    share = w / w.sum()
    mean_x, mean_t = share @ x, share @ t
    root = np.sqrt(w)[:, None]
    a, c = root * (x - mean_x), 2 / (num * width)
    b = root * (t - mean_t)
    if dim <= num:
        squares, vectors = _spectrum(c * a.T @ a)
        rotated = vectors.T @ (c * a.T @ b)
    else:
        # X^T D^(1/2) (c D^(1/2) X X^T D^(1/2) + lambda)^-1: one system of N instead of d
        squares, left = _spectrum(c * a @ a.T)
        vectors, rotated = c * a.T @ left, left.T @ b
    kernel = np.stack([vectors @ (rotated / (squares + s)[:, None]) for s in strengths])
    bias = mean_t - np.einsum("d,sdk->sk", mean_x, kernel)
    objective, size = np.zeros(len(strengths)), np.zeros(len(strengths))
    unit = np.linalg.norm(2 / width * w[:, None] * t, axis=1).mean() or 1.0
    for place, strength in enumerate(strengths):  # one after the other: a row of outputs may be long
        left_over = x @ kernel[place] + bias[place] - t
        slopes = c * w[:, None] * left_over
        gradient = np.abs(x.T @ slopes + strength * kernel[place]).max()
        size[place] = max(gradient, np.abs(slopes.sum(axis=0)).max()) / unit
        penalty = strength / 2 * np.square(kernel[place]).sum()
        objective[place] = np.vdot(slopes, left_over) / 2 + penalty
    steps = np.zeros(len(strengths), np.int64)
    return Path(strengths, kernel, bias, objective, size, steps, size <= tolerance, rank_of(squares))


def _spectrum(gram):
    values, vectors = scipy.linalg.eigh(gram, check_finite=False)
    return np.maximum(values, 0.0), vectors
