"""Checked attention kernels in the layout that the bounds use."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, ArrayLike, Float

from poolax._checks import (
    check_divides,
    check_finite,
    check_floating,
    check_instance,
    check_rank,
    is_concrete,
)
from poolax._numerics import accumulation_dtype

_NORMS = ("query_norm", "key_norm")


@struct.dataclass
class HeadNorms:
    """RMSNorms of queries and keys between their kernels and the logits.

    Attributes:
        query_slope: Lipschitz constant of the queries' norm.
        key_slope: That of the keys'.
        query_reach: Largest norm of a normalised query.
        key_reach: That of a normalised key.
        turned: Whether rows are normalised once they have turned.
    """

    query_slope: Float[Array, ""]
    key_slope: Float[Array, ""]
    query_reach: Float[Array, ""]
    key_reach: Float[Array, ""]
    turned: bool = struct.field(pytree_node=False, default=False)

    @classmethod
    def of(
        cls,
        query_scale: Float[Array, " d_h"],
        key_scale: Float[Array, " d_h"],
        eps: float,
        turned: bool = False,
    ):
        """From learned scales and what is added to the mean square."""
        query, key = (jnp.max(jnp.abs(scale)) for scale in (query_scale, key_scale))
        slope, reach = 1 / math.sqrt(eps), math.sqrt(query_scale.shape[-1])
        return cls(
            query_slope=slope * query,
            key_slope=slope * key,
            query_reach=reach * query,
            key_reach=reach * key,
            turned=turned,
        )

    def times(self, scale: float) -> "HeadNorms":
        """The same with turned queries and keys multiplied by ``scale``."""
        if self.turned:
            # What is normalised afterwards reaches no further for it.
            slopes = {name: scale * getattr(self, name) for name in ("query_slope", "key_slope")}
            return dataclasses.replace(self, **slopes)
        return jax.tree.map(lambda size: scale * size, self)


@struct.dataclass
class Kernels:
    """Checked kernels with heads in front, keys and values repeated for the heads that share.

    ``has_bias`` is false where all biases are known to be zero, as those of a fresh module are.
    ``head_norms`` are ``None`` where queries and keys are not normalised.
    """

    query: Float[Array, "H d d_h"]
    key: Float[Array, "H d d_h"] | None
    value: Float[Array, "H d d_h"]
    out: Float[Array, "H d_h d"]
    query_bias: Float[Array, "H d_h"] | None
    key_bias: Float[Array, "H d_h"] | None
    has_bias: bool = struct.field(pytree_node=False)
    head_norms: HeadNorms | None = None

    @property
    def key_or_query(self) -> Float[Array, "H d d_h"]:
        """Kernel of the keys, which for L2 attention is that of the queries."""
        return self.query if self.key is None else self.key

    def by_head(self, bias: Float[ArrayLike, "H_kv d_v"] | None) -> Float[Array, "H d_v"] | None:
        """A bias of key and value heads, repeated for the heads that share them."""
        if bias is None:
            return None
        bias = jnp.asarray(bias, self.query.dtype)
        return jnp.repeat(bias, self.out.shape[0] // bias.shape[0], axis=0)

    def scaled_logits(self, scale: float) -> "Kernels":
        """The same with queries and keys, as they enter the logits, multiplied by ``scale``."""
        if self.head_norms is not None:
            return dataclasses.replace(self, head_norms=self.head_norms.times(scale))
        names = ("query", "key", "query_bias", "key_bias")
        arrays = {name: getattr(self, name) for name in names}
        return dataclasses.replace(
            self, **{name: scale * array for name, array in arrays.items() if array is not None}
        )

    def scaled_queries(self, scale: Float[Array, ""]) -> "Kernels":
        """The same with queries, as they enter the logits, multiplied by ``scale``."""
        if self.head_norms is not None:
            norms = self.head_norms
            longer = {name: scale * getattr(norms, name) for name in ("query_slope", "query_reach")}
            return dataclasses.replace(self, head_norms=dataclasses.replace(norms, **longer))
        bias = None if self.query_bias is None else scale * self.query_bias
        return dataclasses.replace(self, query=scale * self.query, query_bias=bias)

    def folded(self, scale: Float[Array, " d"], bias: Float[Array, " d"] | None) -> "Kernels":
        """What acts on ``y`` where tokens are ``y * scale + bias``; the values' constant is dropped."""

        def shifted(kernel, own):
            if bias is None:
                return own
            shift = jnp.einsum("d,hdk->hk", bias, kernel)
            return shift if own is None else own + shift

        row = scale[None, :, None]
        return dataclasses.replace(
            self,
            query=row * self.query,
            key=None if self.key is None else row * self.key,
            value=row * self.value,
            query_bias=shifted(self.query, self.query_bias),
            key_bias=None if self.key is None else shifted(self.key, self.key_bias),
        )


def read_normalised_kernels(
    kernels: Mapping[str, Any], *, has_key: bool, eps: float | None, turned: bool = False
) -> Kernels:
    """As :func:`read_kernels`; ``eps`` is that of the norms of queries and keys, if there are any."""
    if eps is None:
        return read_kernels(kernels, has_key=has_key)
    rest = {name: part for name, part in kernels.items() if name not in _NORMS}
    read = read_kernels(rest, has_key=has_key)
    scales = [jnp.asarray(kernels[name]["scale"], read.query.dtype) for name in _NORMS]
    for name, scale in zip(_NORMS, scales, strict=True):
        check_finite(name, scale)
    return dataclasses.replace(read, head_norms=HeadNorms.of(scales[0], scales[1], eps, turned))


def read_kernels(kernels: Mapping[str, Any], *, has_key: bool) -> Kernels:
    """Check kernels, given by name or as the parameters of a ``MultiHeadAttention``."""
    names = ("query", "key", "value", "out") if has_key else ("query", "value", "out")
    check_instance("kernels", kernels, Mapping, f"a mapping with {', '.join(names)}")
    # L2 attention's key is its query: one bias cancels, two different ones have no bound.
    biases = dict.fromkeys(names)
    optional = ("query_bias", "key_bias") if has_key else ()
    if set(kernels) - {*names, *optional} or set(names) - set(kernels):
        also = f" (and {', '.join(optional)})" if optional else ""
        raise ValueError(f"kernels: expected {', '.join(names)}{also}, got {', '.join(kernels)}")
    arrays = {}
    for name in names:
        kernel, biases[name] = kernels[name], kernels.get(f"{name}_bias")
        if isinstance(kernel, Mapping):
            biases[name] = kernel.get("bias", biases[name])
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
    for name in ("query", "key"):
        if biases.get(name) is not None:
            _check_bias(f"{name}_bias", biases[name], arrays[name].shape[1:])
    group = num_heads // num_kv_heads

    def bias_by_head(name, repeats):
        bias = biases[name] if has_key else None
        return None if bias is None else jnp.repeat(jnp.asarray(bias, dtype), repeats, axis=0)

    def by_head(kernel):
        kernel = jnp.repeat(kernel, num_heads // kernel.shape[1], axis=1)
        return jnp.moveaxis(kernel, 1, 0)

    return Kernels(
        query=by_head(arrays["query"]),
        key=by_head(arrays["key"]) if has_key else None,
        value=by_head(arrays["value"]),
        out=arrays["out"],
        query_bias=bias_by_head("query", 1),
        key_bias=bias_by_head("key", group),
        has_bias=any(map(_counts, biases.values())),
    )


def _counts(bias):
    """Whether a bias may be another than none; what a traced one holds is not known."""
    return bias is not None and not (is_concrete(bias) and not np.any(np.asarray(bias)))


def _check_bias(name, bias, shape):
    check_floating(name, bias)
    check_finite(name, bias)
    if jnp.shape(bias) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {jnp.shape(bias)}")
