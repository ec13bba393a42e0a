"""How much each pooler lets its output move: ``l2`` and ``l1`` of the rows it reads."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from poolax._checks import (
    check_choice,
    check_count,
    check_finite,
    check_floating,
    check_number,
    check_rank,
    check_values,
    is_concrete,
)
from poolax._numerics import accumulation_dtype, at_highest_precision, safe_norm
from poolax._threads import on_one_thread
from poolax.bounds._domain import token_range
from poolax.bounds._linalg import round_up
from poolax.bounds._linear_poolers import LINEAR
from poolax.bounds._methods import PROVED
from poolax.bounds._overflow import or_infinite
from poolax.bounds._pooler_rules import rule_of
from poolax.pooling import (
    Pooler,
    RollingPool,
    WeightedAveragePool,
    from_name,
)
from poolax.records import PoolerBound, TokenRange


@on_one_thread
@at_highest_precision
def pooler(
    pooler_or_name: str | Pooler,
    variables: Mapping[str, Any] | None = None,
    *,
    num_tokens: float | Array | TokenRange,
    dim: int,
    spread: Float[ArrayLike, ""] | None = None,
    method: str = "sharp",
) -> PoolerBound:
    r"""How much a pooler lets its output move, whatever stands before it.

    ============================  =======================  ======================
    pooler                        ``l2``                   ``l1``
    ============================  =======================  ======================
    first, last                   1                        1
    average                       ``1 / sqrt(n)``          1
    sum                           ``sqrt(n)``              ``n``
    max                           1                        ``sqrt(min(n, d))``
    weights ``w``                 ``|w|_2``                ``|w|_1``
    mixture ``sum_j a_j g_j``     ``sum_j a_j l2_j``       ``sum_j a_j l1_j``
    latent attention              ``T / sqrt(n)``          ``T``
    query attention               ``c``                    ``c``
    sum over ``sqrt(n)``, ``l2``  1                        ``sqrt(n)``
    log-sum-exp                   1                        ``sqrt(min(n, d))``
    rolling, windows of ``w``     ``1 / sqrt(w)``          ``sqrt(min(n / w, d))``
    maxima along ``U``            ``|U|``                  ``|U|`` (Frobenius)
    gated attention               ``1 + G spread``         ``1 + G spread``
    ============================  =======================  ======================

    Latent attention maps each token alone and averages: ``T = (1 + |W_O| / 2 sqrt(sum_h (|V_h| |K_h|
    |W_Q^h| / sqrt(d_h))^2)) (1 + L_MLP)``, since softmax is ``1/2``-Lipschitz, each factor with
    that of a LayerNorm before it where there is one. Query attention with ``g = W_K q / sqrt(d_h)``
    has, for each slice of its output, ``|W_V| sqrt(1 + |g|^2 spread^2)``, and ``c`` is the root of
    the sum of their squares. Tight: half diameters of the dictionary's values and logits instead of
    ``|V| |K| / 2``, and for ``l2`` of query attention what the largest attention weight leaves of
    it. Efficient probing and attention with positions are query attention with ``g = q / sqrt(d)``;
    gated attention has scores of slope ``G = |w| |[V, U / 4]|``.

    ``l2`` of the first six rows is attained; :class:`PoolerBound` says what both mean. For max,
    ``|max_i z_ij - max_i z'_ij| <= max_i
    |z_ij - z'_ij|``; square and sum over ``j``. Its gradient reads at most ``min(n, d)`` rows.

    With fewer real tokens than a weighted average has weights, which positions are real depends
    on the mask; the bound holds for every choice. For softmax weights that is the largest
    ``|p_S|_2 / |p_S|_1`` over sets ``S`` of ``n`` positions: as a function of one weight it falls
    below the weighted mean and rises above it, so that the largest and the smallest weights make up
    the worst set.

    Args:
        pooler_or_name: A pooler or its name.
        variables: What its ``init`` returned; ``None`` if it has no parameters.
        num_tokens: Number of real tokens ``n``, or a :class:`TokenRange`.
        dim: Width ``d``.
        spread: Half of the largest distance between pooled tokens, which query attention needs;
            infinite where it is not known.
        method: ``"sharp"``, or ``"tight"``, which differs for poolers with attention.

    Returns:
        The bound.

    Raises:
        ValueError: for an unknown pooler, missing variables, or sizes out of range.

    Example:
        >>> print(f"{pooler('avg', num_tokens=TokenRange(4, 16), dim=8).l2:.2f}")
        0.50

    Reference:
        The l2 factors of average, sum and last are those of "Pool Me Wisely" (Ennadir et al.,
        NeurIPS 2025); 1 for max in the Frobenius norm is this library's, and so are all others. Theory,
        section 6; tight: 8.1 (query attention) and 8.10 (latent attention), and 6.9 to 6.11.
    """
    module = from_name(pooler_or_name)
    check_choice("method", method, PROVED)
    check_count("dim", dim)
    # One that overflowed is infinite, and leaves what reads no spread as it is.
    if spread is not None and not (is_concrete(spread) and np.array_equal(spread, np.inf)):
        check_number("spread", spread, at_least=0.0)
    sizes = {"num_tokens": token_range(num_tokens), "dim": dim, "spread": spread}
    bound = rule_of(module, method)(module, variables or {}, **sizes)
    dtype = accumulation_dtype(bound.l2, bound.l1)

    def rounded(number):
        return None if number is None else round_up(jnp.asarray(number, dtype))

    numbers = {name: rounded(getattr(bound, name)) for name in ("l2", "l1", "linf")}
    return or_infinite(dataclasses.replace(bound, **numbers))


def _given_weights(weights, num_tokens):
    """The bound of a weighted average of exactly as many tokens as there are weights."""
    check_floating("weights", weights)
    check_rank("weights", weights, 1, "(n,)")
    check_finite("weights", weights)
    low, high = num_tokens.low, num_tokens.high
    if not is_concrete(low, high) or not float(low) == float(high) == jnp.size(weights):
        raise ValueError(
            f"weights: expected one for each of num_tokens tokens, got {jnp.size(weights)} weights for "
            f"num_tokens = {low} to {high}; for other lengths pass bounds.pooler(...) as the pooler"
        )
    weights = jnp.asarray(weights, accumulation_dtype(weights))
    size = jnp.abs(weights)
    l2, l1, linf = (round_up(number) for number in (safe_norm(weights), jnp.sum(size), jnp.max(size)))
    return PoolerBound(l2=l2, l1=l1, linf=linf)


@on_one_thread
def pooling_factor(
    pooler_or_name: str | Pooler,
    *,
    num_tokens: float | Array | TokenRange,
    dim: int,
    norm: str = "frobenius",
    weights: Float[ArrayLike, " n"] | None = None,
) -> Float[Array, ""]:
    """Lipschitz factor of a pooler without parameters, or with given weights.

    ``1 / sqrt(n)`` for average, ``sqrt(n)`` for sum, 1 for first and last, ``|w|_2`` for weights; for
    max 1 if changes of the tokens are measured in the Frobenius norm, and ``sqrt(min(n, d))`` if
    they are measured in the operator norm, as the paper does for max pooling only, and so for others
    that are not linear: ``l2`` as max, ``rolling`` from ``1 / sqrt(w)`` to ``sqrt(min(n - w + 1, d) /
    w)``. The two norms do not
    compare: measured in the operator norm the block before the pooler would have other constants
    as well, and going from one norm to the other multiplies every pooler by ``sqrt(min(n, d))``.

    With a budget for each token, ``norm="tokens"``, it is ``l1`` of :func:`pooler`: 1 for first, last
    and average, which contracts no longer, ``n`` for sum, ``sqrt(min(n, d))`` for max and ``|w|_1`` for
    weights.

    Args:
        pooler_or_name: A fixed pooler or its name; ``"wavg"`` needs ``weights``.
        num_tokens: Number of real tokens ``n``, or a :class:`TokenRange`.
        dim: Width ``d``.
        norm: ``"frobenius"``; ``"tokens"`` for the largest norm of a token's change; or ``"operator"``
            to reproduce the published factor of max.
        weights: Weights of a weighted average, shape ``(n,)``.

    Returns:
        The factor.

    Raises:
        ValueError: for an unknown pooler or norm, weights that are missing, misplaced or not one for
            each token, or sizes out of range.

    Example:
        >>> print(f"{pooling_factor('max', num_tokens=16, dim=64, norm='operator'):.1f}")
        4.0

    Reference:
        "Pool Me Wisely" (Ennadir et al., NeurIPS 2025), Theorem 4.2 and Lemmas 4.3 and 4.4; Theory,
        section 3.2; 6.1 and 6.2 for each token's budget.
    """
    check_choice("norm", norm, ("frobenius", "operator", "tokens"))
    bound = resolve_pooler(pooler_or_name, num_tokens=num_tokens, dim=dim, weights=weights)
    instance = from_name(pooler_or_name)
    if norm == "tokens":
        return jnp.asarray(bound.l1)
    if norm == "frobenius" or type(instance) in LINEAR:
        return jnp.asarray(bound.l2)
    # Vectors that entries of the output are read from: no more than there are tokens or windows.
    most = token_range(num_tokens).high
    if type(instance) is RollingPool:
        most = most - jnp.minimum(instance.window, most) + 1
    return jnp.sqrt(jnp.minimum(most, dim)) * bound.l2


def resolve_pooler(
    pooler_or_name: str | Pooler | PoolerBound,
    *,
    num_tokens: float | Array | TokenRange,
    dim: int,
    weights: Float[ArrayLike, " n"] | None = None,
    method: str = "sharp",
) -> PoolerBound:
    """The bound of a name, a fixed pooler, given weights, or a bound that is known already."""
    if isinstance(pooler_or_name, PoolerBound):
        check_values("pooler.l2", pooler_or_name.l2, at_least=0.0)
        check_values("pooler.l1", pooler_or_name.l1, at_least=0.0)
        if weights is not None:
            raise ValueError("weights: expected None beside a PoolerBound, got an array")
        return pooler_or_name
    instance = from_name(pooler_or_name)
    if type(instance) is WeightedAveragePool:
        if weights is None:
            raise ValueError("weights: expected the weights of the weighted average, got None")
        return _given_weights(weights, token_range(num_tokens))
    if weights is not None:
        raise ValueError(
            f"weights: expected None for {type(instance).__name__}, which has none, got an array"
        )
    return pooler(instance, num_tokens=num_tokens, dim=dim, method=method)
