"""How much each pooler lets its output move: ``l2`` and ``l1`` of the rows it reads."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
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
from poolax._numerics import accumulation_dtype, safe_norm
from poolax._records import PoolerBound, TokenRange
from poolax.bounds._domain import token_range
from poolax.bounds._linalg import at_highest_precision, round_up
from poolax.pooling import (
    AveragePool,
    FirstPool,
    HybridPool,
    LastPool,
    MaxPool,
    Pooler,
    SumPool,
    WeightedAveragePool,
    from_name,
)

Rule = Callable[..., PoolerBound]


_RULES: dict[type[Pooler], Rule] = {}


def _rule_of(pooler):
    # Of the class itself: what a subclass changes may change the bound.
    if type(pooler) not in _RULES:
        known = sorted(cls.__name__ for cls in _RULES)
        raise ValueError(
            f"pooler: expected one whose bound is known ({', '.join(known)}), got "
            f"{type(pooler).__name__}; register a bound with bounds.register_pooler"
        )
    return _RULES[type(pooler)]


def register_pooler(cls: type[Pooler]) -> Callable[[Rule], Rule]:
    """Register the bound of a pooler of your own; a decorator.

    The decorated function is called with ``(pooler, variables, *, num_tokens, dim, spread)``, where
    ``num_tokens`` is always a :class:`TokenRange`, and returns a :class:`PoolerBound` that holds
    for every number of real tokens in it and for every mask. The rule is the class's own: subclasses
    do not inherit it.

    Args:
        cls: The pooler's class.

    Returns:
        The decorator, which gives the function back.

    Example:
        >>> import jax.numpy as jnp
        >>> from poolax.pooling import Pooler, sum_pool
        >>> class HalfSumPool(Pooler):
        ...     def __call__(self, z, mask=None):
        ...         return 0.5 * sum_pool(z, mask)
        >>> @register_pooler(HalfSumPool)
        ... def _(pooler, variables, *, num_tokens, dim, spread):
        ...     return PoolerBound(l2=0.5 * jnp.sqrt(num_tokens.high), l1=0.5 * num_tokens.high)
        >>> print(f"{pooler(HalfSumPool(), num_tokens=16, dim=8).l2:.2f}")
        2.00
    """

    def register(rule: Rule) -> Rule:
        _RULES[cls] = rule
        return rule

    return register


@at_highest_precision
def pooler(
    pooler: str | Pooler,
    variables: Mapping[str, Any] | None = None,
    *,
    num_tokens: float | Array | TokenRange,
    dim: int,
    spread: Float[ArrayLike, ""] | None = None,
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
    ============================  =======================  ======================

    All of ``l2`` are attained, except a mixture's; :class:`PoolerBound` says what both mean. For max,
    ``|max_i z_ij - max_i z'_ij| <= max_i
    |z_ij - z'_ij|``; square and sum over ``j``. Its gradient reads at most ``min(n, d)`` rows.

    With fewer real tokens than a weighted average has weights, which positions are real depends
    on the mask; the bound holds for every choice. For softmax weights that is the largest
    ``|p_S|_2 / |p_S|_1`` over sets ``S`` of ``n`` positions: as a function of one weight it falls
    below the weighted mean and rises above it, so that the largest and the smallest weights make up
    the worst set.

    Args:
        pooler: A pooler or its name.
        variables: What its ``init`` returned; ``None`` if it has no parameters.
        num_tokens: Number of real tokens ``n``, or a :class:`TokenRange`.
        dim: Width ``d``.
        spread: Half of the largest distance between pooled tokens, for poolers whose bound needs
            it.

    Returns:
        The bound.

    Raises:
        ValueError: for an unknown pooler, missing variables, or sizes out of range.

    Example:
        >>> print(f"{pooler('avg', num_tokens=TokenRange(4, 16), dim=8).l2:.2f}")
        0.50

    Reference:
        The l2 factors of average, sum and last are those of "Pool Me Wisely" (Ennadir et al.,
        NeurIPS 2025); 1 for max in the Frobenius norm is this library's, and so are all of l1.
    """
    pooler = from_name(pooler)
    check_count("dim", dim)
    if spread is not None:
        check_number("spread", spread, at_least=0.0)
    sizes = {"num_tokens": token_range(num_tokens), "dim": dim, "spread": spread}
    bound = _rule_of(pooler)(pooler, variables or {}, **sizes)
    dtype = accumulation_dtype(bound.l2, bound.l1)
    l2, l1 = (round_up(jnp.asarray(number, dtype)) for number in (bound.l2, bound.l1))
    return dataclasses.replace(bound, l2=l2, l1=l1)


@register_pooler(FirstPool)
@register_pooler(LastPool)
def _one_token(pooler, variables, *, num_tokens, dim, spread):
    return PoolerBound(l2=1.0, l1=1.0, reads_one_token=True)


@register_pooler(AveragePool)
def _average(pooler, variables, *, num_tokens, dim, spread):
    return PoolerBound(l2=1 / jnp.sqrt(num_tokens.low), l1=1.0)


@register_pooler(SumPool)
def _sum(pooler, variables, *, num_tokens, dim, spread):
    return PoolerBound(l2=jnp.sqrt(num_tokens.high), l1=num_tokens.high)


@register_pooler(MaxPool)
def _max(pooler, variables, *, num_tokens, dim, spread):
    return PoolerBound(l2=1.0, l1=jnp.sqrt(jnp.minimum(num_tokens.high, dim)))


@register_pooler(WeightedAveragePool)
def _weighted_average(pooler, variables, *, num_tokens, dim, spread):
    weights = _parameters(pooler, variables)["weights"]
    check_rank("weights", weights, 1, "(max_tokens,)")
    check_finite("weights", weights)
    size = weights.shape[0]
    if is_concrete(num_tokens.high) and float(num_tokens.high) > size:
        raise ValueError(
            f"num_tokens: expected at most max_tokens = {size}, got {int(num_tokens.high)}"
        )
    weights = weights.astype(accumulation_dtype(weights))
    if pooler.normalize == "softmax":
        return PoolerBound(l2=_largest_share_norm(weights, num_tokens.low), l1=1.0)
    by_size = jnp.sort(jnp.abs(weights), descending=True)
    used = jnp.where(jnp.arange(size) < num_tokens.high, by_size, 0)
    return PoolerBound(l2=safe_norm(used), l1=jnp.sum(used))


@register_pooler(HybridPool)
def _hybrid(pooler, variables, *, num_tokens, dim, spread):
    parameters = _parameters(pooler, variables)
    check_finite("mixture", parameters["mixture"])
    shares = jax.nn.softmax(parameters["mixture"])
    bounds = [
        _rule_of(part)(
            part,
            {"params": parameters.get(f"poolers_{index}", {})},
            num_tokens=num_tokens,
            dim=dim,
            spread=spread,
        )
        for index, part in enumerate(pooler.poolers)
    ]
    l2 = jnp.stack([jnp.asarray(bound.l2, shares.dtype) for bound in bounds])
    l1 = jnp.stack([jnp.asarray(bound.l1, shares.dtype) for bound in bounds])
    return PoolerBound(l2=jnp.sum(shares * l2), l1=jnp.sum(shares * l1))


def _largest_share_norm(logits, num_tokens):
    """Largest ``|softmax(logits_S)|_2`` over sets S of num_tokens positions."""
    top_first = jnp.sort(logits, descending=True)
    shares = jnp.exp(top_first - jax.lax.stop_gradient(top_first[0]))
    count = jnp.arange(1, logits.shape[0] + 1)
    rest = jnp.clip(num_tokens - count, 0, logits.shape[0]).astype(int)

    def best_of(values):  # the `count` first of them and the `rest` last ones
        from_end = jnp.concatenate([jnp.zeros(1, values.dtype), jnp.cumsum(values[::-1])])
        return jnp.cumsum(values) + from_end[rest]

    # The largest weight is in the worst set, so that no sum vanishes.
    norms = jnp.sqrt(best_of(jnp.square(shares))) / best_of(shares)
    return jnp.max(jnp.where(count <= num_tokens, norms, 0))


def _parameters(pooler, variables):
    if not variables.get("params"):
        raise ValueError(
            f"variables: expected what {type(pooler).__name__}.init returned, got {variables!r}"
        )
    return variables["params"]


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
    return PoolerBound(l2=round_up(safe_norm(weights)), l1=round_up(jnp.sum(jnp.abs(weights))))


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
    they are measured in the operator norm, as the paper does for max pooling only. The two do not
    compare: measured in the operator norm the block before the pooler would have other constants
    as well, and going from one norm to the other multiplies every pooler by ``sqrt(min(n, d))``.

    Args:
        pooler_or_name: A fixed pooler or its name; ``"wavg"`` needs ``weights``.
        num_tokens: Number of real tokens ``n``, or a :class:`TokenRange`.
        dim: Width ``d``.
        norm: ``"frobenius"``, or ``"operator"`` to reproduce the published factor of max.
        weights: Weights of a weighted average, shape ``(n,)``.

    Returns:
        The factor.

    Raises:
        ValueError: for an unknown pooler or norm, or weights that are missing or misplaced.

    Example:
        >>> print(f"{pooling_factor('max', num_tokens=16, dim=64, norm='operator'):.1f}")
        4.0

    Reference:
        "Pool Me Wisely" (Ennadir et al., NeurIPS 2025), Theorem 4.2 and Lemmas 4.3 and 4.4.
    """
    check_choice("norm", norm, ("frobenius", "operator"))
    bound = resolve_pooler(pooler_or_name, num_tokens=num_tokens, dim=dim, weights=weights)
    if norm == "operator" and type(from_name(pooler_or_name)) is MaxPool:
        return jnp.asarray(bound.l1)
    return jnp.asarray(bound.l2)


def resolve_pooler(
    pooler_or_name: str | Pooler | PoolerBound,
    *,
    num_tokens: float | Array | TokenRange,
    dim: int,
    weights: Float[ArrayLike, " n"] | None = None,
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
    return pooler(instance, num_tokens=num_tokens, dim=dim)
