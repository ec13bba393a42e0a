"""Bounds of poolers with attention: tokens that query a dictionary, and queries over tokens.

Theory, sections 6.4 and 6.5; tight 8.10 and 8.15.
"""

import functools
import math

import jax
import jax.numpy as jnp

from poolax._activations import activation_from_name
from poolax._checks import check_all_finite, check_finite, is_concrete
from poolax._numerics import safe_norm
from poolax.bounds._activations import activation_lipschitz
from poolax.bounds._ffn import two_layer_lipschitz
from poolax.bounds._heads import kappa
from poolax.bounds._linalg import spectral_norm
from poolax.bounds._norms import norm_lipschitz
from poolax.records import PoolerBound


def latent_rule(pooler, variables, *, num_tokens, dim, spread, method):
    """Each token is mapped alone, then averaged; so the tokens' number is all that counts."""
    params = parameters_of(pooler, variables)
    for name in ("latents", "query", "key", "value", "out"):
        check_finite(name, params[name])
    token = _latent_token(
        params,
        # The model's own: what the pooler applies is what is bounded.
        eps=pooler.epsilon if pooler.use_norm else None,
        slope=activation_lipschitz(pooler.activation),
        tight=method == "tight",
    )
    low = jnp.asarray(fewest_of(num_tokens), token.dtype)
    return PoolerBound(l2=token / jnp.sqrt(low), l1=token, linf=token / low)


@functools.partial(jax.jit, static_argnames=("eps", "slope", "tight"))
def _latent_token(params, *, eps, slope, tight):
    """Lipschitz constant of what latent attention makes of a single token; no norms without ``eps``."""
    query, value = (jnp.moveaxis(params[name], 1, 0) for name in ("query", "value"))  # (H, d, d_h)
    root = math.sqrt(query.shape[-1])
    keys = jnp.einsum("md,dhk->hmk", params["latents"], params["key"])  # (H, m, d_h)
    values = params["latents"] @ value  # (H, m, d_h)
    out, dim = params["out"], params["out"].shape[-1]
    if not tight:
        # Softmax is 1/2-Lipschitz; heads stand side by side in front of W_O, (H d_h, d).
        heads = spectral_norm(values) * spectral_norm(keys) * spectral_norm(query) / root
        moved = 0.5 * spectral_norm(out.reshape(-1, dim)) * safe_norm(heads)
    else:
        # The derivative is the covariance of values and logits, each at most half its diameter.
        moved = _half_diameter(keys @ jnp.swapaxes(query, -1, -2)) / root
        apart = jnp.sum(moved * _half_diameter(values @ out))
        joined = spectral_norm(out.reshape(-1, dim)) * safe_norm(moved * _half_diameter(values))
        moved = jnp.minimum(apart, joined)
    layers = [params[name]["kernel"] for name in ("mlp_in", "mlp_out")]
    mlp = two_layer_lipschitz(layers[0], layers[1], slope, tight=tight)
    if eps is not None:
        moved = moved * norm_lipschitz("layer", params["norm1"]["scale"], eps)
        mlp = mlp * norm_lipschitz("layer", params["norm2"]["scale"], eps)
    return (1 + moved) * (1 + mlp)


def _half_diameter(rows):
    """Half of the largest distance between two rows of each matrix."""
    distance = safe_norm(rows[..., :, None, :] - rows[..., None, :, :], axis=-1)  # (H, m, m)
    return jnp.max(distance, axis=(-2, -1)) / 2


def query_rule(pooler, variables, *, num_tokens, dim, spread, method):
    """Slices of the output, each an average with a softmax of a linear function of the tokens."""
    spread = spread_of(pooler, spread)
    params, tight = parameters_of(pooler, variables), method == "tight"
    if pooler.full:
        head = params["head"]
        check_all_finite("head", head)
        slope = activation_lipschitz(activation_from_name(pooler.activation))
        sizes = {"eps": pooler.norm_eps, "slope": slope, "tight": tight}
        return _query_head(head, num_tokens, spread, **sizes)
    for name in ("query", "key", "value"):
        check_finite(name, params[name])
    return _query_slices(params, num_tokens, spread, tight=tight)


@functools.partial(jax.jit, static_argnames=("eps", "slope", "tight"))
def _query_head(head, num_tokens, spread, *, eps, slope, tight):
    """The heads side by side as slices of one query, then what follows them by its own constant."""
    query = jnp.einsum("d,dhk->hk", head["probe"], head["query"]["kernel"]) + head["query"]["bias"]
    slices = {
        "query": query[None],
        "key": head["key"]["kernel"],
        "value": head["value"]["kernel"][:, None],
    }
    heads = _query_slices(slices, num_tokens, spread, tight=tight)
    out = head["out"]["kernel"]
    layers = [head[name]["kernel"] for name in ("mlp_in", "mlp_out")]
    mlp = two_layer_lipschitz(layers[0], layers[1], slope, tight=tight)
    behind = 1 + mlp * norm_lipschitz("layer", head["norm"]["scale"], eps)
    factor = spectral_norm(out.reshape(-1, out.shape[-1])) * behind
    return PoolerBound(l2=factor * heads.l2, l1=factor * heads.l1, linf=None)


def _query_slices(params, num_tokens, spread, *, tight):
    query, key, value = (params[name] for name in ("query", "key", "value"))
    # Slice (q, h) weighs tokens by softmax(Z g), g = W_K^h q_h / sqrt(d_h).
    direction = jnp.einsum("dhk,qhk->qhd", key, query) / math.sqrt(query.shape[-1])  # (Q, H, d)
    return slices_bound(direction, jnp.moveaxis(value, 0, -2), num_tokens, spread, tight=tight)


@functools.partial(jax.jit, static_argnames="tight")
def slices_bound(directions, values, num_tokens, spread, *, tight, position_slope=0.0):
    """Bound of slices that average tokens with the softmax of their products with a direction.

    Args:
        directions: The gradient ``g`` of each slice's logits, shape ``(*slices, d)``.
        values: What each slice is projected by, shape ``(*slices, d, d_v)``.
        num_tokens: Numbers of tokens.
        spread: Half of the largest distance between tokens.
        tight: Whether to count how much attention a token can have.
        position_slope: What each position adds to logits, of each slice.
    """
    slope = safe_norm(directions, axis=-1) * apart(num_tokens, spread)
    value_norm = spectral_norm(values)
    mixing = jnp.hypot(1.0, slope)
    total = mixing
    if tight:
        total = kappa(slope, largest_share(fewest_of(num_tokens), 2 * slope, position_slope))
    l2, l1 = safe_norm(value_norm * total), safe_norm(value_norm * mixing)
    # Coefficients of several slices do not add up to fixed coefficients of the tokens.
    return PoolerBound(l2=l2, l1=l1, linf=l2 if slope.size == 1 else None)


def spread_of(pooler, spread):
    """The spread that a pooler's bound needs."""
    if spread is None:
        raise ValueError(
            "spread: expected half of the largest distance between pooled tokens for "
            f"{type(pooler).__name__}, got None"
        )
    return spread


def apart(num_tokens, spread):
    """The spread of as many tokens: none of a single one."""
    return jnp.where(jnp.asarray(num_tokens.high) > 1, spread, 0)


def largest_share(num_tokens, logit_range, position_slope=0.0):
    """The most attention that one of ``num_tokens`` has where logits differ by at most ``logit_range``.

    Beside what positions add to them, which changes by ``position_slope`` from token to token: the
    others of the best-placed token then count ``x + ... + x^(n-1)``, ``x = exp(-|slope|)``.
    """
    others = jnp.asarray(num_tokens, float) - 1
    fall = jnp.abs(jnp.asarray(position_slope, float))
    steep = fall > jnp.finfo(fall.dtype).tiny
    safe = jnp.where(steep, fall, 1)
    counted = jnp.exp(-safe) * jnp.expm1(-others * safe) / jnp.expm1(-safe)
    return 1 / (1 + jnp.where(steep, counted, others) * jnp.exp(-logit_range))


def most_of(num_tokens):
    """The largest number of tokens; more than there are numbers for are infinitely many."""
    most = num_tokens.high
    if is_concrete(most) and jnp.ndim(most) == 0:
        return math.inf if float(most) > float(jnp.finfo(jnp.result_type(float)).max) else most
    return most


def fewest_of(num_tokens):
    """The smallest number of tokens, or one for which a share of one is still a number above zero.

    What holds for fewer tokens holds for more.
    """
    most = float(1 / jnp.finfo(jnp.result_type(float)).tiny)
    low = num_tokens.low
    if is_concrete(low) and jnp.ndim(low) == 0:
        return min(float(low), most)
    return jnp.minimum(low, most)


def parameters_of(pooler, variables):
    if not variables.get("params"):
        raise ValueError(
            f"variables: expected what {type(pooler).__name__}.init returned, got {variables!r}"
        )
    return variables["params"]
