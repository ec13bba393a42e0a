"""The bound of each pooler, by its class."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from poolax._checks import check_finite, check_rank, is_concrete
from poolax._numerics import accumulation_dtype, safe_norm
from poolax.bounds._activations import ACTIVATIONS
from poolax.bounds._ffn import two_layer_lipschitz
from poolax.bounds._heads import kappa
from poolax.bounds._linalg import spectral_norm
from poolax.bounds._norms import norm_lipschitz
from poolax.pooling import (
    AveragePool,
    FirstPool,
    HybridPool,
    LastPool,
    LatentAttentionPool,
    MaxPool,
    Pooler,
    QueryAttentionPool,
    SumPool,
    WeightedAveragePool,
)
from poolax.records import PoolerBound

Rule = Callable[..., PoolerBound]


_RULES: dict[type[Pooler], Rule] = {}
# Where the tight bound differs.
_TIGHT_RULES: dict[type[Pooler], Rule] = {}


def rule_of(pooler: Pooler, method: str) -> Rule:
    """The rule of a pooler's own class: what a subclass changes may change the bound."""
    if type(pooler) not in _RULES:
        known = sorted(cls.__name__ for cls in _RULES)
        raise ValueError(
            f"pooler: expected one whose bound is known ({', '.join(known)}), got "
            f"{type(pooler).__name__}; register a bound with bounds.register_pooler"
        )
    rules = _RULES | _TIGHT_RULES if method == "tight" else _RULES
    return rules[type(pooler)]


def has_rule(pooler: object) -> bool:
    """Whether a bound of this pooler is known, and of all that it mixes."""
    parts = pooler.poolers if isinstance(pooler, HybridPool) else ()
    return type(pooler) in _RULES and all(map(has_rule, parts))


def register_pooler(cls: type[Pooler]) -> Callable[[Rule], Rule]:
    """Register the bound of a pooler of your own; a decorator.

    The decorated function is called with ``(pooler, variables, *, num_tokens, dim, spread)``, where
    ``num_tokens`` is always a :class:`TokenRange`, and returns a :class:`PoolerBound` that holds
    for every number of real tokens in it and for every mask: ``|d out| <= l2 |dZ|`` and ``|d out| <= l1
    max_i |dz_i|``. The rule is the class's own: subclasses do not inherit it.

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
        >>> from poolax import bounds
        >>> print(f"{bounds.pooler(HalfSumPool(), num_tokens=16, dim=8).l2:.2f}")
        2.00

    Reference:
        Theory, section 6.1.
    """

    def register(rule: Rule) -> Rule:
        _RULES[cls] = rule
        return rule

    return register


@register_pooler(FirstPool)
@register_pooler(LastPool)
def _one_token(pooler, variables, *, num_tokens, dim, spread):
    return PoolerBound(l2=1.0, l1=1.0, linf=1.0, reads_one_token=True)


def _fewest(num_tokens):
    """The smallest number of tokens, or one for which a share of one is still a number above zero.

    What holds for fewer tokens holds for more.
    """
    most = float(1 / jnp.finfo(jnp.result_type(float)).tiny)
    low = num_tokens.low
    if is_concrete(low) and jnp.ndim(low) == 0:
        return min(float(low), most)
    return jnp.minimum(low, most)


@register_pooler(AveragePool)
def _average(pooler, variables, *, num_tokens, dim, spread):
    low = _fewest(num_tokens)
    return PoolerBound(l2=1 / jnp.sqrt(low), l1=1.0, linf=1 / low)


@register_pooler(SumPool)
def _sum(pooler, variables, *, num_tokens, dim, spread):
    most = num_tokens.high
    if is_concrete(most) and jnp.ndim(most) == 0:
        # More than there are numbers for are infinitely many.
        most = math.inf if float(most) > float(jnp.finfo(jnp.result_type(float)).max) else most
    return PoolerBound(l2=jnp.sqrt(most), l1=most, linf=1.0)


@register_pooler(MaxPool)
def _max(pooler, variables, *, num_tokens, dim, spread):
    most_read = jnp.minimum(num_tokens.high, dim)
    return PoolerBound(l2=1.0, l1=jnp.sqrt(most_read), selects=True)


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
        l2, linf = _largest_shares(weights, num_tokens.low)
        return PoolerBound(l2=l2, l1=1.0, linf=linf)
    by_size = jnp.sort(jnp.abs(weights), descending=True)
    used = jnp.where(jnp.arange(size) < num_tokens.high, by_size, 0)
    return PoolerBound(l2=safe_norm(used), l1=jnp.sum(used), linf=by_size[0])


def _hybrid(pooler, variables, *, num_tokens, dim, spread, method):
    parameters = _parameters(pooler, variables)
    check_finite("mixture", parameters["mixture"])
    bounds = [
        rule_of(part, method)(
            part,
            {"params": parameters.get(f"poolers_{index}", {})},
            num_tokens=num_tokens,
            dim=dim,
            spread=spread,
        )
        for index, part in enumerate(pooler.poolers)
    ]

    return _mixture(parameters["mixture"], bounds)


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


_RULES[HybridPool] = functools.partial(_hybrid, method="sharp")
_TIGHT_RULES[HybridPool] = functools.partial(_hybrid, method="tight")


def _latent(pooler, variables, *, num_tokens, dim, spread, method):
    """Each token is mapped alone, then averaged; so the tokens' number is all that counts."""
    params = _parameters(pooler, variables)
    for name in ("latents", "query", "key", "value", "out"):
        check_finite(name, params[name])
    token = _latent_token(params, use_norm=pooler.use_norm, tight=method == "tight")
    low = jnp.asarray(_fewest(num_tokens), token.dtype)
    return PoolerBound(l2=token / jnp.sqrt(low), l1=token, linf=token / low)


@functools.partial(jax.jit, static_argnames=("use_norm", "tight"))
def _latent_token(params, *, use_norm, tight):
    """Lipschitz constant of what latent attention makes of a single token."""
    query, value = (jnp.moveaxis(params[name], 1, 0) for name in ("query", "value"))
    root = math.sqrt(query.shape[-1])
    keys = jnp.einsum("md,dhk->hmk", params["latents"], params["key"])
    values = params["latents"] @ value
    out, dim = params["out"], params["out"].shape[-1]
    if not tight:
        heads = spectral_norm(values) * spectral_norm(keys) * spectral_norm(query) / root
        moved = 0.5 * spectral_norm(out.reshape(-1, dim)) * safe_norm(heads)
    else:
        # The derivative is the covariance of values and logits, each at most half its diameter.
        moved = _half_diameter(keys @ jnp.swapaxes(query, -1, -2)) / root
        apart = jnp.sum(moved * _half_diameter(values @ out))
        joined = spectral_norm(out.reshape(-1, dim)) * safe_norm(moved * _half_diameter(values))
        moved = jnp.minimum(apart, joined)
    layers = [params[name]["kernel"] for name in ("mlp_in", "mlp_out")]
    slope = ACTIVATIONS["gelu (exact)"]
    mlp = two_layer_lipschitz(layers[0], layers[1], slope, tight=tight)
    if use_norm:
        moved = moved * norm_lipschitz("layer", params["norm1"]["scale"], 1e-6)
        mlp = mlp * norm_lipschitz("layer", params["norm2"]["scale"], 1e-6)
    return (1 + moved) * (1 + mlp)


_RULES[LatentAttentionPool] = functools.partial(_latent, method="sharp")
_TIGHT_RULES[LatentAttentionPool] = functools.partial(_latent, method="tight")


def _half_diameter(rows):
    """Half of the largest distance between two rows of each matrix."""
    distance = safe_norm(rows[..., :, None, :] - rows[..., None, :, :], axis=-1)
    return jnp.max(distance, axis=(-2, -1)) / 2


def _query(pooler, variables, *, num_tokens, dim, spread, method):
    """Slices of the output, each an average with a softmax of a linear function of the tokens."""
    if spread is None:
        raise ValueError(
            "spread: expected half of the largest distance between pooled tokens for "
            "QueryAttentionPool, got None"
        )
    params = _parameters(pooler, variables)
    for name in ("query", "key", "value"):
        check_finite(name, params[name])
    return _query_slices(params, num_tokens, spread, tight=method == "tight")


@functools.partial(jax.jit, static_argnames="tight")
def _query_slices(params, num_tokens, spread, *, tight):
    query, key, value = (params[name] for name in ("query", "key", "value"))
    direction = jnp.einsum("dhk,qhk->qhd", key, query) / math.sqrt(query.shape[-1])
    slope = safe_norm(direction, axis=-1) * jnp.where(jnp.asarray(num_tokens.high) > 1, spread, 0)
    value_norm = spectral_norm(jnp.moveaxis(value, 0, -2))
    mixing = jnp.hypot(1.0, slope)
    total = mixing
    if tight:
        share = 1 / (1 + (jnp.asarray(num_tokens.low) - 1) * jnp.exp(-2 * slope))
        total = kappa(slope, share)
    l2, l1 = safe_norm(value_norm * total), safe_norm(value_norm * mixing)
    # Coefficients of several slices do not add up to fixed coefficients of the tokens.
    return PoolerBound(l2=l2, l1=l1, linf=l2 if slope.size == 1 else None)


_RULES[QueryAttentionPool] = functools.partial(_query, method="sharp")
_TIGHT_RULES[QueryAttentionPool] = functools.partial(_query, method="tight")


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


def _parameters(pooler, variables):
    if not variables.get("params"):
        raise ValueError(
            f"variables: expected what {type(pooler).__name__}.init returned, got {variables!r}"
        )
    return variables["params"]
