"""How the heads of an attention layer combine to one bound."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._numerics import safe_norm, safe_sqrt
from poolax._records import AttentionBound
from poolax.attention import L2, DotProduct, Kind
from poolax.bounds._heads import Heads, Setting
from poolax.bounds._kernels import Kernels
from poolax.bounds._linalg import product_norm, round_up, spectral_norm, top_eigenpair

Combination = Callable[[Float[Array, " H"]], Float[Array, ""]]


def combination(kernels: Kernels, kind: Kind, *, tight: bool) -> Combination:
    r"""How constants ``L_h`` of the heads become one of the layer; increasing in every ``L_h``.

    The layer is ``sum_h z_h F_h``. Heads without their values have ``F_h = W_V^h W_O^h``; where the
    kind normalises values or sends them through its metric they belong to the head, and ``F_h =
    W_O^h``.

    Sharp: ``min(|W_O| sqrt(sum_h (|W_V^h| L_h)^2), sum_h |F_h| L_h)``, for L2 attention its first term.
    Tight: for any ``alpha_h > 0``, by Cauchy-Schwarz over heads,

        ``|sum_h dz_h F_h| <= |[F_h / alpha_h]_h| sqrt(sum_h (alpha_h L_h)^2)``,

    the matrices ``F_h / alpha_h`` one below the other. ``alpha_h = |W_V^h|`` is never above the first
    sharp term, since ``F_h / alpha_h = (W_V^h / |W_V^h|) W_O^h``; ``alpha_h^2 = |F_h| / L_h`` never
    above ``sum_h |F_h| L_h``, since ``|sum_h F_h^T F_h / alpha_h^2| <= sum_h |F_h| L_h``. The
    smaller counts.
    """
    values_apart = isinstance(kind, DotProduct) or kind.plain_values
    factors = kernels.value if values_apart else None
    value_norm = spectral_norm(kernels.value) if values_apart else jnp.ones(kernels.out.shape[0])
    out = jnp.swapaxes(kernels.out, -1, -2)
    factor_norm = product_norm(kernels.value, out) if values_apart else spectral_norm(kernels.out)
    out_norm = _joined_norm(kernels.out)

    def sharp(heads):
        jointly = out_norm * safe_norm(value_norm * heads)
        if isinstance(kind, L2) and not kind.plain_values:
            return jointly
        return jnp.minimum(jointly, jnp.sum(factor_norm * heads))

    if not tight:
        return sharp
    per_value = _stacked_norm(factors, kernels.out, _inverse(jnp.square(value_norm)))

    def combine(heads):
        by_value = per_value * safe_norm(value_norm * heads)
        stacked = _stacked_norm(factors, kernels.out, heads * _inverse(factor_norm))
        by_factor = stacked * safe_sqrt(jnp.sum(factor_norm * heads))
        return jnp.minimum(jnp.minimum(by_value, by_factor), sharp(heads))

    return combine


def assemble(heads: Heads, combine: Combination, setting: Setting) -> AttentionBound:
    """All bounds of a layer from the constants of its heads."""
    own, mixing = combine(heads.own), combine(heads.mixing)
    sequence = combine(heads.sequence)
    per_token, mixing_total = combine(heads.per_token), mixing
    if setting.tight:
        mixing_total = jnp.minimum(mixing, combine(heads.mixing_total))
        sequence = jnp.minimum(sequence, jnp.sqrt(setting.most) * mixing_total + own)
        per_token = jnp.minimum(per_token, mixing_total + own)
    method = "tight" if setting.tight else "sharp"
    return AttentionBound(
        sequence=round_up(sequence),
        per_token=round_up(per_token),
        mixing=round_up(mixing_total),
        own=round_up(own),
        mixing_largest=round_up(mixing),
        method=method,
        source=f"poolax, {method} attention bound",
        pattern=setting.pattern,
    )


def _joined_norm(out):
    """``|W_O|`` of all heads together, from kernels (H, d_h, d)."""
    return spectral_norm(out.reshape(-1, out.shape[-1]))


def _inverse(x):
    return jnp.where(x > 0, 1 / jnp.where(x > 0, x, 1), 0)


@jax.jit
def _stacked_norm(values, out, weights):
    """Norm of the matrices ``sqrt(weights_h) values_h out_h`` one below the other.

    The top eigenvector of their Gram matrix is held fixed under differentiation, which gives the exact
    derivative, since the form is stationary there. What an approximate vector of a large matrix lacks
    is added.
    """
    inner = jnp.swapaxes(out, -1, -2)
    if values is not None:
        inner = inner @ (jnp.swapaxes(values, -1, -2) @ values)
    gram = jax.lax.stop_gradient(jnp.einsum("h,hdk,hke->de", weights, inner, out))
    scale = jnp.max(jnp.abs(gram))
    scale = jnp.where(scale > 0, scale, 1)
    value, vector = top_eigenpair(gram / scale)
    rows = jnp.einsum("hke,e->hk", out, vector)
    if values is not None:
        rows = jnp.einsum("hdk,hk->hd", values, rows)
    norm = safe_norm(safe_sqrt(weights)[:, None] * rows)
    return norm + jax.lax.stop_gradient(jnp.maximum(jnp.sqrt(scale * value) - norm, 0))
