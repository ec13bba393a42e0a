"""Attention layers and one-block models of bounds.py, their weights and their bounds."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from poolax import attention, bounds, empirical, measure, pooling
from poolax.blocks import TBM
from poolax.bounds import Domain

_ALL = (attention.DotProduct(), attention.L2(), attention.Cosine(tau=1.0, nu=1.0, eps=0.01))
KINDS: dict[str, attention.Kind] = {attention.to_config(kind)["name"]: kind for kind in _ALL}
POOLERS = (
    *("first", "last", "avg", "sum", "max", "wavg", "attn", "map", "hybrid"),
    *("sqrt", "l2", "position", "lse", "ep", "abmil", "multimax", "rolling"),
)
# Whole attention, one of its tokens, and one-block models by pooler.
TARGETS = ("attention", "token", *POOLERS)
# Where they are bounded and searched.
BALL = Domain(1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Case:
    """One function whose Lipschitz constant on the unit ball is bounded and searched for.

    Attributes:
        attention: Name of the kind of attention.
        target: "attention" (the whole layer), "token" (one of its outputs), or the pooler of a
            one-block model.
        num_tokens: Number of tokens.
        dim: Width.
        num_heads: Number of heads.
    """

    attention: str
    target: str
    num_tokens: int
    dim: int
    num_heads: int

    @functools.cached_property
    def module(self) -> Any:
        """The layer or model."""
        kind = KINDS[self.attention]
        if self.target in ("attention", "token"):
            return attention.MultiHeadAttention(self.num_heads, kind)
        options: dict[str, Any] = {}
        if self.target == "wavg":
            options = {"max_tokens": self.num_tokens}
        if self.target == "attn":
            options = {"num_latents": 8, "num_heads": self.num_heads}
        if self.target == "ep":  # each query has its part of the width
            options = {"num_queries": self.num_heads}
        return TBM(self.num_heads, pooling.from_name(self.target, **options), kind)

    def variables(self, scale: float, key: jax.Array) -> Any:
        """Freshly initialised weights, those of attention and feed-forward layer times ``scale``."""
        x = jnp.zeros((self.num_tokens, self.dim))
        fresh = self.module.init(key, x)

        def scaled(path, leaf):
            names = [entry.key for entry in path]
            return leaf if {"norm1", "norm2", "pooler"} & set(names) else scale * leaf

        return jax.tree.map_with_path(scaled, fresh)

    def draw(self, key: jax.Array) -> jax.Array:
        """A random input, most likely in the ball."""
        return 0.5 * jax.random.normal(key, (self.num_tokens, self.dim)) / self.dim**0.5

    def aligned(self, key: jax.Array) -> Any:
        """Weights whose bound is the largest of all with their norms: all heads read the same space."""
        return self._isometric(key, lambda name, width: jnp.eye(self.dim, width))

    def apart(self, key: jax.Array) -> Any:
        """Weights whose queries, keys and values read different entries of a token."""
        third = max(self.dim // 3, 1)
        first = {"query": 0, "key": third, "value": 2 * third}

        def reads(name, width):
            return jnp.eye(self.dim, min(third, width), k=-first[name]) @ jnp.eye(
                min(third, width), width
            )

        return self._isometric(key, reads)

    def _isometric(self, key, reads):
        """Queries, keys and values by head ``reads(name, width)``, other kernels the identity."""

        def filled(path, leaf):
            names = [entry.key for entry in path]
            if {"norm1", "norm2", "pooler"} & set(names):
                return leaf
            if names[-2] in ("query", "key", "value"):
                return jnp.broadcast_to(reads(names[-2], leaf.shape[-1])[:, None], leaf.shape)
            return jnp.eye(self.dim).reshape(leaf.shape)

        return jax.tree.map_with_path(filled, self.variables(1.0, key))

    def apply(self, variables: Any, x: jax.Array) -> jax.Array:
        """The function of tokens ``(n, d)``."""
        out = self.module.apply(variables, x)
        return out[0] if self.target == "token" else out

    def bound(self, variables: Any, method: str, geometry: str = "frobenius") -> jax.Array:
        """Its bound on the unit ball; that of attention in the Frobenius norm alone."""
        if method == "published" and self.target == "token":
            raise bounds.NoBoundError("target: nothing was published for one token")
        sizes = {"num_tokens": self.num_tokens, "radius": BALL.radius, "method": method}
        if isinstance(self.module, TBM):
            return bounds.tbm(self.module, variables, **sizes, geometry=geometry).lipschitz
        found = bounds.attention(self.module.kind, variables["params"], **sizes, pattern="full")
        bound = found.per_token if self.target == "token" else found.sequence
        return jnp.asarray(bound)

    def local(self, variables: Any, x: jax.Array, geometry: str = "frobenius") -> jax.Array | None:
        """Its bound at ``x``; None for one token, for which there is none."""
        if isinstance(self.module, TBM):
            return bounds.local_tbm(self.module, variables, x, geometry=geometry).lipschitz
        if self.target == "token":
            return None
        kernels = {name: part["kernel"] for name, part in variables["params"].items()}
        return bounds.local_attention(x, **{"key": None, **kernels}, kind=self.module.kind)


def constants(
    case: Case, variables: Any, x: jax.Array, geometry: str = "frobenius"
) -> dict[str, float | None]:
    """All bounds, and the Jacobian's norm at ``x``: exact, or of tokens by power iteration."""
    row = measure.by_method(lambda method: float(case.bound(variables, method, geometry)))
    local = case.local(variables, x, geometry)
    row["local"] = None if local is None else float(local)
    fn = functools.partial(case.apply, variables)
    if geometry == "frobenius":
        found = float(empirical.jacobian_norm(fn, x))
    else:
        key = jax.random.key(0)
        found = float(empirical.power_iteration(fn, x, key=key, geometry=geometry).value)
    measure.check_order(found, row, what=str(case), rounding=1e-5)
    return {**row, "found": found}


def split_free(variables: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights that are searched over, and what stays: norms' scales and the pooler."""
    params = variables["params"]
    free = {name: part for name, part in params.items() if name not in ("norm1", "norm2", "pooler")}
    return free, {name: part for name, part in params.items() if name not in free}


def with_norms(params: dict[str, Any], norm: Any) -> Any:
    """Variables whose kernels have the given spectral norm: W_Q, W_K, W_V by head, W_O, W_FFN whole."""

    def scaled(path, kernel):
        names = [entry.key for entry in path]
        if {"norm1", "norm2", "pooler"} & set(names):
            return kernel
        if names[-2] in ("query", "key", "value"):
            size = bounds.spectral_norm(jnp.moveaxis(kernel, 1, 0))[:, None]
        else:
            size = bounds.spectral_norm(kernel.reshape(-1, kernel.shape[-1]))
        return norm * kernel / jnp.where(size > 0, size, 1)

    return {"params": jax.tree.map_with_path(scaled, params)}
