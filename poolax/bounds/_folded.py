"""What follows the attention of a one-block model, folded into its output matrix.

Theory, section 8.17.
"""

import dataclasses

import jax
import jax.numpy as jnp

from poolax._layer_specs import NormSpec
from poolax._numerics import accumulation_dtype, divisor, safe_norm
from poolax.bounds._linalg import spectral_norm
from poolax.bounds._norms import normalised_domain
from poolax.bounds._propagation import attention_domain, residual
from poolax.records import Domain


def folded(bound_attention, params, slope):
    r"""Bounds of attention and feed-forward layer, with what follows the attention folded in.

    With ``C = I - 1 1^T / d``, norms ``x C diag(scale)`` up to ``d / (d - 1)``, and slopes of the
    activation ``diag(s) = I / 2 + E``, ``|E| <= slope - 1/2``, all that follows ``x + MHA(x)`` is

        ``C diag(scale_1) (I + W / 2) C diag(scale_2) + C diag(scale_1) W E C diag(scale_2)``,

    the sum of two known matrices, the second one times a matrix of known norm. Both stand behind
    ``W_O`` in a bound of the attention. The results are given as multiples of what the residual, which
    the same two matrices follow, lets through.
    """
    steady, varying, _ = _behind_attention(params, slope)
    # What the residual lets through; at least one, since it becomes 1 + ffn.
    passed = jnp.maximum(spectral_norm(steady) + spectral_norm(varying), 1)
    attention, out = params["attention"], params["attention"]["out"]
    behind = [
        bound_attention({**attention, "out": {**out, "kernel": out["kernel"] @ matrix}})
        for matrix in (steady, varying)
    ]
    joined = jax.tree.map(lambda *parts: sum(parts) / passed, *behind)
    # Slopes of the activation are a token's own, so that C behind them mixes entries of many tokens.
    entries = joined.mixing_entries + behind[1].mixing / passed
    return dataclasses.replace(joined, mixing_entries=None, folded_entries=entries), passed - 1


def _behind_attention(params, slope):
    """The two matrices, relative to the largest scales of both norms, and the product of these."""
    arrays = params["ffn"]["kernel"], params["norm1"]["scale"], params["norm2"]["scale"]
    kernel, first, second = (jnp.asarray(array, accumulation_dtype(*arrays)) for array in arrays)
    # Relative to the largest scales, whose product may be below all numbers.
    largest = [divisor(jnp.max(jnp.abs(scale))) for scale in (first, second)]
    first, second = first / largest[0], second / largest[1]
    entering = _centred(jnp.diag(first)).T  # C diag(scale_1), (d, d)
    inner = entering @ kernel  # C diag(scale_1) W
    steady = _centred(entering + inner / 2) * second[None]
    # E and C diag(scale_2) behind it by their norms: |E| <= slope - 1/2, |C| <= 1.
    varying = (slope - 0.5) * jnp.max(jnp.abs(second)) * inner
    return steady, varying, largest[0] * largest[1]


def _centred(matrix):
    """``matrix C``: rows without their mean."""
    return matrix - jnp.mean(matrix, axis=-1, keepdims=True)


def spread_of_pooled(model, params, radius, spread, slope, tight):
    """Spread of the block's output, where a domain of its input is known."""
    if radius is None:
        return None
    domain = Domain(jnp.asarray(radius), jnp.asarray(radius if spread is None else spread))
    kernel, bias = jnp.asarray(params["ffn"]["kernel"]), params["ffn"].get("bias")
    # The domain is followed through the block: attention, norm, feed-forward layer, norm.
    entering = domain
    reach = attention_domain(model.attention, params["attention"], domain, tight=tight)
    norms = [
        NormSpec("center", params[name]["scale"], params[name]["bias"]) for name in ("norm1", "norm2")
    ]
    domain = normalised_domain(norms[0], residual(domain, reach))
    factor = slope * spectral_norm(kernel)
    moved = Domain(
        radius=factor * domain.radius + (0.0 if bias is None else slope * safe_norm(bias)),
        spread=factor * domain.spread,
    )
    through_parts = normalised_domain(norms[1], residual(domain, moved)).spread
    if not tight:
        return through_parts
    # Two tokens of what comes in are as far apart behind both matrices, averages of them likewise.
    *behind, size = _behind_attention(params, slope)
    out = params["attention"]["out"]
    reached = [
        attention_domain(
            model.attention,
            params["attention"] | {"out": {"kernel": out["kernel"] @ matrix}},
            entering,
            tight=True,
        ).spread
        + spectral_norm(matrix) * entering.spread
        for matrix in behind
    ]
    width = kernel.shape[0]
    return jnp.minimum(through_parts, size * (width / (width - 1)) ** 2 * sum(reached))
