"""How much the blocks of an attention layer's Jacobian change on a ball around an input.

A block is made of weights ``p_k``, derivatives of logits and values that stand around their mean,

    ``J_ik = sum_h p_k [dv_k W_O + g_k w_k^T]  +  [i = k] sum_h sum_j p_j g'_j w_j^T``,

``w_k = (v_k - m_i) W_O``, ``g_k`` and ``g'_k`` the derivatives of logit ``k`` by its key's token and by
the query's. Each of them has a value at the input and a bound of how far it moves on the ball; products
are taken apart one factor at a time.

Theory, section 5.5.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax._numerics import safe_norm
from poolax.attention import L2, Cosine, Kind
from poolax.bounds._kernels import Kernels
from poolax.bounds._linalg import product_norm, spectral_norm
from poolax.bounds._local_parts import AttentionParts, Turn, attention_parts
from poolax.bounds._normaliser import normaliser_change
from poolax.bounds._overflow import or_infinite
from poolax.bounds._reach import Reach, cross, pair
from poolax.bounds._softmax_box import largest_mean, weight_range


@dataclasses.dataclass(frozen=True)
class BlockChange:
    """Bounds of blocks on a ball, shape ``(n, n)``, output token first.

    Attributes:
        change: Of ``|J_ik - J_ik(centre)|``.
        largest: Of ``|J_ik|`` itself, which grows less where the ball is large.
    """

    change: Float[Array, "n n"]
    largest: Float[Array, "n n"]


@dataclasses.dataclass(frozen=True)
class _Moves:
    """What moves with the tokens, for the logits of one query; shape ``(H, n)`` each.

    Attributes:
        rise: How far each logit may rise, up to what all have in common.
        fall: How far it may fall.
        key: How far its derivative by the key's token moves.
        query: How far that by the query's token moves, up to what all have in common.
    """

    rise: Float[Array, "H n"]
    fall: Float[Array, "H n"]
    key: Float[Array, "H n"]
    query: Float[Array, "H n"]


def attention_change(
    kind: Kind,
    kernels: Kernels,
    x: Float[Array, "n d"],
    weights: Float[Array, "H n n"],
    reach: Reach,
    *,
    value_bias: Float[Array, "H d_v"] | None = None,
    turn: Turn | None = None,
) -> BlockChange:
    """Bounds of the blocks of the Jacobian of ``attention(x)`` where tokens move as ``reach`` says.

    Args:
        kind: Kind of attention.
        kernels: Checked kernels.
        x: Tokens at the centre, shape ``(n, d)``.
        weights: Attention there, shape ``(H, n, n)``.
        reach: How far tokens move.
        value_bias: Bias of the values of each head, which normalised values see.
        turn: Rotation of queries and keys by position, linear; ``None`` for none.

    Returns:
        The bounds, without residual connection and norms.
    """
    parts = attention_parts(kind, kernels, x, value_bias, turn)
    gram, radii = reach.gram, reach.radii
    moves_of = _cosine_moves if isinstance(kind, Cosine) else _plain_moves
    moves_at = moves_of(kind, kernels, parts, gram, radii, _turn_norm(turn, parts.query_seen))
    linear, linear_moves, value_moves = _values(kind, parts, kernels.out, radii)
    # A weight that fell below all numbers may still rise.
    smallest = float(jnp.finfo(x.dtype).tiny)

    def row(index):
        attention = weights[:, index]  # (H, n)
        moved = parts.value - jnp.einsum("hk,khv->hv", attention, parts.value)[None]  # (n, H, d_v)
        right = safe_norm(jnp.einsum("khv,hvd->hkd", moved, kernels.out), axis=-1)  # |w_k|, (H, n)
        by_key = jnp.moveaxis(parts.key_gradient(index), 0, 1)  # g_k, (H, n, d)
        by_query = jnp.moveaxis(parts.query_gradient(index, attention), 0, 1)  # g'_k, (H, n, d)
        moves = moves_at(index, attention, by_key, by_query)
        box = attention + smallest, moves.rise, moves.fall
        low, high = weight_range(*box)
        shift = jnp.maximum(jnp.maximum(high - attention, attention - low), 0)

        # m_i moves with the values and with the weights.
        middle = largest_mean(*box, value_moves) + jnp.sum(shift * right, axis=-1)
        right_moves = value_moves + middle[:, None]
        key, query = safe_norm(by_key, axis=-1), safe_norm(by_query, axis=-1)
        right_most = right + right_moves

        change = shift * (linear + key * right) + high * (
            linear_moves + moves.key * right_most + key * right_moves
        )
        largest = high * (linear + linear_moves + (key + moves.key) * right_most)
        own_change = jnp.sum(shift * query * right, axis=-1) + largest_mean(
            *box, moves.query * right_most + query * right_moves
        )
        own_largest = largest_mean(*box, (query + moves.query) * right_most)
        mine = jnp.arange(x.shape[0]) == index
        return (
            jnp.sum(change, axis=0) + jnp.where(mine, jnp.sum(own_change), 0),
            jnp.sum(largest, axis=0) + jnp.where(mine, jnp.sum(own_largest), 0),
        )

    change, largest = jax.lax.map(row, jnp.arange(x.shape[0]))
    return BlockChange(change, largest)


def changed(
    blocks: Float[Array, "n n"], found: BlockChange, real: Bool[Array, " n"]
) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
    """Bounds of the blocks' change and of the blocks, from their norms at the centre as well.

    Masked tokens neither move nor are seen. What overflowed is infinite.
    """
    both = real[:, None] & real[None, :]
    change, largest = (
        jnp.where(both, or_infinite(matrix), 0) for matrix in (found.change, found.largest)
    )
    return jnp.minimum(change, blocks + largest), jnp.minimum(blocks + change, largest)


def _turn_norm(turn: Turn | None, rows: Float[Array, "n H d_h"]) -> Any:
    """The largest norm of what turns a row, which is one but where turned rows are scaled."""
    if turn is None:
        return 1.0
    columns = jax.vmap(lambda column: turn(jnp.broadcast_to(column, rows.shape)))(
        jnp.eye(rows.shape[-1], dtype=rows.dtype)[:, None, None]
    )  # (d_h, n, H, d_h)
    return jnp.max(spectral_norm(jnp.moveaxis(columns, 0, -1)))


def _values(kind, parts: AttentionParts, out, radii):
    """Norms of ``dv_k W_O``, and how far they and ``v_k W_O`` move; ``(H, n)`` each."""
    rate = parts.rate.T
    if parts.normalised is None:
        linear = rate * spectral_norm(parts.value_kernel @ out)[:, None]
        return linear, jnp.zeros_like(linear), linear * radii[None]
    value_norm, out_norm = spectral_norm(parts.value_kernel)[:, None], spectral_norm(out)[:, None]
    # Values are nu times their unit rows.
    size = safe_norm(parts.value, axis=-1).T * (parts.lengths[2].T / kind.nu)
    changed = normaliser_change(size, kind.eps, value_norm * radii[None])
    factor = kind.nu * out_norm
    return (
        factor * value_norm / parts.lengths[2].T,
        factor * value_norm * changed.slope,
        factor * changed.value,
    )


def _first_order(gram, radii, index, by_key, by_query):
    """The most that logits move by their derivatives at the centre, ``(H, n)``."""
    apart = pair(gram, index, safe_norm(by_query, axis=-1), safe_norm(by_key, axis=-1))
    # The token itself is its query and its key.
    together = radii[index] * safe_norm(by_query + by_key, axis=-1)
    return jnp.where((jnp.arange(radii.shape[0]) == index)[None], together, apart)


def _plain_moves(kind, kernels: Kernels, parts: AttentionParts, gram, radii, turned):
    """Of dot products and of distances, whose logits are quadratic in the tokens."""
    key = kernels.key_or_query
    if isinstance(turned, float):
        slope = product_norm(kernels.query, key)
    else:
        slope = jnp.square(turned) * spectral_norm(kernels.query) * spectral_norm(key)
    slope = (parts.scale * slope)[:, None]  # (H, 1)
    is_l2 = isinstance(kind, L2)

    def moves_at(index, attention, by_key, by_query):
        rise = _first_order(gram, radii, index, by_key, by_query) + slope * cross(gram, index)[None]
        if is_l2:
            # A key's distance is measured from the query; the token itself stays where it is.
            ones = jnp.ones_like(radii)[None]
            between = jnp.where((jnp.arange(radii.shape[0]) == index)[None], 0, 1)
            key_moves = slope * (between * pair(gram, index, ones, ones))
            fall = rise + slope / 2 * jnp.square(radii)[None]
        else:
            key_moves = jnp.broadcast_to(slope * radii[index], rise.shape)
            fall = rise
        return _Moves(rise, fall, key_moves, slope * radii[None])

    return moves_at


def _cosine_moves(kind, kernels: Kernels, parts: AttentionParts, gram, radii, turned):
    """Of products of normalised rows."""
    query_norm, key_norm = (
        spectral_norm(kernel)[:, None] for kernel in (kernels.query, kernels.key_or_query)
    )
    query_length, key_length = parts.lengths[0].T, parts.lengths[1].T  # (H, n)
    sizes = [
        jnp.sqrt(jnp.maximum(jnp.square(length) - kind.eps, 0)) for length in (query_length, key_length)
    ]
    queries = normaliser_change(sizes[0], kind.eps, query_norm * radii[None])
    keys = normaliser_change(sizes[1], kind.eps, key_norm * radii[None])
    seen_keys = jnp.moveaxis(parts.key_seen, 0, 1)  # (H, n, d_h)
    seen_queries = turned * sizes[0] / query_length  # (H, n)

    def moves_at(index, attention, by_key, by_query):
        def at(array):
            return array[:, index][:, None]

        # Around their mean, as the derivatives by the query are: what all logits share does not count.
        mean = jnp.einsum("hk,hkq->hq", attention, seen_keys)
        centred = safe_norm(seen_keys - mean[:, None], axis=-1)
        product = jnp.square(turned) * at(queries.value) * keys.value
        roughly = turned * (at(queries.value) * centred + at(seen_queries) * keys.value)
        remainder = turned * (at(queries.remainder) * centred + at(seen_queries) * keys.remainder)
        first = _first_order(gram, radii, index, by_key, by_query)
        rise = kind.tau * product + jnp.minimum(kind.tau * roughly, first + kind.tau * remainder)
        by_key_moves = turned * (
            keys.slope * at(seen_queries) + turned * keys.steepest * at(queries.value)
        )
        by_query_moves = turned * (
            at(queries.slope) * centred + turned * at(queries.steepest) * keys.value
        )
        return _Moves(
            rise, rise, kind.tau * key_norm * by_key_moves, kind.tau * query_norm * by_query_moves
        )

    return moves_at
