"""Derivatives of logits and values of an attention layer at given tokens.

Theory, sections 1.3 and 5.3.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax.attention import L2, Cosine, Kind
from poolax.bounds._kernels import Kernels

Turn = Callable[[Float[Array, "n H d_h"]], Float[Array, "n H d_h"]]


@dataclasses.dataclass(frozen=True)
class AttentionParts:
    """What the blocks of an attention layer's Jacobian are made of.

    Attributes:
        value: Values; without their bias, which cancels, unless they are normalised.
        value_kernel: What values are linear in the tokens by, before they are normalised.
        rate: Factor of each value's derivative.
        scale: Factor of the logits; for L2 attention that of their derivatives.
        key_gradient: Derivative of the logits of one query with respect to each token as a key.
        query_gradient: That of its logits with respect to its own token, less their mean under its
            attention.
        own_block: ``C_i``, what the query's own token does through its logits.
        query_seen: Queries as they enter the logits.
        key_seen: Keys likewise.
        lengths: ``sqrt(|z|^2 + eps)`` of queries, keys and values before they are normalised; ``None``
            where they are not.
        normalised: What normalising takes away of the derivative of a value, as a product of two.
    """

    value: Float[Array, "n H d_v"]
    value_kernel: Float[Array, "H d d_v"]
    rate: Float[Array, "n H"]
    scale: float
    key_gradient: Callable[[Any], Float[Array, "n H d"]]
    query_gradient: Callable[[Any, Float[Array, "H n"]], Float[Array, "n H d"]]
    own_block: Callable[..., Float[Array, "d d"]]
    query_seen: Float[Array, "n H d_h"]
    key_seen: Float[Array, "n H d_h"]
    lengths: tuple[Any, Any, Any] = (None, None, None)
    normalised: tuple[Float[Array, "n H d"], Float[Array, "n H d_v"]] | None = None


def attention_parts(
    kind: Kind,
    kernels: Kernels,
    x: Float[Array, "n d"],
    value_bias: Float[Array, "H d_v"] | None,
    turn: Turn | None,
) -> AttentionParts:
    """The derivatives of logits and values of a kind of attention at ``x``.

    Args:
        kind: Kind of attention.
        kernels: Checked kernels.
        x: Tokens, shape ``(n, d)``.
        value_bias: Bias of the values of each head, which normalised values see.
        turn: Rotation of queries and keys by position, linear; ``None`` for none.

    Returns:
        The parts.
    """
    turn = (lambda rows: rows) if turn is None else turn

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
    normalised = value_length = None
    query_unit = key_unit = query_length = key_length = jnp.ones(())
    if isinstance(kind, Cosine):
        query_unit, query_length = _normalise(query, kind.eps)
        key_unit, key_length = _normalise(key, kind.eps)
        scale, query_seen, key_seen = kind.tau, turn(query_unit), turn(key_unit)
        value, rate = kind.nu * value, kind.nu * rate
        if not kind.plain_values:
            unit, value_length = _normalise(project(value_kernel, value_bias), kind.eps)
            value, rate = kind.nu * unit, kind.nu / value_length
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

    def centred_keys(attention):
        return key_seen - jnp.einsum("hk,khq->hq", attention, key_seen)[None]

    def through_query(index, inner):
        """Derivatives by the query as it is seen, (H, d_h, v), to those before it is normalised."""

        def to_query(column):  # (H, d_h)
            rows = jnp.zeros_like(query_seen).at[index].set(column)
            return turn_back(rows)[index]

        inner = jax.vmap(to_query, in_axes=-1, out_axes=-1)(inner)
        if isinstance(kind, Cosine):
            # The normaliser's Jacobian: nothing along the unit query, the rest by its length.
            unit = query_unit[index]
            along = jnp.einsum("hq,hqv->hv", unit, inner)
            inner = inner - unit[..., None] * along[:, None]
            inner = inner / query_length[index][:, None, None]
        return inner

    def query_gradient(index, attention):
        """Derivative of the logits of one query with respect to its own token, centred."""
        inner = through_query(index, jnp.moveaxis(centred_keys(attention), 0, -1))
        return scale * jnp.einsum("hdq,hqn->nhd", kernels.query, inner)

    def own_block(index, attention, moved, out):
        """``C_i``: what the query's own token does through its logits."""
        # Covariance of keys and values under P_i: (H, d_h, d_v), which never becomes d by d.
        inner = jnp.einsum("hk,khq,khv->hqv", attention, centred_keys(attention), moved)
        inner = through_query(index, inner)
        return scale * jnp.einsum("hdq,hqv,hve->de", kernels.query, inner, out)

    is_cosine = isinstance(kind, Cosine)
    return AttentionParts(
        value=value,
        value_kernel=value_kernel,
        rate=rate,
        scale=scale,
        key_gradient=key_gradient,
        query_gradient=query_gradient,
        own_block=own_block,
        query_seen=query_seen,
        key_seen=key_seen,
        lengths=(query_length, key_length, value_length) if is_cosine else (None, None, None),
        normalised=normalised,
    )


def _normalise(rows, eps):
    length = jnp.sqrt(jnp.sum(jnp.square(rows), axis=-1) + eps)
    return rows / length[..., None], length
