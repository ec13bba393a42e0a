"""How much the blocks of an attention layer's Jacobian change on a ball around an input.

A block is made of weights ``p_k``, derivatives of logits and values that stand around their mean,

    ``J_ik = sum_h p_k [dv_k W_O + g_k w_k^T]  +  [i = k] sum_h sum_j p_j g'_j w_j^T``,

``w_k = (v_k - m_i) W_O``, ``g_k`` and ``g'_k`` the derivatives of logit ``k`` by its key's token and by
the query's. Each of them has a value at the input and a bound of how far it moves on the ball; products
are taken apart one factor at a time.

Theory, section 5.5.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
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


@struct.dataclass
class _Rows:
    """Sizes at the centre of what belongs to the logits of each query, which comes first.

    Attributes:
        weights: Attention.
        by_key: Norms of the derivatives by the key's token.
        by_query: Norms of those by the query's token, less what all have in common.
        together: Norms of both together, where the token is its own key.
        centred: Norms of the keys as they are seen, less their mean.
    """

    weights: Float[Array, "n H n"]
    by_key: Float[Array, "n H n"]
    by_query: Float[Array, "n H n"]
    together: Float[Array, "n H"]
    centred: Float[Array, "n H n"]


@struct.dataclass
class _Values:
    """Sizes at the centre of the values behind the output's kernels, for each query or for all alike.

    Attributes:
        right: ``|w_k|``.
        linear: ``|dv_k W_O|``.
        out: What a move of a value is multiplied with at most.
    """

    right: Float[Array, "n H n"]
    linear: Float[Array, "r H n"]
    out: Float[Array, "r H"]


class AttentionBall:
    """An attention layer around given tokens, whose blocks are bounded on balls.

    Args:
        kind: Kind of attention.
        kernels: Checked kernels.
        x: Tokens at the centre, shape ``(n, d)``.
        weights: Attention there, shape ``(H, n, n)``.
        value_bias: Bias of the values of each head, which normalised values see.
        turn: Rotation of queries and keys by position, linear; ``None`` for none.
    """

    def __init__(
        self,
        kind: Kind,
        kernels: Kernels,
        x: Float[Array, "n d"],
        weights: Float[Array, "H n n"],
        *,
        value_bias: Float[Array, "H d_v"] | None = None,
        turn: Turn | None = None,
    ):
        self._weights = weights
        # Of cosine attention more is read than all kinds have.
        self._kind: Any = kind
        self._kernels = kernels
        self._parts = attention_parts(kind, kernels, x, value_bias, turn)
        self._turned = _turn_norm(turn, self._parts.query_seen)
        self._rows = jax.lax.map(self._row, jnp.arange(x.shape[0]))
        # What does not depend on the ball is computed once, however many balls there are.
        self._value_norm = spectral_norm(self._parts.value_kernel)
        self._moves_of = (_cosine_moves if isinstance(kind, Cosine) else _plain_moves)(
            kind, kernels, self._parts, self._turned
        )
        self._smallest = float(jnp.finfo(x.dtype).tiny)

    def on(self, reach: Reach) -> BlockChange:
        """Bounds of the blocks where tokens move as ``reach`` says, without residual and norms."""
        return self._change(self._whole_values(), reach)

    def along(self, covectors: Float[Array, "n d"]) -> Callable[[Reach], BlockChange]:
        """Bounds of ``J_ik c_i``, ``c_i`` the covector of output token ``i``, by a reach."""
        values = self._values_along(covectors)
        return lambda reach: self._change(values, reach)

    def _row(self, index):
        attention = self._weights[:, index]  # (H, n)
        by_key = jnp.moveaxis(self._parts.key_gradient(index), 0, 1)  # g_k, (H, n, d)
        by_query = jnp.moveaxis(self._parts.query_gradient(index, attention), 0, 1)  # g'_k, (H, n, d)
        # Around their mean, as the derivatives by the query are: what all logits share does not count.
        keys = jnp.moveaxis(self._parts.key_seen, 0, 1)  # (H, n, d_h)
        centred = keys - jnp.einsum("hk,hkq->hq", attention, keys)[:, None]
        return _Rows(
            weights=attention,
            by_key=safe_norm(by_key, axis=-1),
            by_query=safe_norm(by_query, axis=-1),
            together=safe_norm((by_query + by_key)[:, index], axis=-1),
            centred=safe_norm(centred, axis=-1),
        )

    def _whole_values(self) -> _Values:
        parts, out = self._parts, self._kernels.out

        def right(attention):
            moved = parts.value - jnp.einsum("hk,khv->hv", attention, parts.value)[None]  # (n, H, d_v)
            return safe_norm(jnp.einsum("khv,hvd->hkd", moved, out), axis=-1)  # (H, n)

        rows = jax.lax.map(right, jnp.moveaxis(self._weights, 1, 0))
        # Of rank d_v, so that no matrix of the width is decomposed.
        through = product_norm(parts.value_kernel, jnp.swapaxes(out, 1, 2))
        alone = spectral_norm(out)
        return self._sized(rows, through[None], alone[None])

    def _values_along(self, covectors) -> _Values:
        parts, out = self._parts, self._kernels.out
        seen = jnp.einsum("hvd,nd->nhv", out, covectors)  # (n, H, d_v)
        along = jnp.einsum("khv,nhv->nhk", parts.value, seen)
        mean = jnp.einsum("hnk,nhk->nh", self._weights, along)
        through = safe_norm(jnp.einsum("hdv,nhv->nhd", parts.value_kernel, seen), axis=-1)
        return self._sized(jnp.abs(along - mean[..., None]), through, safe_norm(seen, axis=-1))

    def _sized(self, right, through, alone) -> _Values:
        rate = self._parts.rate.T[None]  # (1, H, n)
        if self._parts.normalised is None:
            return _Values(right, rate * through[..., None], through)
        factor = self._kind.nu * alone
        linear = (factor * self._value_norm[None])[..., None] / self._parts.lengths[2].T[None]
        return _Values(right, linear, factor)

    def _change(self, values: _Values, reach: Reach) -> BlockChange:
        radii = reach.radii
        moves_at = self._moves_of(reach.cosines, radii)
        linear_slope, value_moves = self._value_moves(radii)  # (H, n) each, to be times ``out``
        count = radii.shape[0]
        shared = values.linear.shape[0] == 1

        def row(given):
            index, at = given
            right = values.right[index]  # (H, n)
            linear = values.linear[0 if shared else index]
            factor = values.out[0 if shared else index][:, None]
            linear_moves, moved = factor * linear_slope, factor * value_moves
            moves = moves_at(index, at)
            # A weight that fell below all numbers may still rise.
            box = at.weights + self._smallest, moves.rise, moves.fall
            low, high = weight_range(*box)
            shift = jnp.maximum(jnp.maximum(high - at.weights, at.weights - low), 0)

            # m_i moves with the values and with the weights.
            middle = factor[:, 0] * largest_mean(*box, value_moves) + jnp.sum(shift * right, axis=-1)
            right_moves = moved + middle[:, None]
            right_most = right + right_moves

            change = shift * (linear + at.by_key * right) + high * (
                linear_moves + moves.key * right_most + at.by_key * right_moves
            )
            largest = high * (linear + linear_moves + (at.by_key + moves.key) * right_most)
            own_change = jnp.sum(shift * at.by_query * right, axis=-1) + largest_mean(
                *box, moves.query * right_most + at.by_query * right_moves
            )
            own_largest = largest_mean(*box, (at.by_query + moves.query) * right_most)
            mine = jnp.arange(count) == index
            return (
                jnp.sum(change, axis=0) + jnp.where(mine, jnp.sum(own_change), 0),
                jnp.sum(largest, axis=0) + jnp.where(mine, jnp.sum(own_largest), 0),
            )

        change, largest = jax.lax.map(row, (jnp.arange(count), self._rows))
        return BlockChange(change, largest)

    def _value_moves(self, radii):
        """How far derivatives of values and values move, before the output's kernels."""
        parts = self._parts
        if parts.normalised is None:
            return jnp.zeros_like(parts.rate.T), parts.rate.T * radii[None]
        value_norm = self._value_norm[:, None]
        # Values are nu times their unit rows.
        size = safe_norm(parts.value, axis=-1).T * (parts.lengths[2].T / self._kind.nu)
        moved = normaliser_change(size, self._kind.eps, value_norm * radii[None])
        return value_norm * moved.slope, moved.value


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


def _first_order(cosines, radii, index, at: _Rows):
    """The most that logits move by their derivatives at the centre, ``(H, n)``."""
    apart = pair(cosines, radii, index, at.by_query, at.by_key)
    # The token itself is its query and its key.
    together = radii[index] * at.together[:, None]
    return jnp.where((jnp.arange(radii.shape[0]) == index)[None], together, apart)


def _plain_moves(kind, kernels: Kernels, parts: AttentionParts, turned):
    """Of dot products and of distances, whose logits are quadratic in the tokens."""
    key = kernels.key_or_query
    if isinstance(turned, float):
        slope = product_norm(kernels.query, key)
    else:
        slope = jnp.square(turned) * spectral_norm(kernels.query) * spectral_norm(key)
    slope = (parts.scale * slope)[:, None]  # (H, 1)
    is_l2 = isinstance(kind, L2)

    def moves_at(cosines, radii, index, rows: _Rows):
        together = slope * cross(cosines, radii, index)[None]
        rise = _first_order(cosines, radii, index, rows) + together
        if is_l2:
            # A key's distance is measured from the query; the token itself stays where it is.
            ones = jnp.ones_like(radii)[None]
            between = jnp.where((jnp.arange(radii.shape[0]) == index)[None], 0, 1)
            key_moves = slope * (between * pair(cosines, radii, index, ones, ones))
            fall = rise + slope / 2 * jnp.square(radii)[None]
        else:
            key_moves = jnp.broadcast_to(slope * radii[index], rise.shape)
            fall = rise
        return _Moves(rise, fall, key_moves, slope * radii[None])

    return lambda cosines, radii: functools.partial(moves_at, cosines, radii)


def _cosine_moves(kind, kernels: Kernels, parts: AttentionParts, turned):
    """Of products of normalised rows."""
    query_norm, key_norm = (
        spectral_norm(kernel)[:, None] for kernel in (kernels.query, kernels.key_or_query)
    )
    query_length, key_length = parts.lengths[0].T, parts.lengths[1].T  # (H, n)
    sizes = [
        jnp.sqrt(jnp.maximum(jnp.square(length) - kind.eps, 0)) for length in (query_length, key_length)
    ]
    seen_queries = turned * sizes[0] / query_length  # (H, n)

    def moves_at(cosines, radii, index, rows: _Rows):
        queries = normaliser_change(sizes[0], kind.eps, query_norm * radii[None])
        keys = normaliser_change(sizes[1], kind.eps, key_norm * radii[None])

        def at(array):
            return array[:, index][:, None]

        product = jnp.square(turned) * at(queries.value) * keys.value
        roughly = turned * (at(queries.value) * rows.centred + at(seen_queries) * keys.value)
        remainder = turned * (at(queries.remainder) * rows.centred + at(seen_queries) * keys.remainder)
        first = _first_order(cosines, radii, index, rows)
        rise = kind.tau * product + jnp.minimum(kind.tau * roughly, first + kind.tau * remainder)
        by_key_moves = turned * (
            keys.slope * at(seen_queries) + turned * keys.steepest * at(queries.value)
        )
        by_query_moves = turned * (
            at(queries.slope) * rows.centred + turned * at(queries.steepest) * keys.value
        )
        return _Moves(
            rise, rise, kind.tau * key_norm * by_key_moves, kind.tau * query_norm * by_query_moves
        )

    return lambda cosines, radii: functools.partial(moves_at, cosines, radii)
