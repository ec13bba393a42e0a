"""The bound of each pooler, by its class: one table for built-in poolers and users' own.

Theory, chapter 6; tight 8.1, 8.10 and 8.15.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from poolax._activations import activation_from_name
from poolax._checks import check_finite, check_rank, is_concrete
from poolax._numerics import accumulation_dtype, safe_norm
from poolax.bounds._activations import activation_lipschitz
from poolax.bounds._attentive_rules import (
    fewest_of,
    latent_rule,
    most_of,
    parameters_of,
    query_rule,
)
from poolax.bounds._linalg import spectral_norm
from poolax.bounds._no_bound import NoBoundError
from poolax.bounds._norms import norm_lipschitz
from poolax.bounds._probe_rules import (
    efficient_probing_rule,
    gated_attention_rule,
    l2_rule,
    log_sum_exp_rule,
    multimax_rule,
    position_attention_rule,
    rolling_rule,
)
from poolax.pooling import (
    AveragePool,
    ConcatPool,
    EfficientProbingPool,
    FirstPool,
    GatedAttentionPool,
    HybridPool,
    L2Pool,
    LastPool,
    LatentAttentionPool,
    LayerMixPool,
    LogSumExpPool,
    MaxPool,
    MultiMaxPool,
    NormPool,
    Pooler,
    PositionAttentionPool,
    PositionPool,
    ProjectedPool,
    QueryAttentionPool,
    RollingPool,
    SkipPool,
    SqrtPool,
    SumPool,
    UnitPool,
    WeightedAveragePool,
    parts_of,
)
from poolax.records import PoolerBound, TokenRange

Rule = Callable[..., PoolerBound]


# By class, and by method.
_RULES: dict[type[Pooler], dict[str, Rule]] = {}


def rule_of(pooler: Pooler, method: str) -> Rule:
    """The rule of a pooler's own class: what a subclass changes may change the bound."""
    if type(pooler) not in _RULES:
        known = sorted(cls.__name__ for cls in _RULES)
        raise NoBoundError(
            f"pooler: expected one whose bound is known ({', '.join(known)}), got "
            f"{type(pooler).__name__}; register a bound with bounds.register_pooler"
        )
    return _RULES[type(pooler)][method]


def rules_of(pooler: Any, method: str = "sharp") -> tuple[Rule, ...]:
    """The rules by which :func:`pooler` bounds a pooler: its own, and those of all that it mixes.

    Args:
        pooler: A pooler, or anything else, for which there are none.
        method: ``"sharp"``, ``"tight"`` or ``"published"``.

    Returns:
        The rules, built in or registered; empty where one of them is not known.

    Example:
        >>> from poolax.pooling import AveragePool
        >>> len(rules_of(AveragePool())), rules_of("a table")
        (1, ())
    """
    inner = [rules_of(part, method) for part in parts_of(pooler)]
    if type(pooler) not in _RULES or not all(inner):
        return ()
    return (rule_of(pooler, method), *itertools.chain(*inner))


def register_pooler(cls: type[Pooler], *, tight: Rule | None = None) -> Callable[[Rule], Rule]:
    """Register the bound of a pooler of your own; a decorator.

    The decorated function is called with ``(pooler, variables, *, num_tokens, dim, spread)``, where
    ``num_tokens`` is always a :class:`TokenRange`, and returns a :class:`PoolerBound` that holds
    for every number of real tokens in it and for every mask: ``|d out| <= l2 |dZ|`` and ``|d out| <= l1
    max_i |dz_i|``. The rule is the class's own: subclasses do not inherit it.

    Args:
        cls: The pooler's class.
        tight: A rule for ``method="tight"``, called as the decorated one is; ``None`` where nothing
            tighter is known.

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
        >>> from poolax import bounds
        >>> print(f"{bounds.pooler(HalfSumPool(), num_tokens=16, dim=8).l2:.2f}")
        2.00

    Reference:
        Theory, section 6.1.
    """

    def register(rule: Rule) -> Rule:
        _RULES[cls] = {"sharp": rule, "tight": rule if tight is None else tight}
        return rule

    return register


@register_pooler(FirstPool)
@register_pooler(LastPool)
def _one_token(pooler, variables, *, num_tokens, dim, spread):
    return PoolerBound(l2=1.0, l1=1.0, linf=1.0, reads_one_token=True)


@register_pooler(AveragePool)
def _average(pooler, variables, *, num_tokens, dim, spread):
    low = fewest_of(num_tokens)
    return PoolerBound(l2=1 / jnp.sqrt(low), l1=1.0, linf=1 / low)


@register_pooler(SumPool)
def _sum(pooler, variables, *, num_tokens, dim, spread):
    most = most_of(num_tokens)
    return PoolerBound(l2=jnp.sqrt(most), l1=most, linf=1.0)


@register_pooler(SqrtPool)
def _sqrt(pooler, variables, *, num_tokens, dim, spread):
    linf = 1 / jnp.sqrt(fewest_of(num_tokens))
    return PoolerBound(l2=1.0, l1=jnp.sqrt(most_of(num_tokens)), linf=linf)


@register_pooler(PositionPool)
def _position(pooler, variables, *, num_tokens, dim, spread):
    """Shares of ``start, start + 1, …``; their norms fall as tokens are added."""
    count, before = fewest_of(num_tokens), pooler.start - 1
    mean = before + (count + 1) / 2
    squares = before**2 + before * (count + 1) + (count + 1) * (2 * count + 1) / 6
    l2 = jnp.sqrt(squares / count) / mean
    return PoolerBound(l2=l2, l1=1.0, linf=(before + count) / count / mean)


@register_pooler(MaxPool)
def _max(pooler, variables, *, num_tokens, dim, spread):
    most_read = jnp.minimum(num_tokens.high, dim)
    return PoolerBound(l2=1.0, l1=jnp.sqrt(most_read), selects=True)


@register_pooler(WeightedAveragePool)
def _weighted_average(pooler, variables, *, num_tokens, dim, spread):
    weights = parameters_of(pooler, variables)["weights"]
    check_rank("weights", weights, 1, "(max_tokens,)")
    check_finite("weights", weights)
    size = weights.shape[0]
    if is_concrete(num_tokens.high) and float(num_tokens.high) > size:
        raise ValueError(
            f"num_tokens: expected at most max_tokens = {size}, got {int(num_tokens.high)}"
        )
    weights = weights.astype(accumulation_dtype(weights))
    if pooler.normalize == "softmax":
        l2, linf = _largest_shares(weights, num_tokens.low)
        return PoolerBound(l2=l2, l1=1.0, linf=linf)
    by_size = jnp.sort(jnp.abs(weights), descending=True)
    used = jnp.where(jnp.arange(size) < num_tokens.high, by_size, 0)
    return PoolerBound(l2=safe_norm(used), l1=jnp.sum(used), linf=by_size[0])


def _bounds_of_parts(pooler, parameters, method, **sizes):
    return [
        rule_of(part, method)(part, {"params": parameters.get(f"poolers_{index}", {})}, **sizes)
        for index, part in enumerate(pooler.poolers)
    ]


def _hybrid(pooler, variables, *, method, **sizes):
    parameters = parameters_of(pooler, variables)
    check_finite("mixture", parameters["mixture"])
    return _mixture(parameters["mixture"], _bounds_of_parts(pooler, parameters, method, **sizes))


def _concat(pooler, variables, *, method, **sizes):
    """Changes of vectors side by side add in squares."""
    bounds = _bounds_of_parts(pooler, variables.get("params", {}), method, **sizes)
    return PoolerBound(
        l2=safe_norm(jnp.stack([jnp.asarray(bound.l2, float) for bound in bounds])),
        l1=safe_norm(jnp.stack([jnp.asarray(bound.l1, float) for bound in bounds])),
    )


def _bound_within(pooler, parameters, method, **sizes):
    inner = {"params": parameters.get("pooler", {})}
    return rule_of(pooler.pooler, method)(pooler.pooler, inner, **sizes)


def _projected(pooler, variables, *, method, **sizes):
    parameters = parameters_of(pooler, variables)
    kernel = parameters["dense"]["kernel"]
    check_finite("kernel", kernel)
    factor = spectral_norm(kernel)
    if pooler.activation is not None:
        factor = factor * activation_lipschitz(activation_from_name(pooler.activation))
    bound = _bound_within(pooler, parameters, method, **sizes)
    return PoolerBound(l2=factor * bound.l2, l1=factor * bound.l1)


def _normed(pooler, variables, *, method, **sizes):
    parameters = parameters_of(pooler, variables)
    scale = parameters["norm"]["scale"]
    check_finite("scale", scale)
    factor = norm_lipschitz("layer", scale, pooler.eps)
    bound = _bound_within(pooler, parameters, method, **sizes)
    return PoolerBound(l2=factor * bound.l2, l1=factor * bound.l1)


def _unit(pooler, variables, *, method, **sizes):
    raise NoBoundError(
        "pooler: expected one with a Lipschitz constant, got UnitPool, whose vectors turn arbitrarily "
        "fast near zero; bound the pooler inside of it"
    )


def _skip(pooler, variables, *, method, num_tokens, **sizes):
    """The bound for the tokens that are left; one without any does not change."""
    low, high = (jnp.maximum(end - pooler.num_tokens, 1) for end in (num_tokens.low, num_tokens.high))
    left = TokenRange(low, high)
    return _bound_within(pooler, variables.get("params", {}), method, num_tokens=left, **sizes)


def _layers(pooler, variables, *, method, dim, spread, **sizes):
    """A token of the mixture moves by at most the norm of the shares times what all layers move by."""
    parameters = parameters_of(pooler, variables)
    check_finite("mixture", parameters["mixture"])
    factor = safe_norm(jax.nn.softmax(parameters["mixture"]))
    spread = None if spread is None else factor * spread
    dim = dim // pooler.num_layers
    bound = _bound_within(pooler, parameters, method, dim=dim, spread=spread, **sizes)
    return PoolerBound(l2=factor * bound.l2, l1=factor * bound.l1)


@jax.jit
def _mixture(logits, bounds):
    shares = jax.nn.softmax(logits)

    def mixed(numbers):
        return jnp.sum(shares * jnp.stack([jnp.asarray(number, shares.dtype) for number in numbers]))

    linf = [bound.linf for bound in bounds]
    return PoolerBound(
        l2=mixed(bound.l2 for bound in bounds),
        l1=mixed(bound.l1 for bound in bounds),
        linf=None if any(number is None for number in linf) else mixed(linf),
    )


@jax.jit
def _largest_shares(logits, num_tokens):
    """Largest ``|softmax(logits_S)|``, Euclidean and largest entry, over sets S of num_tokens."""
    top_first = jnp.sort(logits, descending=True)
    shares = jnp.exp(top_first - jax.lax.stop_gradient(top_first[0]))
    count = jnp.arange(1, logits.shape[0] + 1)
    rest = jnp.clip(num_tokens - count, 0, logits.shape[0]).astype(int)

    def best_of(values):  # the `count` first of them and the `rest` last ones
        from_end = jnp.concatenate([jnp.zeros(1, values.dtype), jnp.cumsum(values[::-1])])
        return jnp.cumsum(values) + from_end[rest]

    # The largest weight is in the worst set, so that no sum vanishes.
    totals = best_of(shares)
    norms = jnp.sqrt(best_of(jnp.square(shares))) / totals
    return jnp.max(jnp.where(count <= num_tokens, norms, 0)), shares[0] / totals[0]


register_pooler(L2Pool)(l2_rule)
register_pooler(RollingPool)(rolling_rule)
register_pooler(MultiMaxPool)(multimax_rule)

# Rules of which the tight one differs by what it takes of the same parameters.
for _cls, _rule in {
    HybridPool: _hybrid,
    ConcatPool: _concat,
    ProjectedPool: _projected,
    NormPool: _normed,
    UnitPool: _unit,
    SkipPool: _skip,
    LayerMixPool: _layers,
    LatentAttentionPool: latent_rule,
    QueryAttentionPool: query_rule,
    LogSumExpPool: log_sum_exp_rule,
    EfficientProbingPool: efficient_probing_rule,
    PositionAttentionPool: position_attention_rule,
    GatedAttentionPool: gated_attention_rule,
}.items():
    register_pooler(_cls, tight=functools.partial(_rule, method="tight"))(
        functools.partial(_rule, method="sharp")
    )
