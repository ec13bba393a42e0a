"""Bounds of the blocks of an attention layer's Jacobian at a given input.

Block ``J_ik`` is the derivative of output token ``i`` with respect to input token ``k``. In the
convention that changes are rows, with attention ``P``, values ``v``, their averages ``m_i = sum_k P_ik
v_k`` and logits ``l``,

    ``J_ik = sum_h P_ik [dv_k/dx_k + dl_ik/dx_k (v_k - m_i)^T] W_O  +  [i = k] C_i``,
    ``C_i = sum_h sum_k P_ik dl_ik/dx_i (v_k - m_i)^T W_O``.

Values are linear in the tokens but for their normalisation, so that the first term is a combination of
the fixed matrices ``M_h = W_V^h W_O^h``; the second has rank ``H``. Nothing here depends on the number
of tokens times the width: no Jacobian is formed.

Theory, section 5.3.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._decompositions import eigenvectors
from poolax._numerics import safe_norm, safe_sqrt
from poolax.attention import Kind
from poolax.bounds._kernels import Kernels
from poolax.bounds._linalg import spectral_norm
from poolax.bounds._local_parts import AttentionParts, Turn, attention_parts


def attention_blocks(
    kind: Kind,
    kernels: Kernels,
    x: Float[Array, "n d"],
    weights: Float[Array, "H n n"],
    *,
    value_bias: Float[Array, "H d_v"] | None = None,
    turn: Turn | None = None,
    after: Callable[[Array, Float[Array, "d d"]], Float[Array, "d d"]] | None = None,
) -> Float[Array, "n n"]:
    r"""Norms, or bounds of the norms, of the blocks of the Jacobian of ``attention(x)``.

    Blocks on the diagonal are formed and their norms exact. Off the diagonal ``|J_ik|`` is at most the
    norm of its combination of the ``M_h``, see :func:`_combination_norms`, and that of its part of rank
    ``H``, which is exact from two Gram matrices ``H`` by ``H``.

    Args:
        kind: Kind of attention.
        kernels: Checked kernels.
        x: Tokens, shape ``(n, d)``.
        weights: Attention at ``x``, shape ``(H, n, n)``.
        value_bias: Bias of the values of each head, which normalised values see.
        turn: Rotation of queries and keys by position, linear; ``None`` for none.
        after: Maps a token's index and its block on the diagonal to what residual connection and norms
            make of it.

    Returns:
        Shape ``(n, n)``, output token first; never below the blocks' norms but for rounding.
    """
    options = {"value_bias": value_bias, "turn": turn, "after": after}
    norms, diagonal = blocks_apart(kind, kernels, x, weights, **options)
    return jnp.where(jnp.eye(x.shape[0], dtype=bool), diagonal[:, None], norms)


def blocks_apart(
    kind: Kind,
    kernels: Kernels,
    x: Float[Array, "n d"],
    weights: Float[Array, "H n n"],
    *,
    value_bias: Float[Array, "H d_v"] | None = None,
    turn: Turn | None = None,
    after: Callable[[Array, Float[Array, "d d"]], Float[Array, "*s d d"]] | None = None,
) -> tuple[Float[Array, "n n"], Float[Array, "n *s"]]:
    """Of :func:`attention_blocks` what stands off the diagonal, and what ``after`` makes of it there.

    ``after`` may make several matrices of a block, whose norms are all taken.
    """
    terms = _Terms.of(kind, kernels, x, weights, value_bias, turn)
    linear = _combination_norms(terms.maps, terms.rates)

    def row(index):
        coefficients, left, right, own = terms.at(index)
        norms = linear[index] + _rank_norms(coefficients, left, right)
        # The token as a key of its own query, and as the query: J_ii, (d, d).
        mine = jnp.einsum("h,hde->de", terms.rates[index, index], terms.maps)
        mine = mine + jnp.einsum("h,hd,he->de", coefficients[index], left[index], right[index])
        block = own + mine
        block = block if after is None else after(index, block)
        return norms, spectral_norm(block)

    return jax.lax.map(row, jnp.arange(x.shape[0]))


def blocks_of_row(
    kind: Kind,
    kernels: Kernels,
    x: Float[Array, "n d"],
    weights: Float[Array, "H n n"],
    *,
    value_bias: Float[Array, "H d_v"] | None = None,
    turn: Turn | None = None,
) -> Callable[[Any], Float[Array, "n d d"]]:
    """The blocks themselves that one output token has, by its index, for layers small enough to form.

    Arguments are those of :func:`attention_blocks`.
    """
    terms = _Terms.of(kind, kernels, x, weights, value_bias, turn)

    def row(index):
        coefficients, left, right, own = terms.at(index)
        linear = jnp.einsum("kh,hde->kde", terms.rates[index], terms.maps)
        through_logits = jnp.einsum("kh,khd,khe->kde", coefficients, left, right)
        return (linear + through_logits).at[index].add(own)

    return row


@dataclasses.dataclass(frozen=True)
class _Terms:
    """What blocks are made of.

    Attributes:
        parts: Derivatives of logits and values.
        weights: Attention.
        out: Kernels of the output.
        maps: ``M_h``.
        rates: Attention times what each value's derivative is multiplied with.
    """

    parts: AttentionParts
    weights: Float[Array, "H n n"]
    out: Float[Array, "H d_v d"]
    maps: Float[Array, "H d d"]
    rates: Float[Array, "n n H"]

    @classmethod
    def of(cls, kind, kernels, x, weights, value_bias, turn) -> "_Terms":
        """Those of a layer at ``x``."""
        parts = attention_parts(kind, kernels, x, value_bias, turn)
        rates = jnp.einsum("hik,kh->ikh", weights, parts.rate)
        return cls(parts, weights, kernels.out, parts.value_kernel @ kernels.out, rates)

    def at(self, index):
        """Of one output token: coefficients and both sides of terms of rank one, and its own part."""
        parts, out = self.parts, self.out
        attention = self.weights[:, index]  # (H, n)
        centre = jnp.einsum("hk,khv->hv", attention, parts.value)  # m_i
        moved = parts.value - centre[None]  # (n, H, d_v)
        left = parts.key_gradient(index)  # (n, H, d)
        right = jnp.einsum("khv,hvd->khd", moved, out)  # (n, H, d)
        coefficients = attention.T  # (n, H)
        if parts.normalised is not None:
            # What normalising takes away of a value's own direction: as many terms of rank one again.
            along, lost = parts.normalised
            left = jnp.concatenate([left, -along], axis=1)
            right = jnp.concatenate([right, jnp.einsum("khv,hvd->khd", lost, out)], axis=1)
            coefficients = jnp.concatenate([coefficients, self.rates[index]], axis=1)
        return coefficients, left, right, parts.own_block(index, attention, moved, out)


def _rank_norms(coefficients, left, right):
    """Norms of ``sum_h c_h left_h right_h^T``, from the Gram matrices of both sides.

    The singular vectors are held fixed under differentiation, which gives the exact derivative.
    """
    fixed = jax.lax.stop_gradient((coefficients[..., None] * left, right))
    # |L^T R| is the root of the top eigenvalue of (L L^T)^(1/2) (R R^T) (L L^T)^(1/2), H by H.
    left_gram, right_gram = (jnp.einsum("nhd,ngd->nhg", side, side) for side in fixed)
    scale = jnp.maximum(jnp.max(jnp.abs(left_gram), axis=(1, 2)), jnp.finfo(left.dtype).tiny)
    values, vectors = eigenvectors(left_gram / scale[:, None, None])
    root = vectors * jnp.sqrt(jnp.maximum(values, 0))[:, None, :]
    top = eigenvectors(jnp.swapaxes(root, 1, 2) @ right_gram @ root)[1][..., -1]
    # Its singular vectors, (n, d): the right one from the top eigenvector, the left one from that.
    v = _unit(jnp.einsum("nhd,nhg,ng->nd", fixed[1], root, top))
    u = _unit(jnp.einsum("nhd,nhe,ne->nd", fixed[0], fixed[1], v))
    along = jnp.einsum("nhd,nd->nh", left, u) * jnp.einsum("nhd,nd->nh", right, v)
    return jnp.abs(jnp.sum(coefficients * along, axis=-1))


def _unit(rows):
    length = safe_norm(rows, axis=-1)[..., None]
    return rows / jnp.where(length > 0, length, 1)


def _combination_norms(maps, rates):
    r"""Bounds of ``|sum_h c_h M_h|`` for all coefficients ``rates (n, n, H)``, at least 0.

    The smallest of: ``sum_h c_h |M_h|``; ``sqrt(lambda sum_h c_h^2 |M_h|)`` with ``lambda`` the top
    eigenvalue of ``sum_h M_h^T M_h / |M_h|``, or of ``sum_h M_h M_h^T / |M_h|`` (Cauchy-Schwarz over
    heads, by columns or rows); and, with an anchor ``q`` and ``c = t q + r``, ``t |sum_h q_h M_h|``
    plus any of these for ``|r|``. The anchors are the mean coefficients of each query and of each
    key.
    """
    size = spectral_norm(maps)  # |M_h|, (H,)
    inverse = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)
    by_column = spectral_norm(jnp.einsum("h,hde,hdf->ef", inverse, maps, maps))
    by_row = spectral_norm(jnp.einsum("h,hde,hfe->df", inverse, maps, maps))
    stacked = jnp.minimum(by_column, by_row)

    def plain(coefficients):
        apart = coefficients @ size
        joined = safe_sqrt(stacked * (jnp.square(coefficients) @ size))
        return jnp.minimum(apart, joined)

    def anchored(anchors, axis):
        norms = jax.lax.map(
            lambda anchor: spectral_norm(jnp.einsum("h,hde->de", anchor, maps)), anchors
        )
        anchors, norms = jnp.expand_dims(anchors, axis), jnp.expand_dims(norms, axis)
        square = jnp.sum(jnp.square(anchors), axis=-1)
        # t, the projection of each c on its anchor: (n, n).
        share = jnp.sum(anchors * rates, axis=-1) / jnp.where(square > 0, square, 1)
        return share * norms + plain(jnp.abs(rates - share[..., None] * anchors))

    by_query = anchored(jnp.mean(rates, axis=1), 1)
    by_key = anchored(jnp.mean(rates, axis=0), 0)
    return jnp.minimum(plain(rates), jnp.minimum(by_query, by_key))
