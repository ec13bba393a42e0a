"""Layers as functions near given tokens, from the attention that a backbone has there.

Theory, sections 1.3 and 9.5.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax._layer_specs import AttentionSpec, LayerSpec
from poolax.attention import L2
from poolax.bounds._local_layers import Around, AttentionAt, attention_at, tokens_at
from poolax.bounds._local_norms import norm_at
from poolax.bounds._local_parts import attention_parts


def layer_map(
    spec: LayerSpec,
    x: Float[Array, "n d"],
    attention: Float[Array, "H n n"] | None,
    real: Bool[Array, " n"],
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """A layer's sum of branch and residual connection, and the norm behind, as functions of tokens.

    What has been added to logits need not be known: attention elsewhere is that at ``x`` times the
    exponential of how the logits change. It is exact where masks and what is added stay the same.
    """

    def sum_of(tokens):
        around = Around.of(spec, tokens, real)
        if isinstance(spec.branch, AttentionSpec):
            centre = Around.of(spec, x, real)
            out = _attends(attention_at(spec, centre, attention, real), around.inner)
        else:
            out = around.scale * tokens_at(spec.branch, around.inner)[0]
        return around.summed(tokens, jnp.where(real[:, None], out, 0))

    def norm_of(tokens):
        return jnp.where(real[:, None], norm_at(spec.norm_after, tokens)[0], 0)

    return sum_of, norm_of


def states_through(
    layers: Sequence[LayerSpec],
    maps: Sequence[Float[Array, "H n n"] | None],
    x: Float[Array, "n d"],
    real: Bool[Array, " n"],
) -> list[Float[Array, "n d"]]:
    """What enters each layer, and what comes out of the last."""
    states = [x]
    for spec, attention in zip(layers, maps, strict=True):
        states.append(_apply(spec, states[-1], attention, real))
    return states


@jax.jit
def _apply(spec, x, attention, real):
    sum_of, norm_of = layer_map(spec, x, attention, real)
    return norm_of(sum_of(x))


def _attends(at: AttentionAt, inner):
    """What comes out of an attention layer at other tokens."""
    is_l2 = isinstance(at.kind, L2)

    def parts_of(tokens) -> tuple[Any, Any]:
        options = at.options["value_bias"], at.options["turn"]
        parts = attention_parts(at.kind, at.kernels, tokens, *options)
        query, key = (jnp.moveaxis(side, 1, 0) for side in (parts.query_seen, parts.key_seen))
        logits = parts.scale * query @ jnp.swapaxes(key, 1, 2)  # (H, n, n)
        if is_l2:
            # Half a squared distance less what all keys share.
            logits = logits - parts.scale / 2 * jnp.sum(jnp.square(key), axis=-1)[:, None]
        return logits, jnp.einsum("khv,hvd->hkd", parts.value, at.kernels.out)

    logits, values = parts_of(inner)
    logits_there, values_there = jax.lax.stop_gradient(parts_of(at.inner))
    moved = logits - logits_there
    moved = moved - jax.lax.stop_gradient(jnp.max(moved, axis=-1, keepdims=True))
    weights = at.weights * jnp.exp(moved)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = weights / jnp.where(total > 0, total, 1)
    # Biases behind the weights are in what comes out at the centre.
    there = jnp.einsum("hik,hkd->id", at.weights, values_there)
    return at.out + jnp.einsum("hik,hkd->id", weights, values) - there
