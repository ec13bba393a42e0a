"""Bounds of attention layers from their checked kernels."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from poolax._checks import check_choice
from poolax.attention import L2, Cosine, DotProduct, Kind
from poolax.bounds._combine import Combination, combination
from poolax.bounds._domain import check_domain, token_range
from poolax.bounds._heads import (
    PATTERNS,
    Setting,
    cosine_heads,
    dot_product_heads,
    l2_heads,
    rotary_heads,
)
from poolax.bounds._kernels import Kernels
from poolax.bounds._layer import assemble
from poolax.bounds._linalg import lambert_w, product_norm, round_up, spectral_norm
from poolax.bounds._no_bound import NoBoundError
from poolax.bounds._units import units_of
from poolax.records import AttentionBound, TokenRange

_Number = Float[ArrayLike, ""]


def attention_of_kernels(
    kind: Kind,
    kernels: Kernels,
    num_tokens: float | Array | TokenRange,
    radius: _Number | None,
    spread: _Number | None,
    method: str,
    pattern: str,
    *,
    rotary: bool,
    capped: bool = False,
    grows: bool = False,
    combine: Combination | None = None,
) -> AttentionBound:
    """As :func:`poolax.bounds.attention`, from checked kernels, and their combination if known.

    ``rotary``, ``capped`` and ``grows`` say whether queries and keys turn, whether logits are capped,
    and whether queries grow with their positions; ``kernels`` are those of the last query.
    """
    check_choice("pattern", pattern, PATTERNS)
    is_plain = isinstance(kind, DotProduct) or kind.plain_values
    check_domain(radius, spread, needed=is_plain)
    if rotary and not isinstance(kind, DotProduct):
        raise NoBoundError(
            f"rotary: expected False for {type(kind).__name__}, whose bound with rotary positions is "
            "not known, got True"
        )
    tokens = token_range(num_tokens)
    # Whole numbers would overflow in their powers.
    dtype = kernels.query.dtype
    fewest, most = jnp.asarray(tokens.low, dtype), jnp.asarray(tokens.high, dtype)
    radius = None if radius is None else jnp.asarray(radius, dtype)
    if spread is not None:
        spread = jnp.asarray(spread, dtype)
    if radius is not None:
        spread = radius if spread is None else jnp.minimum(radius, spread)
    if method == "published":
        _check_published(kind, kernels, rotary, capped, grows)
    by_norms = rotary or capped or grows or kernels.head_norms is not None
    setting = Setting(fewest, most, radius, spread, pattern, method == "tight")
    if isinstance(kind, Cosine) or kernels.head_norms is not None:
        # What is added to a norm's square has no other units.
        return _of_units(kind, kernels, setting, method, by_norms=by_norms, combine=combine)
    units = units_of(kernels, kind, values=combine is None)
    own = dataclasses.replace(setting, radius=units.length(radius), spread=units.length(spread))
    bound = _of_units(kind, units.kernels(kernels), own, method, by_norms=by_norms, combine=combine)
    attends = most > 1 if spread is None else (most > 1) & (spread > 0)
    return units.restored(bound, kernels, attends)


def _of_units(kind, kernels, setting, method, *, by_norms, combine):
    if method == "published":
        return _published(kind, kernels, setting.most, setting.radius)
    compute: Any = {DotProduct: dot_product_heads, L2: l2_heads, Cosine: cosine_heads}[type(kind)]
    compute = rotary_heads if by_norms else compute
    heads = compute(kernels, kind, setting)
    if combine is None:
        combine = combination(kernels, kind, tight=setting.tight)
    return assemble(heads, combine, setting)


def _check_published(kind, kernels, rotary, capped, grows):
    what = None
    if kernels.has_bias:
        what = "attention with biases"
    elif rotary:
        what = "rotary positions"
    elif capped:
        what = "capped logits"
    elif grows:
        what = "queries that grow"
    elif kernels.head_norms is not None:
        what = "norms of queries and keys"
    elif not isinstance(kind, DotProduct) and kind.plain_values:
        what = "plain values"
    if what is not None:
        raise NoBoundError(
            f"method: expected 'sharp' or 'tight' for {what}, for which nothing was published"
        )


def _published(kind, kernels, num_tokens, radius):
    if isinstance(kind, DotProduct):
        logit_norm = product_norm(kernels.query, kernels.key) * kind.logit_scale(
            kernels.query.shape[-1]
        )
        slope = logit_norm * radius * radius
        head = jnp.hypot(slope * jnp.sqrt(4 * num_tokens + 1), jnp.sqrt(num_tokens))
        through_out = product_norm(kernels.value, jnp.swapaxes(kernels.out, -1, -2))
        sequence = jnp.sum(through_out * math.sqrt(3) * head)
        source = "Castin, Ablin and Peyré 2024, Theorem 3.3, on a ball; heads added"
    elif isinstance(kind, L2):
        w = lambert_w((num_tokens - 1) / jnp.e)
        metric = jnp.square(spectral_norm(kernels.query)) / math.sqrt(kernels.query.shape[-1])
        combined = combination(kernels, kind, tight=False)(metric * spectral_norm(kernels.value))
        sequence = jnp.sqrt(num_tokens) * (4 * w + 1) * combined
        source = "Kim, Papamakarios and Mnih 2021, Theorem 3.2"
    else:
        query_norm, key_norm, value_norm = (
            spectral_norm(kernel) for kernel in (kernels.query, kernels.key, kernels.value)
        )
        n = num_tokens
        head = (n - 1) * kind.tau * (n * key_norm + query_norm) + n * value_norm
        largest = jnp.max(2 * kind.nu / jnp.sqrt(kind.eps) * head)
        out_norm = spectral_norm(kernels.out.reshape(-1, kernels.out.shape[-1]))
        sequence = math.sqrt(kernels.out.shape[0]) * out_norm * largest
        source = "Qi et al. 2023 (LipsFormer), scaled cosine similarity attention"
    return AttentionBound(
        sequence=round_up(sequence),
        per_token=None,
        mixing=None,
        own=None,
        method="published",
        source=source,
    )
