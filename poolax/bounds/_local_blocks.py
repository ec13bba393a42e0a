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
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._decompositions import eigenvectors
from poolax._numerics import safe_norm, safe_sqrt
from poolax.attention import L2, Cosine, Kind
from poolax.bounds._kernels import Kernels
from poolax.bounds._linalg import spectral_norm

Turn = Callable[[Float[Array, "n H d_h"]], Float[Array, "n H d_h"]]


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
    turn = (lambda rows: rows) if turn is None else turn
    parts = _parts(kind, kernels, x, value_bias, turn)
    out = kernels.out
    maps = parts.value_kernel @ out  # M_h, (H, d, d)
    rates = jnp.einsum("hik,kh->ikh", weights, parts.rate)  # (n, n, H)
    linear = _combination_norms(maps, rates)

    def row(index):
        attention = weights[:, index]  # (H, n)
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
            coefficients = jnp.concatenate([coefficients, rates[index]], axis=1)
        norms = linear[index] + _rank_norms(coefficients, left, right)
        own = parts.own_block(index, attention, moved, out)
        # The token as a key of its own query, and as the query: J_ii, (d, d).
        mine = jnp.einsum("h,hde->de", rates[index, index], maps)
        mine = mine + jnp.einsum("h,hd,he->de", coefficients[index], left[index], right[index])
        block = own + mine
        block = block if after is None else after(index, block)
        return norms, spectral_norm(block)

    norms, diagonal = jax.lax.map(row, jnp.arange(x.shape[0]))
    return jnp.where(jnp.eye(x.shape[0], dtype=bool), diagonal[:, None], norms)


@dataclasses.dataclass(frozen=True)
class _Parts:
    value: Float[Array, "n H d_v"]
    value_kernel: Float[Array, "H d d_v"]
    rate: Float[Array, "n H"]
    key_gradient: Callable[[Any], Float[Array, "n H d"]]
    own_block: Callable[..., Float[Array, "d d"]]
    normalised: tuple[Float[Array, "n H d"], Float[Array, "n H d_v"]] | None = None


def _parts(kind, kernels: Kernels, x, value_bias, turn: Turn) -> _Parts:
    """The derivatives of logits and values of a kind of attention at ``x``."""

    def project(kernel, bias):
        rows = jnp.einsum("nd,hdk->nhk", x, kernel)
        return rows if bias is None else rows + bias[None]

    def turn_back(rows):
        return jax.linear_transpose(turn, rows)(rows)[0]

    head_dim = kernels.query.shape[-1]
    is_l2 = isinstance(kind, L2)
    key_kernel = kernels.key_or_query
    query = project(kernels.query, kernels.query_bias)
    key = query if is_l2 else project(key_kernel, kernels.key_bias)
    value_kernel = kernels.value
    if isinstance(kind, L2) and not kind.plain_values:
        # Values x A_h W_V^h, A_h = W_Q^h W_Q^{hT} / sqrt(d_h), from the inside out.
        inner = jnp.einsum("hdk,hdv->hkv", kernels.query, kernels.value)  # (H, d_h, d_v)
        value_kernel = kernels.query @ inner / math.sqrt(head_dim)
    value = project(value_kernel, None)
    rate = jnp.ones(value.shape[:2], x.dtype)
    normalised = None
    query_unit = key_unit = query_length = key_length = jnp.ones(())
    if isinstance(kind, Cosine):
        query_unit, query_length = _normalise(query, kind.eps)
        key_unit, key_length = _normalise(key, kind.eps)
        scale, query_seen, key_seen = kind.tau, turn(query_unit), turn(key_unit)
        value, rate = kind.nu * value, kind.nu * rate
        if not kind.plain_values:
            unit, length = _normalise(project(value_kernel, value_bias), kind.eps)
            value, rate = kind.nu * unit, kind.nu / length
            normalised = jnp.einsum("hdv,nhv->nhd", value_kernel, unit), unit
    else:
        scale = 2 / math.sqrt(head_dim) if isinstance(kind, L2) else kind.logit_scale(head_dim)
        query_seen, key_seen = turn(query), turn(key)

    def key_gradient(index):
        """Derivative of the logits of one query with respect to each token as a key."""
        rows = jnp.broadcast_to(query_seen[index], query_seen.shape)
        rows = rows - key_seen if is_l2 else turn_back(rows)
        if isinstance(kind, Cosine):
            along = jnp.sum(rows * key_unit, axis=-1, keepdims=True)
            rows = (rows - along * key_unit) / key_length[..., None]
        return scale * jnp.einsum("nhk,hdk->nhd", rows, key_kernel)

    def own_block(index, attention, moved, out):
        """``C_i``: what the query's own token does through its logits."""
        centre = jnp.einsum("hk,khq->hq", attention, key_seen)
        # Covariance of keys and values under P_i: (H, d_h, d_v), which never becomes d by d.
        inner = jnp.einsum("hk,khq,khv->hqv", attention, key_seen - centre[None], moved)

        def to_query(column):  # (H, d_h), the derivative with respect to the query as it is seen
            rows = jnp.zeros_like(query_seen).at[index].set(column)
            return turn_back(rows)[index]

        inner = jax.vmap(to_query, in_axes=-1, out_axes=-1)(inner)
        if isinstance(kind, Cosine):
            # The normaliser's Jacobian: nothing along the unit query, the rest by its length.
            unit = query_unit[index]
            along = jnp.einsum("hq,hqv->hv", unit, inner)
            inner = inner - unit[..., None] * along[:, None]
            inner = inner / query_length[index][:, None, None]
        return scale * jnp.einsum("hdq,hqv,hve->de", kernels.query, inner, out)

    return _Parts(value, value_kernel, rate, key_gradient, own_block, normalised)


def _normalise(rows, eps):
    length = jnp.sqrt(jnp.sum(jnp.square(rows), axis=-1) + eps)
    return rows / length[..., None], length


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
