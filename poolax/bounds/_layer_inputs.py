"""Which layers local bounds and certificates take, and the attention that belongs to them."""

from collections.abc import Iterator, Sequence

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from poolax._checks import check_all_finite, check_finite, check_instance
from poolax._layer_specs import AttentionSpec, LayerSpec
from poolax.bounds._no_bound import NoBoundError, check_no_inner_norm, check_plain_logits


def checked_maps(
    layers: Sequence[LayerSpec],
    weights: Sequence[Float[ArrayLike, "*batch H n n"]],
    shape: Sequence[int],
) -> list[Float[Array, "*batch H n n"] | None]:
    """The attention of each of several layers that are checked; ``None`` where there is none."""
    if not layers:
        raise ValueError("layers: expected at least one layer, got none")
    maps = iter(weights)
    found = [_next_attention(maps, spec, shape) for spec in layers]
    if next(maps, None) is not None:
        raise ValueError(f"weights: expected one map for each attention layer, got {len(weights)}")
    return found


def _next_attention(
    maps: Iterator[Float[ArrayLike, "*batch H n n"]], spec: LayerSpec, shape: Sequence[int]
) -> Array | None:
    """The attention of a layer that is checked, for tokens of a shape ``(*batch, n, d)``."""
    check_instance("layers", spec, LayerSpec, "LayerSpec records")
    branch = spec.branch
    num_tokens = shape[-2]
    if isinstance(branch, AttentionSpec):
        check_plain_logits(branch.query_key_eps, branch.soft_cap, branch.query_growth, num_tokens)
    check_no_inner_norm(getattr(branch, "inner_norm_eps", None))
    if spec.norm_branch is not None:
        raise NoBoundError(
            f"layers: expected layers that add what their branch gives, got {spec.name!r}, which "
            "normalises it first"
        )
    attention = None
    if isinstance(branch, AttentionSpec):
        attention = _next_map(maps, spec, branch, shape)  # (*batch, H, n, n)
        check_finite("weights", attention)
    check_all_finite(spec.name, spec)
    return attention


def _next_map(maps, spec, branch: AttentionSpec, shape):
    if branch.partition is not None:
        raise NoBoundError(
            f"layers: expected layers that attend over the whole sequence, got {spec.name!r}, which "
            "cuts it into windows"
        )
    attention = next(maps, None)
    num_tokens = shape[-2]
    expected = (*shape[:-2], branch.params["query"]["kernel"].shape[1], num_tokens, num_tokens)
    if attention is None or jnp.shape(attention) != expected:
        came = "none" if attention is None else f"shape {jnp.shape(attention)}"
        raise ValueError(f"weights: expected a map of shape {expected} for {spec.name!r}, got {came}")
    return jnp.asarray(attention)
