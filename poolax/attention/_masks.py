"""Which key each query sees."""

import functools
import operator

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from poolax._checks import check_count, check_flag, check_num_tokens
from poolax._numerics import with_leading_axes
from poolax._typing import AnyArray


def attention_mask(
    num_tokens: int,
    mask: Bool[AnyArray, "*batch n"] | None = None,
    *,
    causal: bool = False,
    window: int | None = None,
    segments: Int[AnyArray, "*batch n"] | None = None,
) -> Bool[Array, "*batch n n"] | None:
    """Which key each query sees: real tokens only, not the future, not beyond the window.

    Args:
        num_tokens: Number of tokens ``n``.
        mask: True at real tokens, shape ``(*batch, n)``; ``None`` if all are real.
        causal: Query ``i`` sees keys ``j <= i`` only.
        window: Each query sees at most this many neighbouring keys: ``i - window < j <= i`` if
            ``causal``, else ``-(window - 1) // 2 <= j - i <= window // 2``; so each key is seen by
            at most as many queries.
        segments: Tokens see only tokens with the same number, shape ``(*batch, n)``; ``None`` if all
            are one segment.

    Returns:
        True where query ``i`` (second to last axis) sees key ``j`` (last axis); rows of masked
        queries are False. ``None`` if everything is seen.

    Raises:
        ValueError: for numbers below one, or a mask or segments of another length or kind.

    Example:
        >>> attention_mask(3, causal=True, window=2).astype(int)
        Array([[1, 0, 0],
               [1, 1, 0],
               [0, 1, 1]], dtype=int32)
    """
    check_num_tokens("num_tokens", num_tokens)
    check_flag("causal", causal)
    mask = _rows("mask", mask, num_tokens, jnp.bool_, "bool (True = real token)")
    segments = _rows("segments", segments, num_tokens, jnp.integer, "whole numbers")
    if mask is not None and segments is not None:
        _check_together(mask.shape, segments.shape)
    seen = None
    if causal or window is not None:
        index = jnp.arange(num_tokens)
        steps = index[None, :] - index[:, None]
        behind, ahead = num_tokens, 0 if causal else num_tokens
        if window is not None:
            check_count("window", window)
            behind = window - 1 if causal else (window - 1) // 2
            ahead = 0 if causal else window // 2
        seen = (steps >= -behind) & (steps <= ahead)
    parts = [seen] if seen is not None else []
    if mask is not None:
        parts.append(mask[..., :, None] & mask[..., None, :])
    if segments is not None:
        parts.append(segments[..., :, None] == segments[..., None, :])
    ndim = max((part.ndim for part in parts), default=0)
    parts = [with_leading_axes(part, ndim) for part in parts]
    return functools.reduce(operator.and_, parts) if parts else None


def _rows(name, array, num_tokens, kind, expected):
    """An array of one number a token, or ``None``."""
    if array is None:
        return None
    dtype = getattr(array, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, kind):
        got = type(array).__name__ if dtype is None else dtype
        raise ValueError(f"{name}: expected {expected}, got {got}")
    shape = jnp.shape(array)
    if shape[-1:] != (num_tokens,):
        raise ValueError(f"{name}: expected shape (*batch, n) with n = {num_tokens}, got {shape}")
    return jnp.asarray(array)


def _check_together(mask_shape, segments_shape):
    try:
        jnp.broadcast_shapes(mask_shape, segments_shape)
    except ValueError:
        raise ValueError(
            f"segments: expected a shape that broadcasts with that of mask, {mask_shape}, got "
            f"{segments_shape}"
        ) from None
