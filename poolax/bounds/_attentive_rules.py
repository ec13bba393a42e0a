"""Bounds of poolers with attention: tokens that query a dictionary, and queries over tokens.

Theory, sections 6.4 and 6.5; tight 8.10 and 8.15.
"""

import functools
import math

import jax
import jax.numpy as jnp

from poolax._activations import activation_from_name
from poolax._checks import check_all_finite, check_finite, is_concrete
from poolax._numerics import safe_norm, safe_sqrt
from poolax.bounds._activations import activation_lipschitz
from poolax.bounds._ffn import balance_of, two_layer_lipschitz
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
    logits, behind = keys @ jnp.swapaxes(query, -1, -2) / root, values @ out  # (H, m, d)
    if not tight:
        # Softmax is 1/2-Lipschitz; heads stand side by side in front of W_O, (H d_h, d).
        heads = spectral_norm(values) * spectral_norm(keys) * spectral_norm(query) / root
        moved = 0.5 * spectral_norm(out.reshape(-1, dim)) * safe_norm(heads)
    else:
        # The derivative is the covariance of values and logits, of all heads together.
        joined = spectral_norm(out.reshape(-1, dim)) * safe_norm(
            _half_diameter(logits) * _half_diameter(values)
        )
        moved = jnp.minimum(covariance_norm(logits, behind), joined)
    layers = [params[name]["kernel"] for name in ("mlp_in", "mlp_out")]
    mlp = two_layer_lipschitz(layers[0], layers[1], slope, tight=tight)
    if eps is not None:
        moved = moved * norm_lipschitz("layer", params["norm1"]["scale"], eps)
        mlp = mlp * norm_lipschitz("layer", params["norm2"]["scale"], eps)
    token = (1 + moved) * (1 + mlp)
    if tight and eps is None:
        token = jnp.minimum(token, _folded_token(logits, behind, layers, slope))
    return token


def _folded_token(logits, values, layers, slope):
    """The same with the MLP folded into the dictionary's values: norms of products, not products."""
    first, second = layers
    steady = jnp.eye(first.shape[0], dtype=first.dtype) + first @ second / 2
    # Any scale of hidden units proves a bound, as in two_layer_lipschitz. (mlp_dim,)
    balances = [jnp.ones(first.shape[1], first.dtype), balance_of(first, second)]
    varying = [
        (spectral_norm(first * scale[None]) + covariance_norm(logits, values @ (first * scale[None])))
        * spectral_norm(second / scale[:, None])
        for scale in balances
    ]
    kept = spectral_norm(steady) + covariance_norm(logits, values @ steady)
    return kept + (slope - 0.5) * functools.reduce(jnp.minimum, varying)


def covariance_norm(logits, values):
    r"""Bound of ``|sum_h Cov_h(b_h, a_h)|`` over all weights on rows ``(H, m, d)`` of each head.

    The smallest of three: half diameters of each head, multiplied and added; the root of the product of
    top eigenvalues of the matrices of ``max |D_h . D_g| / 4``, over differences of rows of ``alpha_h
    a_h`` and of ``b_h / alpha_h`` for any ``alpha_h > 0``; and, since ``diag(p) - p p^T`` is ``1/4`` of
    what subtracts the mean, and what has at most that norm,

        ``(|sum_h B_h^T A_h| + |[B_h / alpha_h]_h| |[alpha_h A_h]_h|) / 4``,

    ``A_h`` and ``B_h`` the rows without their mean.
    """
    apart = jnp.sum(_half_diameter(logits) * _half_diameter(values))
    left, right = (rows - jnp.mean(rows, axis=1, keepdims=True) for rows in (logits, values))
    by_range = _balanced(_half_diameter(logits), _half_diameter(values))
    ranges = _largest_ranges(left / by_range), _largest_ranges(right * by_range)
    together = safe_sqrt(ranges[0]) * safe_sqrt(ranges[1])
    by_norm = _balanced(spectral_norm(left), spectral_norm(right))
    stacked = [rows.reshape(-1, rows.shape[-1]) for rows in (left / by_norm, right * by_norm)]
    product = spectral_norm(stacked[0].T @ stacked[1])
    halved = (product + spectral_norm(stacked[0]) * spectral_norm(stacked[1])) / 4
    return functools.reduce(jnp.minimum, (apart, together, halved))


def _balanced(left, right):
    """``alpha_h``, the root of ``left_h / right_h`` where that is a number not far from one."""
    tiny = jnp.finfo(left.dtype).tiny
    ratio = jnp.maximum(left, tiny) / jnp.maximum(right, tiny)
    return jnp.sqrt(jnp.clip(jax.lax.stop_gradient(ratio), 1e-6, 1e6))[:, None, None]


def _largest_ranges(rows):
    """Bound of ``sum_h r_h(f)^2`` over units ``f``, half of the range of a head's rows along it."""

    def largest(products):  # of one pair of heads, (m, m)
        def from_row(row):
            moved = row[None] - products  # by row of the other head
            return jnp.max(jnp.max(moved, axis=-1) - jnp.min(moved, axis=-1))

        return jnp.max(jax.lax.map(from_row, products))

    products = jnp.einsum("hme,gne->hgmn", rows, rows)
    return spectral_norm(jax.vmap(jax.vmap(largest))(products) / 4)


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
    return PoolerBound(l2=factor * heads.l2, l1=factor * heads.l1, linf=factor * heads.linf)


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
    # The gradient by a token is no longer than that by all of them.
    return PoolerBound(l2=l2, l1=l1, linf=jnp.minimum(l1, l2))


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
