"""Confidence intervals and tail bounds: whatever is rounded is rounded to the safe side."""

import math

import jax
import jax.numpy as jnp
import scipy.optimize
import scipy.special
import scipy.stats
from jaxtyping import Array, ArrayLike, Float

from poolax._numerics import accumulation_dtype


def clopper_pearson(successes: int, count: int, confidence: float) -> tuple[float, float]:
    """Clopper and Pearson's exact interval of a probability, from independent yes and no."""
    interval = scipy.stats.binomtest(successes, count).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def chernoff_interval(mean: float, count: int, confidence: float) -> tuple[float, float]:
    """Interval of the expectation of independent values between 0 and 1, from their mean.

    All expectations ``m`` with ``count KL(mean | m) <= log(2 / (1 - confidence))``, the relative
    entropy between coins: Chernoff's bound, which holds for a coin, holds for every variable
    between 0 and 1 of the same expectation, whose exponential moments are no larger.
    """
    limit = math.log(2 / (1 - confidence)) / count

    def excess(m):
        entropy = scipy.special.rel_entr((mean, 1 - mean), (m, 1 - m)).sum()
        return float(entropy) - limit

    def crossing(outer, none):
        # An end so close to 0 or 1 that numbers do not reach it is taken to be 0 or 1.
        if mean == none or excess(outer) <= 0:
            return float(none)
        return float(scipy.optimize.root_scalar(excess, bracket=sorted((outer, mean))).root)

    return crossing(1e-300, 0), crossing(1 - 1e-15, 1)


def log_chi2_tail(
    threshold: Float[ArrayLike, "*#batch"], dof: Float[ArrayLike, "*#batch"]
) -> Float[Array, "*batch"]:
    r"""Upper bound of ``log P(chi2_k > t)`` for any real ``k > 0``, which does not underflow.

    With ``d = t / k - 1`` and ``eta = sign(d) sqrt(2 (d - log(1 + d)))``,

        ``P(chi2_k > t) <= P(N(0, 1) > eta sqrt(k / 2))``,

    the leading term of the uniform expansion of the incomplete gamma function, which lies above it.
    *Proof.* Both sides are 1 at ``t = 0`` and vanish at infinity. The derivative of their difference
    is a positive function times ``c_k - d / eta``, with a constant ``c_k``. The root ``d / eta``
    increases with ``d``: the derivative of its square has the sign of ``d (2 d - 2 log(1 + d) - d^2 /
    (1 + d))``, and that bracket, whose derivative is ``d^2 / (1 + d)^2``, has the sign of ``d``. So
    the difference rises, then falls, and is nowhere negative.

    Args:
        threshold: ``t``, at least 0; infinite gives ``-inf``.
        dof: Degrees of freedom ``k``, above 0.

    Returns:
        The bound, raised by more than its rounding error.

    Reference:
        Temme, "The asymptotic expansion of the incomplete gamma functions" (1979), for the
        expansion.
    """
    dtype = accumulation_dtype(threshold, dof)
    eps = jnp.finfo(dtype).eps
    threshold, dof = jnp.asarray(threshold, dtype), jnp.asarray(dof, dtype)
    never = jnp.isposinf(threshold)
    excess = jnp.where(never, 0, threshold) / dof - 1
    excess = jnp.maximum(excess - 16 * eps * (1 + jnp.abs(excess)), eps - 1)
    # d - log(1 + d) cancels for small d, where a polynomial is exact to 1e-12 of it.
    small = jnp.abs(excess) < 0.01
    near = jnp.where(small, excess, 0)
    far = jnp.where(small, 1, excess)
    ratio = jnp.polyval(jnp.asarray([-1 / 7, 1 / 6, -1 / 5, 1 / 4, -1 / 3, 1 / 2], dtype), near)
    ratio = ratio * (1 - jnp.sign(near) * (8 * eps + 1e-12))
    sign = jnp.sign(far)
    root = jnp.sqrt(far - jnp.log1p(far)) * (1 - sign * 8 * eps * (1 + sign / far))
    deviation = jnp.where(small, near * jnp.sqrt(ratio), sign * root) * jnp.sqrt(dof)
    log_tail = jax.scipy.special.log_ndtr(-deviation)
    log_tail = jnp.minimum(log_tail + 64 * eps * (1 + jnp.abs(log_tail)), 0)
    return jnp.where(never, -jnp.inf, log_tail)
