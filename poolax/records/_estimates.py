"""What is measured: Jacobian norms, expressivity, distances under noise, and attacks."""

from typing import Any

from flax import struct
from jaxtyping import Array, Bool, Float, Int


@struct.dataclass
class NormEstimate:
    """Estimate of a Jacobian's spectral norm; a lower bound of it up to rounding.

    Attributes:
        value: The estimate.
        steps: Steps taken, each one product with the Jacobian and one with its transpose.
        converged: Whether the residual fell below the tolerance. A zero Jacobian has converged.
        residual: ``|J^T J v - value^2 v| / value^2`` at the last direction ``v``.
    """

    value: Float[Array, ""]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]
    residual: Float[Array, ""]


@struct.dataclass
class SearchResult:
    """Largest local Jacobian norm that a search found; a lower bound of the Lipschitz constant.

    Attributes:
        value: The largest norm; with a bound, the norm where the ratio is largest.
        x: The input where it was found.
        per_restart: The largest norm, or with a bound the largest ratio, that each restart found, shape
            ``(num_restarts,)``.
        variables: The variables where it was found; ``None`` if there are none to search over.
        ratio: ``value / bound(variables)``; ``None`` without a bound.
    """

    value: Float[Array, ""]
    x: Float[Array, "..."]
    per_restart: Float[Array, " restarts"]
    variables: Any = None
    ratio: Float[Array, ""] | None = None


@struct.dataclass
class AttackResult:
    """A point of a ball around an input where a loss is large.

    Attributes:
        x: The point.
        loss: There, never below ``clean``.
        clean: The loss at the input.
    """

    x: Float[Array, "..."]
    loss: Float[Array, ""]
    clean: Float[Array, ""]


@struct.dataclass
class ExpressivityEstimate:
    """Monte Carlo estimate of ``P(|f(X) - f(X')| > sigma)`` with a confidence interval.

    Attributes:
        probability: The estimate.
        low: Lower end of the interval.
        high: Upper end of the interval.
        mean_distance: Mean of ``|f(X) - f(X')|``.
        num_inputs: Number of inputs, which are the sampling unit of the interval.
    """

    probability: float
    low: float
    high: float
    mean_distance: float
    num_inputs: int = struct.field(pytree_node=False)


@struct.dataclass
class ExpressivityBoundEstimate:
    """Share of inputs that a bound does not certify, with a confidence interval.

    With ``L_X`` a Lipschitz constant on the ball of radius ``epsilon`` around ``X``, the expressivity
    of every neighbourhood inside that ball is at most ``P(L_X epsilon > sigma)``; the output of an
    input with ``L_X epsilon <= sigma`` does not move by more than ``sigma`` at all.

    Attributes:
        probability: The estimate of ``P(L_X epsilon > sigma)``.
        low: Lower end of the interval, which bounds nothing else.
        high: Upper end of the interval, which bounds the expressivity with the same confidence.
        lipschitz: ``L_X`` of each input, shape ``(N,)``.
        num_inputs: Number of inputs, which are the sampling unit of the interval.
    """

    probability: float
    low: float
    high: float
    lipschitz: Float[Array, " N"]
    num_inputs: int = struct.field(pytree_node=False)


@struct.dataclass
class NoiseCurve:
    """Mean distance of outputs against the size of a change of the input.

    Attributes:
        epsilon: Size of the change (Gaussian: root mean square norm of the noise), shape ``(k,)``.
        mean: Mean of ``|f(X) - f(X')|`` over inputs and perturbations, shape ``(k,)``.
        low: Lower end of the mean's confidence interval over inputs, shape ``(k,)``.
        high: Upper end, shape ``(k,)``.
        by_input: The mean over perturbations alone, shape ``(N, k)``; ``None`` where it is not kept.
    """

    epsilon: Float[Array, " k"]
    mean: Float[Array, " k"]
    low: Float[Array, " k"]
    high: Float[Array, " k"]
    by_input: Float[Array, "N k"] | None = None
