"""Expressivity bounds that depend on the data: a constant for each input."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from poolax._checks import (
    broadcast_mask,
    check_choice,
    check_finite,
    check_number,
    check_rank,
    check_tokens,
)
from poolax._geometry import GEOMETRIES
from poolax._intervals import clopper_pearson
from poolax._numerics import at_highest_precision
from poolax._typing import AnyArray
from poolax.bounds._domain import domain_of
from poolax.bounds._linalg import round_up
from poolax.records import Domain, ExpressivityBoundEstimate


def expressivity(
    lipschitz: Callable[[Domain, Int[Array, ""]], Float[Array, ""]],
    inputs: Float[AnyArray, "N n d"],
    masks: Bool[AnyArray, "N n"] | None = None,
    *,
    epsilon: float,
    sigma: float,
    geometry: str = "frobenius",
    confidence: float = 0.95,
) -> ExpressivityBoundEstimate:
    r"""Bound how often a change of size ``epsilon`` moves the output by more than ``sigma``.

    For each input ``X``, with ``R`` its largest token norm and ``rho`` half of the largest distance
    between two of its tokens, the ball of radius ``epsilon`` around ``X`` lies in the domain ``(R +
    epsilon, rho + epsilon / sqrt(2))``, or in ``(R + epsilon, rho + epsilon)`` where each token may
    change by ``epsilon``. With ``L_X`` a Lipschitz constant on that domain,

        ``E = P(|f(X) - f(X')| > sigma) <= P(L_X epsilon > sigma)``

    for every neighbour ``|X - X'| <= epsilon``, adversarial ones included: where ``L_X epsilon <=
    sigma`` no neighbour moves the output that far. One constant for all inputs makes the right side 0
    or 1; the constants of the inputs make it a probability, which is estimated over ``inputs`` with
    Clopper and Pearson's interval.

    *Proof.* A change of norm ``epsilon`` moves one token by at most ``epsilon``, and the distance of
    two tokens by at most ``|dx_i - dx_j| <= sqrt(2) epsilon``, half of which is ``epsilon / sqrt(2)``;
    with a budget for each token by ``2 epsilon``, half of which is ``epsilon``. The domain is convex,
    so that ``L_X`` holds along the segment from ``X`` to ``X'``.

    Args:
        lipschitz: Gives a Lipschitz constant (of the geometry on tokens, Euclidean norm of the
            output) that holds on a :class:`Domain` for a number of real tokens; it is vectorised over
            domains, once for all inputs. For a model of the theory: ``lambda domain, num_tokens:
            bounds.tbm(model, variables, num_tokens=num_tokens, radius=domain.radius,
            spread=domain.spread).lipschitz``.
        inputs: Tokens, shape ``(N, n, d)``.
        masks: True at real tokens, broadcastable to ``(N, n)``; ``None`` if all are real.
        epsilon: Size of the change, at least 0.
        sigma: Distance of the outputs that counts as a move, above 0.
        geometry: ``"frobenius"`` for changes of that Frobenius norm, ``"tokens"`` for one of that norm
            in each token.
        confidence: Confidence of the interval.

    Returns:
        The share of inputs that are not certified, its interval, and the constants. Constants and
        domains are rounded up, so that rounding certifies nothing that does not hold.

    Raises:
        ValueError: for another geometry, a wrong shape, dtype or mask, no input or one without real
            tokens, tokens that are not finite, numbers out of range, or constants that are no numbers
            at least 0.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from poolax import attention, blocks, bounds, pooling
        >>> model = blocks.TBM(num_heads=2, pooler=pooling.AveragePool())
        >>> scale = jnp.linspace(0.1, 3.0, 20)[:, None, None]
        >>> inputs = scale * jax.random.normal(jax.random.key(0), (20, 16, 8))
        >>> variables = model.init(jax.random.key(1), inputs)
        >>> def lipschitz(domain, num_tokens):
        ...     return bounds.tbm(model, variables, num_tokens=num_tokens, radius=domain.radius,
        ...                       spread=domain.spread).lipschitz
        >>> bound = bounds.expressivity(lipschitz, inputs, epsilon=0.01, sigma=0.3)
        >>> bound.low < bound.probability < bound.high
        True

    Reference:
        Definition: "Pool Me Wisely" (Ennadir et al., NeurIPS 2025), Definition 4.1. The bound is this
        library's own; Theory, section 2.3. Interval: Clopper and Pearson (1934).
    """
    check_choice("geometry", geometry, GEOMETRIES)
    check_rank("inputs", inputs, 3, "(N, n, d)")
    check_tokens("inputs", inputs)
    if inputs.shape[0] == 0:
        raise ValueError(f"inputs: expected shape (N, n, d) with N >= 1, got {inputs.shape}")
    masks = broadcast_mask(masks, inputs.shape[:-1], "masks")
    check_finite("inputs", inputs, masks)
    if masks is not None and not bool(jnp.all(jnp.any(masks, axis=1))):
        raise ValueError("masks: expected a real token in every input, got an input without")
    check_number("epsilon", epsilon, at_least=0.0)
    check_number("sigma", sigma, above=0.0)
    check_number("confidence", confidence, above=0.0, below=1.0)
    constants, moves = _constants(jnp.asarray(inputs), masks, epsilon, lipschitz, geometry)
    numbers = np.asarray(constants)
    if not (numbers >= 0).all():
        raise ValueError(
            f"lipschitz: expected to return numbers >= 0, got {numbers[~(numbers >= 0)][0]:g}"
        )
    # Compared in double precision, so that sigma is not rounded.
    num_moved = int((np.asarray(moves, np.float64) > float(sigma)).sum())
    low, high = clopper_pearson(num_moved, len(numbers), confidence)
    return ExpressivityBoundEstimate(
        probability=num_moved / len(numbers),
        low=low,
        high=high,
        lipschitz=constants,
        num_inputs=len(numbers),
    )


@functools.partial(jax.jit, static_argnames=("lipschitz", "geometry"))
@at_highest_precision
def _constants(inputs, masks, epsilon, lipschitz, geometry):
    """Each input's constant, and how far the output moves at most; both rounded up."""
    num_tokens = jnp.full(inputs.shape[0], inputs.shape[1]) if masks is None else masks.sum(axis=1)
    domain = jax.vmap(domain_of)(inputs, masks)
    radius, spread = jnp.asarray(domain.radius), jnp.asarray(domain.spread)
    reach = round_up(jnp.asarray(epsilon, radius.dtype))
    apart = reach / math.sqrt(2) if geometry == "frobenius" else reach
    enlarged = Domain(round_up(radius + reach), round_up(spread + apart))
    constants = jax.vmap(functools.partial(_constant, lipschitz))(enlarged, num_tokens)
    # Without a change nothing moves, however large the constant.
    return constants, jnp.where(reach > 0, round_up(constants * reach), 0)


def _constant(lipschitz, domain, num_tokens):
    constant = lipschitz(domain, num_tokens)
    if not hasattr(constant, "shape") and not isinstance(constant, (int, float)):
        raise ValueError(f"lipschitz: expected to return a number, got {type(constant).__name__}")
    if jnp.shape(constant) != ():
        raise ValueError(
            f"lipschitz: expected to return a number, got an array of shape {jnp.shape(constant)}"
        )
    return jnp.asarray(constant, jnp.result_type(domain.radius, constant))
