"""Layers of given parameters, as the modules that say what such layers compute."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from poolax.attention import Kind, MultiHeadAttention
from poolax.blocks import FeedForward, GatedFeedForward


def attention_layer(
    kind: Kind, params: Mapping[str, Any], *, use_out_bias: bool = False, **options: Any
) -> MultiHeadAttention:
    """The attention layer that has these parameters, and biases but perhaps on its output."""
    query, value = params["query"]["kernel"], params["value"]["kernel"]
    return MultiHeadAttention(
        num_heads=jnp.shape(query)[1],
        kind=kind,
        num_kv_heads=jnp.shape(value)[1],
        head_dim=jnp.shape(query)[2],
        use_bias=True,
        use_out_bias=use_out_bias,
        parent=None,
        **options,
    )


def feed_forward_layer(
    activation: Callable[[Array], Array], kernels: Mapping[str, Array]
) -> FeedForward | GatedFeedForward:
    """The layer with a hidden one that has these kernels, and biases everywhere."""
    layer = GatedFeedForward if "gate" in kernels else FeedForward
    width = kernels["hidden"].shape[-1]
    return layer(hidden_dim=width, activation=activation, use_bias=True, parent=None)


def with_biases(params: Mapping[str, Any], *, bare: Collection[str] = ()) -> dict[str, Any]:
    """Parameters with zeros for the biases that are missing, and none in the ``bare`` parts."""

    def filled(part):
        kernel = jnp.asarray(part["kernel"])
        bias = part.get("bias")
        return {
            "kernel": kernel,
            "bias": jnp.zeros(kernel.shape[1:], kernel.dtype) if bias is None else bias,
        }

    return {
        name: {"kernel": jnp.asarray(part["kernel"])} if name in bare else filled(part)
        for name, part in params.items()
    }
