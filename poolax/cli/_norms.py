"""Weights of a one-block model from their norms alone."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from poolax._checks import check_count, check_divides, check_number
from poolax.attention import L2, Cosine, DotProduct, Kind, to_config
from poolax.blocks import TBM
from poolax.pooling import (
    EfficientProbingPool,
    LatentAttentionPool,
    Pooler,
    QueryAttentionPool,
    WeightedAveragePool,
    from_name,
)

POOLERS = ("first", "last", "avg", "sum", "max", "wavg", "attn", "map", "hybrid")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes and spectral norms of a block; the defaults are those of a freshly initialised one.

    Attributes:
        dim: Width d of the tokens.
        num_heads: Number of heads H; divides d, and heads are at least two wide.
        query_norm: Norm of W_Q: of every head, or H norms.
        key_norm: Norm of W_K: of every head, or H norms.
        value_norm: Norm of W_V: of every head, or H norms.
        out_norm: Norm of W_O: one number is that of the whole matrix, H numbers those of the heads.
        ffn_norm: Norm of W_FFN, the kernel of the feed-forward layer.
        norm_scale: Largest scale of the two norms.
        tau: Scale of the logits of cosine attention.
        nu: Scale of the output of cosine attention.
        eps: What cosine attention adds to squared norms.
    """

    dim: int = 64
    num_heads: int = 4
    query_norm: tuple[float, ...] = (1.5,)
    key_norm: tuple[float, ...] = (1.5,)
    value_norm: tuple[float, ...] = (1.5,)
    out_norm: tuple[float, ...] = (2.0,)
    ffn_norm: float = 2.0
    norm_scale: float = 1.0
    tau: float = 1.0
    nu: float = 1.0
    eps: float = 0.01

    def check(self) -> None:
        """Refuse sizes that do not fit and numbers out of range."""
        check_count("dim", self.dim, at_least=2)
        check_count("num_heads", self.num_heads)
        check_divides("num_heads", self.num_heads, "dim", self.dim)
        if self.dim == self.num_heads:
            raise ValueError(f"num_heads: expected heads at least two wide, got {self.num_heads}")
        for name in ("query_norm", "key_norm", "value_norm", "out_norm"):
            norms = getattr(self, name)
            if len(norms) not in (1, self.num_heads):
                raise ValueError(
                    f"{name}: expected 1 or num_heads = {self.num_heads} numbers, got {len(norms)}"
                )
            for norm in norms:
                check_number(name, norm, at_least=0.0)
        for name in ("ffn_norm", "norm_scale"):
            check_number(name, getattr(self, name), at_least=0.0)

    def kinds(self) -> dict[str, Kind]:
        """The three kinds of attention by name."""
        cosine = Cosine(tau=self.tau, nu=self.nu, eps=self.eps)
        return {to_config(kind)["name"]: kind for kind in (DotProduct(), L2(), cosine)}


def pooler_of(name: str, num_tokens: int, dim: int) -> Pooler:
    """The pooler of a name, in sizes that fit any width."""
    pooler = from_name(name)
    if isinstance(pooler, WeightedAveragePool):
        return WeightedAveragePool(max_tokens=num_tokens)
    if isinstance(pooler, LatentAttentionPool):
        return LatentAttentionPool(num_heads=math.gcd(pooler.num_heads, dim))
    if isinstance(pooler, EfficientProbingPool):
        return EfficientProbingPool(num_queries=math.gcd(pooler.num_queries, dim))
    if isinstance(pooler, QueryAttentionPool):
        return QueryAttentionPool()
    return pooler


@functools.cache
def initial_variables(pooler: Pooler, num_tokens: int, dim: int) -> Mapping[str, Any]:
    """What ``init`` gives a pooler of tokens of width ``dim``; nothing if there is none to learn."""
    # Compiled, nothing but the parameters is computed.
    return jax.jit(pooler.init)(jax.random.key(0), jnp.zeros((num_tokens, dim)))


def extremal_block(sizes: Sizes, kind: Kind, pooler: Pooler) -> tuple[TBM, dict[str, Any]]:
    """A block whose weights have the given norms, and whose bound is the largest of all that have them.

    Kernels of queries, keys and values are partial isometries, scaled, from the same entries of a
    token in all heads, so that every product of two has the product of their norms and heads add up.
    ``W_O`` of one given norm is a scaled identity; from norms of heads it writes all heads to the same
    entries. The pooler's parameters are not among them.
    """
    dim, num_heads = sizes.dim, sizes.num_heads
    head_dim = dim // num_heads
    each = jnp.broadcast_to(jnp.eye(dim, head_dim)[:, None], (dim, num_heads, head_dim))

    def by_head(norms):
        return each * jnp.broadcast_to(jnp.asarray(norms), (num_heads,))[:, None]

    if len(sizes.out_norm) == 1:
        out = sizes.out_norm[0] * jnp.eye(dim).reshape(num_heads, head_dim, dim)
    else:
        out = jnp.asarray(sizes.out_norm)[:, None, None] * jnp.eye(head_dim, dim)
    attention = {"query": by_head(sizes.query_norm), "key": by_head(sizes.key_norm)}
    attention |= {"value": by_head(sizes.value_norm), "out": out}
    if isinstance(kind, L2):
        del attention["key"]
    norm = {"scale": jnp.full(dim, sizes.norm_scale), "bias": jnp.zeros(dim)}
    params: dict[str, Any] = {
        "attention": {name: {"kernel": kernel} for name, kernel in attention.items()},
        "ffn": {"kernel": sizes.ffn_norm * jnp.eye(dim)},
        "norm1": norm,
        "norm2": norm,
    }
    return TBM(num_heads, pooler, kind), {"params": params}
