"""Bounds of further poolers: by entry, over windows, and those of probes on frozen models.

Theory, sections 6.8 to 6.13.
"""

import functools
import math

import jax
import jax.numpy as jnp

from poolax._checks import check_all_finite
from poolax._numerics import safe_norm
from poolax.bounds._attentive_rules import (
    apart,
    fewest_of,
    largest_share,
    most_of,
    parameters_of,
    slices_bound,
    spread_of,
)
from poolax.bounds._linalg import spectral_norm
from poolax.records import PoolerBound

# Largest slope of the logistic function.
_SIGMOID_SLOPE = 0.25
# Of the shares of a heavy token.
_NUM_INTERVALS = 128


def l2_rule(pooler, variables, *, num_tokens, dim, spread):
    """A norm of each entry, whose gradient is one long."""
    return PoolerBound(l2=1.0, l1=jnp.sqrt(most_of(num_tokens)), linf=1.0)


def log_sum_exp_rule(pooler, variables, *, num_tokens, dim, spread, method):
    """Each entry moves as an average with softmax weights does."""
    params = parameters_of(pooler, variables)
    check_all_finite("log_temperature", params)
    if method == "sharp" or spread is None:
        most = jnp.minimum(most_of(num_tokens), dim)
        return PoolerBound(l2=1.0, l1=jnp.sqrt(most), linf=1.0)
    logit_range = 2 * apart(num_tokens, spread) / pooler.temperature_of(params["log_temperature"])
    least = jnp.exp(-logit_range)
    # n times the largest share of n tokens.
    together = 1 / (least + (1 - least) / most_of(num_tokens))
    l2 = jnp.sqrt(largest_share(fewest_of(num_tokens), logit_range))
    return PoolerBound(l2=l2, l1=jnp.sqrt(jnp.minimum(together, dim)), linf=l2)


def efficient_probing_rule(pooler, variables, *, num_tokens, dim, spread, method):
    """Slices as those of query attention, along the queries themselves."""
    spread = spread_of(pooler, spread)
    params = parameters_of(pooler, variables)
    check_all_finite("pooler", params)
    return _probe_slices(params, num_tokens, spread, tight=method == "tight")


def position_attention_rule(pooler, variables, *, num_tokens, dim, spread, method):
    """As efficient probing: what positions add to logits does not depend on tokens."""
    spread = spread_of(pooler, spread)
    params = parameters_of(pooler, variables)
    check_all_finite("pooler", params)
    slope = params["slope"]
    return _probe_slices(params, num_tokens, spread, tight=method == "tight", position_slope=slope)


def _probe_slices(params, num_tokens, spread, **options):
    query, values = params["query"], jnp.moveaxis(params["value"], 1, 0)  # (M, d), (M, d, d / M)
    return slices_bound(query / math.sqrt(query.shape[-1]), values, num_tokens, spread, **options)


def gated_attention_rule(pooler, variables, *, num_tokens, dim, spread, method):
    """An average with weights that each token's own score gives."""
    spread = spread_of(pooler, spread)
    params = parameters_of(pooler, variables)
    check_all_finite("pooler", params)
    return _gated(params, num_tokens, spread, tight=method == "tight")


@functools.partial(jax.jit, static_argnames="tight")
def _gated(params, num_tokens, spread, *, tight):
    hidden, gate, score = (params[name] for name in ("hidden", "gate", "score"))
    slopes = jnp.stack([hidden, _SIGMOID_SLOPE * gate], axis=1)  # (d, 2, L)
    steepest = safe_norm(score) * spectral_norm(slopes.reshape(len(hidden), -1))
    spread = apart(num_tokens, spread)
    if not tight:
        moved = 1 + steepest * spread
        return PoolerBound(l2=moved, l1=moved, linf=moved)
    by_unit = jnp.sum(jnp.abs(score) * safe_norm(slopes, axis=(0, 1)))
    slope = jnp.minimum(steepest, by_unit) * spread
    share = largest_share(fewest_of(num_tokens), 2 * jnp.minimum(slope, jnp.sum(jnp.abs(score))))
    l2 = _gated_total(slope, share)
    return PoolerBound(l2=l2, l1=1 + slope, linf=l2)


def _gated_total(slope, share):
    """Largest ``sqrt(p) (1 + sqrt(v) slope)``, ``v`` a variance on [-1, 1], ``p <= share`` an atom.

    An atom of ``p >= 1/2`` leaves ``v <= 4 p (1 - p)``, which falls: on each of many intervals the
    root is taken at the upper end and the variance at the lower one.
    """
    low = jnp.linspace(0.5, 1.0, _NUM_INTERVALS + 1)[:-1]
    high = jnp.minimum(low + 0.5 / _NUM_INTERVALS, share)
    heavy = jnp.sqrt(high) * (1 + jnp.sqrt(4 * low * (1 - low)) * slope)
    light = jnp.sqrt(jnp.minimum(share, 0.5)) * (1 + slope)
    return jnp.maximum(light, jnp.max(jnp.where(low < share, heavy, 0)))


def multimax_rule(pooler, variables, *, num_tokens, dim, spread):
    """Maxima of the tokens' products with directions, which are ``|U|`` apart."""
    directions = parameters_of(pooler, variables)["directions"]
    check_all_finite("directions", directions)
    norm = spectral_norm(directions)
    most_read = jnp.minimum(most_of(num_tokens), directions.shape[-1])
    return PoolerBound(l2=norm, l1=jnp.minimum(jnp.sqrt(most_read) * norm, safe_norm(directions)))


def rolling_rule(pooler, variables, *, num_tokens, dim, spread):
    """Each entry is that of the mean of a window."""
    window = jnp.minimum(pooler.window, fewest_of(num_tokens))
    apart_windows = jnp.maximum(most_of(num_tokens) / pooler.window, 1)
    return PoolerBound(l2=1 / jnp.sqrt(window), l1=jnp.sqrt(jnp.minimum(apart_windows, dim)))
