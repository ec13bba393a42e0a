"""Blocks in a row: parameters, the pass through them, and their description for the bounds."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float, PyTree

from poolax._layer_specs import AttentionSpec, FeedForwardSpec, LayerSpec, NormSpec
from poolax._norms import LayerNorm, frozen_scale, scale_from_one

STACKED = "blocks"


def layer_norm(eps: float, *, use_bias: bool = True) -> LayerNorm:
    """A layer norm whose variance loses no digits to a large mean, as pretrained models need it."""
    return LayerNorm(epsilon=eps, use_bias=use_bias, use_fast_variance=False, parent=None)


def block_name(index: int) -> str:
    """Name of a block among the parameters."""
    return f"block_{index}"


def init_blocks(blocks: Sequence[nn.Module], key: Array, width: int) -> dict[str, PyTree]:
    """Random parameters of blocks, by name."""
    x = jnp.zeros((1, 1, width))
    keys = jax.random.split(key, len(blocks))
    return {
        block_name(index): block.init(block_key, x)["params"]
        for index, (block, block_key) in enumerate(zip(blocks, keys, strict=True))
    }


def is_stacked(params: Mapping[str, PyTree]) -> bool:
    """Whether the parameters of all blocks stand in one tree, stacked along a leading axis."""
    return STACKED in params


def stack_blocks(params: dict[str, PyTree], *, consume: bool = False) -> dict[str, PyTree]:
    """Stack the parameters of blocks along a leading axis, so that one ``scan`` runs them.

    Args:
        params: Parameters of the blocks by name, and others.
        consume: Take the blocks out of ``params`` and let go of each array once it is stacked, so that
            memory holds little more than one copy.

    Returns:
        The others, and the stacked parameters.
    """
    names = [name for name in params if name.startswith("block_")]
    blocks = [params[block_name(index)] for index in range(len(names))]
    rest = {name: value for name, value in params.items() if name not in names}
    if consume:
        for name in names:
            del params[name]
    tree = jax.tree.structure(blocks[0])
    columns = [jax.tree.leaves(block) for block in blocks]
    del blocks
    stacked = []
    for index in range(tree.num_leaves):
        stacked.append(jnp.stack([column[index] for column in columns]))
        for column in columns:
            column[index] = None
    return {**rest, STACKED: jax.tree.unflatten(tree, stacked)}


def unstack_blocks(params: dict[str, PyTree]) -> dict[str, PyTree]:
    """Parameters of blocks by name, of stacked ones; undoes :func:`stack_blocks`."""
    rest = {name: value for name, value in params.items() if name != STACKED}
    number = len(jax.tree.leaves(params[STACKED])[0])
    return {**rest, **{block_name(index): block_params(params, index) for index in range(number)}}


def block_params(params: Mapping[str, PyTree], index: int) -> PyTree:
    """Parameters of one block, from either layout."""
    if is_stacked(params):
        return jax.tree.map(lambda leaf: leaf[index], params[STACKED])
    return params[block_name(index)]


def cast_floating(tree: PyTree, dtype: Dtype | None) -> PyTree:
    """Cast the floating leaves of a tree; ``None`` leaves them as they are."""
    if dtype is None:
        return tree
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree
    )


def map_with_path(fn: Callable[[str, Any], Any], tree: PyTree) -> PyTree:
    """Map ``fn(path, leaf)`` over a tree, paths such as ``"encoder/norm/scale"``."""

    def call(path, leaf):
        return fn(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)

    return jax.tree_util.tree_map_with_path(call, tree)


def leaf_shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Shape of each leaf by path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def run_blocks(
    blocks: Sequence[nn.Module],
    params: Mapping[str, PyTree],
    x: Float[Array, "*batch n d"],
    mask: Bool[Array, "*batch n"] | None,
    bias: Float[Array, "*layers H n n"] | None = None,
    *,
    first: int = 0,
    return_weights: bool = False,
    remat: bool = False,
    compute_dtype: Dtype | None = None,
) -> tuple[Array, tuple[Array, ...] | None]:
    """Pass tokens through blocks; stacked parameters are scanned.

    Args:
        blocks: The blocks to run, which follow each other; equal ones if parameters are stacked.
        params: Parameters of the blocks, by name or stacked.
        x: Tokens.
        mask: True at real tokens, or ``None``.
        bias: Added to the logits, shape ``(H, n, n)``, or ``(layers, H, n, n)`` with one for each
            block of the model; ``None`` for none.
        first: Number of the first of the blocks.
        return_weights: Also return the attention of each block.
        remat: Compute the blocks again in a backward pass instead of keeping what they compute.
        compute_dtype: What parameters are cast to, a block at a time; ``None`` for their own.

    Returns:
        Tokens, and the attention of each block or ``None``.
    """
    own, shared = (bias, None) if bias is not None and bias.ndim == 4 else (None, bias)
    stop = first + len(blocks)

    def run(block, params, x, own) -> tuple[Array, Any]:
        params = cast_floating(params, compute_dtype)
        out = block.apply({"params": params}, x, mask, shared if own is None else own, return_weights)
        return out if return_weights else (out, None)

    if is_stacked(params):
        if not blocks:
            return x, () if return_weights else None

        def step(x, inputs):
            return run(blocks[0], inputs[0], x, inputs[1])

        # Inside a scan nothing is merged with the forward pass, which is what prevent_cse is against.
        step = jax.checkpoint(step, prevent_cse=False) if remat else step
        stacked = jax.tree.map(lambda leaf: leaf[first:stop], (params[STACKED], own))
        x, weights = jax.lax.scan(step, x, stacked)
        return x, tuple(weights) if return_weights else None
    weights = []
    for index, block in enumerate(blocks, first):
        call = functools.partial(run, block)
        call = jax.checkpoint(call) if remat else call
        x, attended = call(params[block_name(index)], x, None if own is None else own[index])
        weights.append(attended)
    return x, tuple(weights) if return_weights else None


def norm_spec(norm: nn.Module, params: Mapping[str, Array]) -> NormSpec:
    """Describe a ``LayerNorm``, an RMSNorm, a ``CenterNorm`` or a ``FrozenBatchNorm``."""
    name, scale, eps = type(norm).__name__, params["scale"], float(getattr(norm, "epsilon", 0.0))
    if name == "FrozenBatchNorm":
        scale = frozen_scale(params, eps)
        return NormSpec("affine", scale, params["bias"] - params["mean"] * scale)
    kinds = {"LayerNorm": "layer", "RMSNorm": "rms", "RMSNormFromOne": "rms", "CenterNorm": "center"}
    scale = scale_from_one(scale) if name == "RMSNormFromOne" else scale
    return NormSpec(kind=kinds[name], scale=scale, bias=params.get("bias"), eps=eps)


def attention_spec(attention: Any, params: Mapping[str, Any], **options: Any) -> AttentionSpec:
    """Describe a ``MultiHeadAttention``."""
    rotary = attention.rotary
    return AttentionSpec(
        kind=attention.kind,
        params=attention.plain_scales(params),
        rotary=rotary is not None,
        rotary_scale=1.0 if rotary is None else rotary.feature_scale,
        positions=rotary,
        causal=attention.causal,
        window=attention.window,
        query_key_eps=attention.query_key_eps,
        query_key_turned=attention.query_key_turned,
        query_growth=attention.query_growth,
        soft_cap=attention.soft_cap,
        inner_norm_eps=attention.inner_norm_eps,
        **options,
    )


def block_specs(
    name: str, block: Any, params: Mapping[str, Any], *, norm_first: bool
) -> list[LayerSpec]:
    """Describe a Pre-LN (``norm_first``) or Post-LN block: attention, then feed-forward."""
    branches = (
        ("attention", attention_spec(block.attention, params["attention"])),
        ("ffn", _feed_forward_spec(block.ffn, params["ffn"])),
    )
    specs = []
    for number, (part, branch) in enumerate(branches, 1):
        norm = _optional_norm(block, f"norm{number}", params)
        before, after = (norm, None) if norm_first else (None, norm)
        specs.append(
            LayerSpec(
                name=f"{name}/{part}",
                branch=branch,
                norm_before=before,
                norm_after=after,
                norm_branch=_optional_norm(block, f"out_norm{number}", params),
                residual_scale=params.get(f"scale{number}"),
            )
        )
    return specs


def _feed_forward_spec(layer, params) -> FeedForwardSpec:
    inner = getattr(layer, "inner_norm_eps", None)
    return FeedForwardSpec(params=params, activation=layer.activation, inner_norm_eps=inner)


def _optional_norm(block, name, params):
    norm = getattr(block, name, None)
    return None if norm is None else norm_spec(norm, params[name])
