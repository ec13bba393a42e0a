"""Local bounds of one-block models: at a given input, or on a ball around it.

Theory, sections 5.3 to 5.6.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike, Bool, Float

from poolax._checks import (
    broadcast_mask,
    check_all_finite,
    check_choice,
    check_finite,
    check_instance,
    check_number,
    check_tokens,
)
from poolax._geometry import GEOMETRIES
from poolax._layer_specs import NormSpec
from poolax._numerics import accumulation_dtype, at_highest_precision, zero_masked
from poolax.attention import L2
from poolax.blocks import TBM, FeedForward, PostLNBlock
from poolax.bounds._ball_tbm import tbm_on_ball
from poolax.bounds._kernels import Kernels, read_kernels
from poolax.bounds._linalg import round_up, spectral_norm
from poolax.bounds._local_blocks import attention_blocks
from poolax.bounds._local_bound import block_bound
from poolax.bounds._local_norms import norm_at
from poolax.bounds._local_pooled import PoolerAt
from poolax.bounds._no_bound import NoBoundError
from poolax.bounds._overflow import check_held, or_infinite
from poolax.bounds._reach import on_ball, whole_norm
from poolax.records import Bound


@at_highest_precision
def local_tbm(
    model: TBM,
    variables: Mapping[str, Any],
    x: Float[ArrayLike, "n d"],
    mask: Bool[ArrayLike, " n"] | None = None,
    *,
    epsilon: Float[ArrayLike, ""] = 0.0,
    geometry: str = "frobenius",
) -> Bound:
    r"""Bound of the Jacobian's norm of a :class:`poolax.blocks.TBM` at ``x``, for every pooler.

    It holds at ``x`` alone, or on a ball around it. With ``N`` the block norms of
    :func:`local_attention`, of ``x + MHA(x)`` and the norm behind it, ``g_i`` the exact norms of what
    the rest of the block does to token ``i``, and ``c_i`` the norms of the pooler's derivative with
    respect to its tokens,

        ``min(|c^T diag(g) N|,  |pooler| |diag(g) N|)``,

    the second over the tokens that the pooler reads. With ``epsilon > 0`` it holds wherever real tokens
    are at most ``epsilon`` away from ``x``: from how much the blocks of attention change there, which
    hidden units may change their sign or slope, and which tokens the pooler may come to read; in the
    Frobenius norm it is no more than the tight bound on the domain that holds the ball. It has kinks,
    such as the equal scales of a fresh initialisation: ``grad`` is finite there, and one of several
    slopes.

    Args:
        model: The model.
        variables: What its ``init`` returned.
        x: Tokens of one sequence, shape ``(n, d)``; ``vmap`` for more.
        mask: True at real tokens, shape ``(n,)``; ``None`` if all are real.
        epsilon: Radius of the ball.
        geometry: ``"frobenius"`` for the Frobenius norm on sequences, ``"tokens"`` for the largest norm
            of a token. The pooled vector's is Euclidean in both.

    Returns:
        The bound. ``attention``, ``c2`` and ``norm_factor`` are those parts' own local constants, and
        ``pooling_factor`` is what the pooler leaves of their product, so that ``lipschitz`` is the
        product of the factors as in other bounds.

    Raises:
        NoBoundError: where the bound overflows; on a ball, for an activation or pooler without one.
        ValueError: for another geometry, a negative ``epsilon``, missing variables, wrong shapes,
            dtypes or masks, or values that are not finite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from poolax.pooling import AveragePool
        >>> model = TBM(num_heads=2, pooler=AveragePool())
        >>> x = 0.1 * jax.random.normal(jax.random.key(0), (16, 8))
        >>> variables = model.init(jax.random.key(1), x)
        >>> bound = local_tbm(model, variables, x)
        >>> measured = jnp.linalg.norm(
        ...     jax.jacrev(lambda x: model.apply(variables, x))(x).reshape(8, -1), ord=2
        ... )
        >>> bool(measured <= bound.lipschitz <= 3 * measured)
        True

    Reference:
        Theory, sections 5.3, 5.4 and, on a ball, 5.6; this library's own.
    """
    check_choice("geometry", geometry, GEOMETRIES)
    check_number("epsilon", epsilon, at_least=0.0)
    check_instance("model", model, TBM, "a TBM")
    params = variables.get("params", {}) if isinstance(variables, Mapping) else {}
    if not {"attention", "ffn", "norm1", "norm2"} <= set(params):
        raise ValueError("variables: expected what TBM.init returned")
    check_tokens("x", x)
    x = jnp.asarray(x)
    if x.ndim != 2:
        raise ValueError(f"x: expected shape (n, d), got {x.shape}")
    mask = broadcast_mask(mask, x.shape[:-1])
    check_finite("x", x, mask)
    check_all_finite("variables", params)
    radius = on_ball(epsilon, accumulation_dtype(x, jnp.asarray(params["ffn"]["kernel"])))
    if radius is None:
        bound = or_infinite(_local_tbm(model, geometry, dict(params), x, mask))
    else:
        bound = or_infinite(tbm_on_ball(model, geometry, dict(params), x, mask, radius))
    check_held("x", bound.lipschitz, error=NoBoundError)
    return bound


@functools.partial(jax.jit, static_argnums=(0, 1))
def _local_tbm(model, geometry, params, x, mask):
    kernel = jnp.asarray(params["ffn"]["kernel"])
    x = zero_masked(x, mask).astype(accumulation_dtype(x, kernel))
    real = jnp.ones(x.shape[0], bool) if mask is None else mask
    # The block itself says what stands between its parts.
    applied = PostLNBlock.of_tbm(model).apply(
        {"params": params},
        x,
        mask,
        return_weights=True,
        capture_intermediates=lambda part, _: part.name == "norm1",
        mutable="intermediates",
    )
    (states, weights), between = applied  # (n, d), (H, n, n)
    hidden = between["intermediates"]["norm1"]["__call__"][0]  # (n, d)

    # CenterNorm is linear but for its bias: one matrix (d, d) for all tokens, acting on rows.
    first, second = (
        norm_at(NormSpec("center", params[name]["scale"], None), x)[1].matrix(0)
        for name in ("norm1", "norm2")
    )
    kernels = read_kernels(params["attention"], has_key=not isinstance(model.attention, L2))
    value_bias = kernels.by_head(params["attention"]["value"].get("bias"))
    identity = jnp.eye(x.shape[-1], dtype=x.dtype)
    blocks = attention_blocks(
        model.attention,
        _centred(kernels),
        x,
        weights,
        value_bias=value_bias,
        after=lambda _, block: (identity + block) @ first,
    )
    first_norm = spectral_norm(first)
    # The norm behind is in the blocks on the diagonal already; elsewhere it counts by its norm.
    blocks = jnp.where(jnp.eye(x.shape[0], dtype=bool), blocks, first_norm * blocks)  # (n, n)

    def slope(pre):
        return jax.jvp(model.activation, (pre,), (jnp.ones_like(pre),))[1]

    # The layer with the activation's slope in place of the activation.
    slopes = FeedForward(activation=slope, use_bias=model.use_bias).apply(
        {"params": params["ffn"]}, hidden
    )
    token_norms = jax.lax.map(
        lambda slope: spectral_norm((identity + kernel * slope[None]) @ second), slopes
    )
    # diag(g) N: row i times what the rest of the block does to token i; (n, n).
    matrix = jnp.where(real[:, None] & real[None, :], token_norms[:, None] * blocks, 0)
    pooler_variables = {"params": params.get("pooler", {})}
    pooler = PoolerAt.of(
        lambda z: jnp.asarray(model.pooler.apply(pooler_variables, z, mask)),
        zero_masked(states, mask),
    )
    lipschitz = pooler.norm_behind(matrix, geometry)
    alone = attention_blocks(model.attention, kernels, x, weights, value_bias=value_bias)
    attention = whole_norm(geometry, alone * (real[:, None] & real[None, :]))
    largest = jnp.max(jnp.where(real, token_norms, 0))
    lipschitz = or_infinite(round_up(lipschitz))
    return block_bound(lipschitz, attention, largest, first_norm, spectral_norm(second))


def _centred(kernels: Kernels) -> Kernels:
    """Kernels whose outputs have mean zero, which is all that a norm behind them sees."""
    out = kernels.out - jnp.mean(kernels.out, axis=-1, keepdims=True)
    return dataclasses.replace(kernels, out=out)
