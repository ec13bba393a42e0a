"""What the bounds read off an attention layer: its kind, positions and which tokens it sees."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from poolax._checks import check_instance, is_concrete
from poolax.attention import (
    Kind,
    MultiHeadAttention,
    PatchRotary,
    QueryGrowth,
    Rotary,
    from_name,
)
from poolax.bounds._domain import token_range
from poolax.bounds._no_bound import check_no_inner_norm
from poolax.records import TokenRange


@dataclasses.dataclass(frozen=True)
class Layer:
    """What is known of an attention layer besides its kernels.

    Attributes:
        kind: Its kind.
        kernels: Its kernels or parameters.
        num_tokens: How many tokens see one, and are seen by one, at most.
        rotary: Its rotary positions, whether there are any if nothing else is known, or ``None``.
        pattern: Which tokens see each other; see :func:`poolax.bounds.attention`.
        query_key_eps: Of the norms of queries and keys; ``None`` without.
        query_key_turned: Whether they are normalised once they have turned.
        growth: What the last of the queries is multiplied with; ``None`` if they do not grow.
        capped: Whether logits are capped.
    """

    kind: Kind
    kernels: Any
    num_tokens: float | Array | TokenRange
    rotary: bool | Rotary | PatchRotary | None
    pattern: str
    query_key_eps: float | None = None
    query_key_turned: bool = False
    growth: Array | None = None
    capped: bool = False


def read_layer(
    kind: Kind | MultiHeadAttention,
    kernels: Mapping[str, Any],
    num_tokens: float | Array | TokenRange,
    rotary: bool | Rotary | PatchRotary | None,
    pattern: str | None,
) -> Layer:
    """What a kind with its kernels, or a module with its variables, says of a layer."""
    if not isinstance(kind, MultiHeadAttention):
        kind = from_name(kind) if isinstance(kind, str) else kind
        check_instance("kind", kind, Kind, "DotProduct, L2 or Cosine, or a MultiHeadAttention")
        check_instance("rotary", rotary, bool | Rotary | PatchRotary | None, "a Rotary, True or False")
        return Layer(kind, kernels, num_tokens, rotary, "any" if pattern is None else pattern)
    module = kind
    check_no_inner_norm(module.inner_norm_eps)
    if rotary is not None:
        raise ValueError(
            f"rotary: expected None beside a module, which has its own positions, got {rotary}"
        )
    params = kernels.get("params") if isinstance(kernels, Mapping) else None
    if not isinstance(params, Mapping) or "query" not in params:
        raise ValueError("variables: expected what MultiHeadAttention.init returned")
    _check_heads(module, params)
    whole = token_range(num_tokens)
    tokens, windowed = _seen(module, whole)
    if pattern is None:
        pattern = "any" if windowed else "sequence"
    if windowed and pattern != "any":
        raise ValueError(f"pattern: expected 'any' for a sliding window, got {pattern!r}")
    if module.causal and pattern == "full":
        raise ValueError("pattern: expected 'any' or 'sequence' for causal attention, got 'full'")
    return Layer(
        module.kind,
        module.plain_scales(params),
        tokens,
        module.rotary,
        pattern,
        query_key_eps=module.query_key_eps,
        query_key_turned=module.query_key_turned,
        growth=largest_growth(module.query_growth, whole),
        capped=module.soft_cap is not None,
    )


def _check_heads(module, params):
    num_kv_heads = module.num_heads if module.num_kv_heads is None else module.num_kv_heads
    for name, expected in (("query", module.num_heads), ("value", num_kv_heads)):
        shape = np.shape(params[name]["kernel"])
        if len(shape) != 3 or shape[1] != expected:
            raise ValueError(
                f"variables/{name}: expected the {expected} heads of the module, got shape {shape}"
            )


def _seen(module, tokens):
    """How many tokens see one another at most, and whether a window keeps others apart."""
    window = module.window
    if window is None or (is_concrete(tokens.high) and np.asarray(tokens.high) <= window):
        return tokens, False
    low, high = (jnp.minimum(jnp.asarray(number), window) for number in (tokens.low, tokens.high))
    return TokenRange(low, high), True


def largest_growth(growth: QueryGrowth | None, tokens: TokenRange) -> Array | None:
    """What the last query of the longest sequence is multiplied with; ``None`` for no growth."""
    return None if growth is None else growth(jnp.asarray(tokens.high) - 1)


def feature_scale(rotary: bool | Rotary | PatchRotary | None) -> float:
    """What turned queries and keys are multiplied with; 1 where nothing is known but that they turn."""
    return rotary.feature_scale if isinstance(rotary, Rotary | PatchRotary) else 1.0
