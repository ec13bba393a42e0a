"""Local bounds of whole backbones: at given inputs, from their attention maps.

Theory, sections 5.3, 5.4 and 7.7.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike, Bool, Float

from poolax._checks import (
    broadcast_mask,
    check_all_finite,
    check_finite,
    check_instance,
    check_tokens,
)
from poolax._layer_specs import AttentionSpec, FeedForwardSpec, LayerSpec
from poolax._numerics import accumulation_dtype, at_highest_precision, zero_masked
from poolax._threads import on_one_thread
from poolax.attention import L2
from poolax.bounds._domain import domain_of
from poolax.bounds._kernels import read_kernels
from poolax.bounds._linalg import spectral_norm
from poolax.bounds._local_blocks import attention_blocks
from poolax.bounds._local_norms import norm_at
from poolax.bounds._local_pooled import pooled_norm
from poolax.bounds._no_bound import NoBoundError, check_no_inner_norm, check_plain_logits
from poolax.bounds._overflow import check_held, or_infinite
from poolax.bounds._rebuilt import attention_layer, feed_forward_layer, with_biases
from poolax.pooling import Pooler
from poolax.records import Ledger, LedgerRow


@on_one_thread
@at_highest_precision
def local_ledger(
    layers: Iterable[LayerSpec],
    embeddings: Float[ArrayLike, "n d"],
    weights: Sequence[Float[ArrayLike, "H n n"]],
    mask: Bool[ArrayLike, " n"] | None = None,
    *,
    pooler: Pooler | None = None,
    variables: Mapping[str, Any] | None = None,
    branches: bool = True,
) -> Ledger:
    r"""Bound of the Jacobian's norm of a backbone at a given input, layer by layer.

    It holds at this input alone. Layer ``l`` has block norms ``N^l_ik``, output token ``i`` against
    input token ``k``: those of :func:`local_attention` for attention, exact norms on the diagonal for
    feed-forward layers, both with the residual connection and with the norms at their values here.
    Blocks of the whole are at most those of the product of these matrices, so that

        ``|J| <= |N^L ... N^1|``,

    never above the product of the layers' own ``|N^l|``, which are the rows' factors. With a pooler the
    last row is what it makes of the product, from its exact derivative at the token states.

    Args:
        layers: Descriptions of the layers, as ``backbone.layer_specs(params)`` gives them.
        embeddings: What ``backbone.embed`` gives for one input, shape ``(n, d)``.
        weights: Attention of every layer there, shape ``(H, n, n)`` each:
            ``backbone.encode(..., return_weights=True).weights`` of that input.
        mask: True at real tokens, shape ``(n,)``; ``None`` if all are real.
        pooler: A pooler on the token states, or ``None`` for the states themselves.
        variables: The pooler's variables, if it has any.
        branches: Whether to bound the branches alone as well, for their own column: half of the work.
            Without it their rows' ``log_branch`` is NaN.

    Returns:
        The ledger, with the token states. Without real tokens the bound is 0.

    Raises:
        NoBoundError: for layers that cut or merge tokens, or are convolutions.
        ValueError: for no layers, wrong shapes, dtypes or masks, values that are not finite or such
            that the bound overflows, or attention maps that do not fit the layers.

    Example:
        >>> import jax
        >>> from poolax import backbones, pooling
        >>> config = backbones.ViTConfig(8, 4, 3, width=16, num_layers=2, num_heads=2, mlp_dim=24)
        >>> vit = backbones.ViT.init(config, jax.random.key(0))
        >>> embeddings, _ = vit.embed(vit.params, jax.random.normal(jax.random.key(1), (1, 8, 8, 3)))
        >>> out = vit.encode(vit.params, embeddings, return_weights=True)
        >>> table = local_ledger(
        ...     vit.layer_specs(vit.params), embeddings[0], [maps[0] for maps in out.weights],
        ...     pooler=pooling.AveragePool(),
        ... )
        >>> bool(jnp.allclose(table.states, out.states[0], atol=1e-5))
        True

    Reference:
        Theory, sections 5.3 and 5.4; this library's own.
    """
    check_tokens("embeddings", embeddings)
    x = jnp.asarray(embeddings)
    if x.ndim != 2:
        raise ValueError(f"embeddings: expected shape (n, d), got {x.shape}")
    mask = broadcast_mask(mask, x.shape[:-1])
    check_finite("embeddings", x, mask)
    x = zero_masked(x, mask).astype(accumulation_dtype(x))
    num_tokens = x.shape[0]
    real = jnp.ones(num_tokens, bool) if mask is None else mask
    maps = iter(weights)
    blocks, log_scale, rows = jnp.eye(num_tokens, dtype=x.dtype), jnp.zeros((), x.dtype), []
    for spec in layers:
        check_instance("layers", spec, LayerSpec, "LayerSpec records")
        branch = spec.branch
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
            attention = _next_map(maps, spec, num_tokens)  # (H, n, n)
            check_finite("weights", attention)
        check_all_finite(spec.name, spec)
        # Without its name, so that layers of one shape share one program.
        layer = dataclasses.replace(spec, name="")
        x, blocks, log_scale, row = _add_layer(
            layer, x, blocks, log_scale, attention, real, with_branch=branches
        )
        check_held("embeddings", jnp.abs(x))
        rows.append(dataclasses.replace(row, name=spec.name))
    if not rows:
        raise ValueError("layers: expected at least one layer, got none")
    if next(maps, None) is not None:
        raise ValueError(f"weights: expected one map for each attention layer, got {len(weights)}")
    total, domain = _whole(blocks, log_scale, x, real)
    if pooler is not None:
        check_instance("pooler", pooler, Pooler, "a Pooler")
        row, total = _pooled(pooler, dict(variables or {}), blocks, log_scale, total, x, mask)
        rows.append(row)
    rounding = 64 * len(rows) * jnp.finfo(x.dtype).eps
    total = or_infinite(total + rounding)
    check_held("embeddings", total)
    return Ledger(tuple(rows), total, domain, "local", states=x)


def _next_map(maps, spec, num_tokens):
    branch = spec.branch
    if branch.partition is not None:
        raise NoBoundError(
            f"layers: expected layers that attend over the whole sequence, got {spec.name!r}, which "
            "cuts it into windows"
        )
    attention = next(maps, None)
    shape = (branch.params["query"]["kernel"].shape[1], num_tokens, num_tokens)
    if attention is None or jnp.shape(attention) != shape:
        came = "none" if attention is None else f"shape {jnp.shape(attention)}"
        raise ValueError(f"weights: expected a map of shape {shape} for {spec.name!r}, got {came}")
    return jnp.asarray(attention)


@functools.partial(jax.jit, static_argnames="with_branch")
def _add_layer(spec: LayerSpec, x, blocks, log_scale, attention, real, *, with_branch):
    """What comes out of a layer at ``x``, the product of block norms so far, and the layer's row.

    One program for all layers of one shape: a backbone has two of them, and a dozen layers.
    """
    before = domain_of(x, real)
    x, matrix, log_branch, log_norm = _at_point(spec, x, attention, real, with_branch)
    matrix = jnp.where(real[:, None] & real[None, :], matrix, 0)
    x = zero_masked(x, real)
    # Norms of blocks multiply as the blocks do: |(J K)_ik| <= sum_j |J_ij| |K_jk|; (n, n).
    blocks = matrix @ blocks
    largest = jnp.max(blocks)
    # Nothing is left of an input without real tokens, or behind a layer that gives zeros.
    scale = jnp.where(largest > 0, largest, 1)
    after = domain_of(x, real)
    row = LedgerRow(
        name=spec.name,
        log_branch=log_branch,
        log_norm=log_norm,
        log_factor=jnp.log(spectral_norm(matrix)),
        radius_in=before.radius,
        spread_in=before.spread,
        radius_out=after.radius,
        spread_out=after.spread,
        num_tokens=jnp.sum(real),
    )
    return x, blocks / scale, log_scale + jnp.log(scale), row


@jax.jit
def _whole(blocks, log_scale, x, real):
    """Logarithm of the bound of all layers together, and the domain of what comes out of them."""
    return log_scale + jnp.log(spectral_norm(blocks)), domain_of(x, real)


@functools.partial(jax.jit, static_argnums=0)
def _pooled(pooler: Pooler, variables, blocks, log_scale, total, x, mask):
    """The row of a pooler: what it makes of ``total``, the logarithm of the bound of the layers."""

    def pool(z):
        return jnp.asarray(pooler.apply(variables, z, mask))

    real = jnp.ones(x.shape[0], bool) if mask is None else mask
    domain = domain_of(x, real)
    pooled = log_scale + jnp.log(pooled_norm(blocks, pool, x))
    nothing = jnp.zeros(())
    # Minus infinity, the logarithm of zero, has no difference to itself.
    left = jnp.where(jnp.isneginf(pooled), pooled, pooled - total)
    row = LedgerRow(
        name="pooler",
        log_branch=left,
        log_norm=nothing,
        log_factor=left,
        radius_in=domain.radius,
        spread_in=domain.spread,
        radius_out=jnp.linalg.norm(pool(x)),
        spread_out=nothing,
        num_tokens=jnp.sum(real),
    )
    return row, pooled


def _at_point(spec: LayerSpec, x, attention, real, with_branch):
    """The layer's output at ``x``, its block norms, and logarithms of its parts' own constants."""
    inner, before = norm_at(spec.norm_before, x)
    inner = zero_masked(inner, real)
    scale = 1.0 if spec.residual_scale is None else jnp.asarray(spec.residual_scale, x.dtype)
    kept = jnp.zeros((), x.dtype)
    if spec.residual and spec.branch is not None:
        kept = jnp.eye(x.shape[-1], dtype=x.dtype)
    if isinstance(spec.branch, AttentionSpec):
        out, blocks_of = _attention_at(spec, x, inner, attention, real, scale)
    else:
        out, blocks_of = _token_layer(spec.branch, inner, real, scale)
    summed = x + out if spec.residual and spec.branch is not None else out
    result, after = norm_at(spec.norm_after, summed)

    def whole(index, block):
        # Rows are changed by the norm before, the branch and the residual, then the norm behind.
        return (kept + before.matrix(index) @ block) @ after.matrix(index)

    # Off the diagonal there is no residual, and the norms count by their slopes: (n, n).
    steepest = before.slopes[None, :] * after.slopes[:, None]
    matrix = blocks_of(whole)
    matrix = jnp.where(jnp.eye(x.shape[0], dtype=bool), matrix, steepest * matrix)
    branch = jnp.full((), jnp.nan, x.dtype)
    if with_branch:
        branch = spectral_norm(blocks_of(None) * (real[:, None] & real[None, :]))
    norm = jnp.max(jnp.where(real, before.slopes * after.slopes, 0))
    return result, matrix, jnp.log(branch), jnp.log(norm)


def _attention_at(spec, x, inner, attention, real, scale):
    """Output of an attention layer, and a function that gives its block norms."""
    branch = spec.branch
    kind, params = branch.kind, branch.params
    kernels = read_kernels(params, has_key=not isinstance(kind, L2))
    value_bias = kernels.by_head(params["value"].get("bias"))
    # The layer itself, but with the maps of the backbone, whose logits may have had more added to them.
    use_out_bias = params["out"].get("bias") is not None
    layer = attention_layer(kind, params, use_out_bias=use_out_bias)
    filled = with_biases(params, bare=() if use_out_bias else ("out",))
    out: Any = layer.apply({"params": filled}, inner, weights=attention)  # (n, d)
    scaled = kernels.out * scale
    if spec.norm_after is not None and spec.norm_after.kind in ("layer", "center"):
        # The norm behind sees nothing of the mean of what comes out.
        scaled = scaled - jnp.mean(scaled, axis=-1, keepdims=True)
    turn = None
    if branch.positions is not None:
        count = jnp.sum(real)
        turn = functools.partial(branch.positions, lengths=count)

    def blocks_of(after):
        out_kernel = kernels.out * scale if after is None else scaled
        return attention_blocks(
            kind,
            dataclasses.replace(kernels, out=out_kernel),
            inner,
            attention,
            value_bias=value_bias,
            turn=turn,
            after=after,
        )

    return zero_masked(out * scale, real), blocks_of


def _token_layer(branch, x, real, scale):
    """Output of a layer that maps each token alone, and a function that gives its block norms."""
    out, jacobian = _tokens_at(branch, x)

    def blocks_of(after):
        def norm(index):
            block = jacobian(index) * scale
            return spectral_norm(block if after is None else after(index, block))

        return jnp.diag(jax.lax.map(norm, jnp.arange(x.shape[0])))

    return zero_masked(scale * out, real), blocks_of


def _tokens_at(branch, x):
    """Output of a layer that maps each token alone, and its Jacobian at a token, acting on rows."""
    if branch is None:
        identity = jnp.eye(x.shape[-1], dtype=x.dtype)
        return x, lambda index: identity
    if not isinstance(branch, FeedForwardSpec):
        raise NoBoundError(
            f"layers: expected attention or feed-forward layers, got {type(branch).__name__}"
        )
    kernels = {name: jnp.asarray(part["kernel"]) for name, part in branch.params.items()}
    layer = feed_forward_layer(branch.activation, kernels)
    applied: Any = layer.apply(
        {"params": with_biases(branch.params)},
        x,
        capture_intermediates=lambda part, _: part.name in ("gate", "hidden"),
        mutable="intermediates",
    )
    out, between = applied
    middle = {name: calls["__call__"][0] for name, calls in between["intermediates"].items()}  # (n, m)
    pre = middle["gate" if "gate" in middle else "hidden"]
    active, slopes = jax.jvp(branch.activation, (pre,), (jnp.ones_like(pre),))  # (n, m) each

    def jacobian(index):
        # W_1 diag(act') W_2, hidden units as columns: (d, m) by (m, d).
        return (kernels["hidden"] * slopes[index][None]) @ kernels["out"]

    def gated_jacobian(index):
        # The product rule for act(x W_g) * (x W_h).
        through_gate = kernels["gate"] * (slopes * middle["hidden"])[index][None]
        through_hidden = kernels["hidden"] * active[index][None]
        return (through_gate + through_hidden) @ kernels["out"]

    return out, gated_jacobian if "gate" in middle else jacobian
