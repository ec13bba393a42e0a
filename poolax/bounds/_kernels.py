"""Checked attention kernels in the layout that the bounds use."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._checks import (
    check_divides,
    check_finite,
    check_floating,
    check_instance,
    check_rank,
)
from poolax._numerics import accumulation_dtype


@dataclasses.dataclass(frozen=True)
class Kernels:
    """Checked kernels with heads in front, keys and values repeated for the heads that share."""

    query: Float[Array, "H d d_h"]
    key: Float[Array, "H d d_h"] | None
    value: Float[Array, "H d d_h"]
    out: Float[Array, "H d_h d"]
    query_bias: Float[Array, "H d_h"] | None
    has_bias: bool


def read_kernels(kernels: Mapping[str, Any], *, has_key: bool) -> Kernels:
    """Check kernels, given by name or as the parameters of a ``MultiHeadAttention``."""
    names = ("query", "key", "value", "out") if has_key else ("query", "value", "out")
    check_instance("kernels", kernels, Mapping, f"a mapping with {', '.join(names)}")
    valid = (*names, "query_bias", "key_bias")
    unknown, missing = sorted(set(kernels) - set(valid)), sorted(set(names) - set(kernels))
    if unknown or missing:
        raise ValueError(
            f"kernels: expected {', '.join(names)} (and query_bias, key_bias), got {', '.join(kernels)}"
        )
    arrays, biases = {}, {name: kernels.get(f"{name}_bias") for name in names}
    for name in names:
        kernel = kernels[name]
        if isinstance(kernel, Mapping):
            biases[name] = kernel.get("bias")
            kernel = kernel["kernel"]
        check_floating(name, kernel)
        check_rank(name, kernel, 3, "(H, d_h, d)" if name == "out" else "(d, H, d_h)")
        check_finite(name, kernel)
        arrays[name] = jnp.asarray(kernel)
    dtype = accumulation_dtype(*arrays.values())
    arrays = {name: kernel.astype(dtype) for name, kernel in arrays.items()}
    width, num_heads, head_dim = arrays["query"].shape
    num_kv_heads = arrays["value"].shape[1]
    expected = {
        "key": (width, num_kv_heads, head_dim),
        "value": (width, num_kv_heads, arrays["value"].shape[2]),
        "out": (num_heads, arrays["value"].shape[2], width),
    }
    for name in names[1:]:
        if arrays[name].shape != expected[name]:
            raise ValueError(f"{name}: expected shape {expected[name]}, got {arrays[name].shape}")
    check_divides("H_kv", num_kv_heads, "H", num_heads)
    query_bias = biases["query"] if has_key else None
    if query_bias is not None:
        check_floating("query_bias", query_bias)
        check_finite("query_bias", query_bias)
        if jnp.shape(query_bias) != (num_heads, head_dim):
            raise ValueError(
                f"query_bias: expected shape {(num_heads, head_dim)}, got {jnp.shape(query_bias)}"
            )
        query_bias = jnp.asarray(query_bias).astype(dtype)

    def by_head(kernel):
        kernel = jnp.repeat(kernel, num_heads // kernel.shape[1], axis=1)
        return jnp.moveaxis(kernel, 1, 0)

    return Kernels(
        query=by_head(arrays["query"]),
        key=by_head(arrays["key"]) if has_key else None,
        value=by_head(arrays["value"]),
        out=arrays["out"],
        query_bias=query_bias,
        has_bias=any(bias is not None for bias in biases.values()),
    )
