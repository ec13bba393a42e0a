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
    check_choice,
    check_finite,
    check_instance,
    check_number,
    check_tokens,
)
from poolax._layer_specs import LayerSpec
from poolax._numerics import accumulation_dtype, at_highest_precision, zero_masked
from poolax._threads import on_one_thread
from poolax.bounds._ball_ledger import Balls, add_ball_layer, even_steps
from poolax.bounds._ball_poolers import pooled_on_ball
from poolax.bounds._domain import domain_of
from poolax.bounds._layer_inputs import check_all_read, next_attention
from poolax.bounds._local_layers import layer_at
from poolax.bounds._local_pooled import pooled_norm
from poolax.bounds._overflow import check_held, or_infinite
from poolax.bounds._reach import GEOMETRIES, Reach, on_ball, whole_norm
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
    epsilon: Float[ArrayLike, ""] = 0.0,
    geometry: str = "frobenius",
) -> Ledger:
    r"""Bound of the Jacobian's norm of a backbone at a given input, layer by layer.

    It holds at this input alone, or on a ball around it. Layer ``l`` has block norms ``N^l_ik``, output
    token ``i`` against input token ``k``: those of :func:`local_attention` for attention, exact norms
    on the diagonal for feed-forward layers, both with the residual connection and with the norms at
    their values here.
    Blocks of the whole are at most those of the product of these matrices, so that

        ``|J| <= |N^L ... N^1|``,

    never above the product of the layers' own ``|N^l|``, which are the rows' factors. With a pooler the
    last row is what it makes of the product, from its exact derivative at the token states.

    With ``epsilon > 0`` it holds wherever the real tokens are at most ``epsilon`` away from the
    embeddings: the matrices are bounds of the blocks on the ball, from how far the tokens that enter a
    layer may move, which is the integral of what the layers before it make of the way from the centre.

    Args:
        layers: Descriptions of the layers, as ``backbone.layer_specs(params)`` gives them.
        embeddings: What ``backbone.embed`` gives for one input, shape ``(n, d)``.
        weights: Attention of every layer there, shape ``(H, n, n)`` each:
            ``backbone.encode(..., return_weights=True).weights`` of that input.
        mask: True at real tokens, shape ``(n,)``; ``None`` if all are real.
        pooler: A pooler on the token states, or ``None`` for the states themselves.
        variables: The pooler's variables, if it has any.
        branches: Whether to bound the branches alone as well, for their own column: half of the work.
            Without it their rows' ``log_branch`` is NaN. On a ball they cost nothing and are always
            there, as the norm behind them sees them.
        epsilon: Radius of the ball.
        geometry: ``"frobenius"`` for the Frobenius norm on sequences, ``"tokens"`` for the largest norm
            of a token, of the input and of token states.

    Returns:
        The ledger, with the token states at the centre, and the domains of tokens on the ball. Without
        real tokens the bound is 0.

    Raises:
        NoBoundError: for layers that cut or merge tokens, or are convolutions; on a ball also for
            activations and poolers without a bound.
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
        Theory, sections 5.3, 5.4 and, on a ball, 5.6; this library's own.
    """
    check_choice("geometry", geometry, GEOMETRIES)
    check_number("epsilon", epsilon, at_least=0.0)
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
    radius = on_ball(epsilon, x.dtype)
    balls = None if radius is None else Balls.around(x, real, even_steps(radius), geometry)
    for spec in layers:
        attention = next_attention(maps, spec, x.shape)
        # Without its name, so that layers of one shape share one program.
        layer = dataclasses.replace(spec, name="")
        if balls is None:
            x, blocks, log_scale, row = _add_layer(
                layer, x, blocks, log_scale, attention, real, with_branch=branches, geometry=geometry
            )
        else:
            balls, row = add_ball_layer(layer, balls, attention, real)
            x, blocks = balls.x, balls.blocks[-1]
        check_held("embeddings", jnp.abs(x))
        rows.append(dataclasses.replace(row, name=spec.name))
    if not rows:
        raise ValueError("layers: expected at least one layer, got none")
    check_all_read(maps, weights)
    total, domain = _whole(blocks, log_scale, x, real, geometry)
    if pooler is not None:
        check_instance("pooler", pooler, Pooler, "a Pooler")
        given = dict(variables or {}), blocks, log_scale, total, x, mask
        row, total = _pooled(pooler, geometry, *given, None if balls is None else balls.last)
        rows.append(row)
    if balls is not None:
        domain = balls.grown(domain)
    rounding = (64 if balls is None else 256) * len(rows) * jnp.finfo(x.dtype).eps
    total = or_infinite(total + rounding)
    check_held("embeddings", total)
    return Ledger(tuple(rows), total, domain, "local", states=x)


@functools.partial(jax.jit, static_argnames=("with_branch", "geometry"))
def _add_layer(spec: LayerSpec, x, blocks, log_scale, attention, real, *, with_branch, geometry):
    """What comes out of a layer at ``x``, the product of block norms so far, and the layer's row.

    One program for all layers of one shape: a backbone has two of them, and a dozen layers.
    """
    before = domain_of(x, real)
    x, matrix, log_branch, log_norm = layer_at(spec, x, attention, real, with_branch)
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
        log_factor=jnp.log(whole_norm(geometry, matrix)),
        radius_in=before.radius,
        spread_in=before.spread,
        radius_out=after.radius,
        spread_out=after.spread,
        num_tokens=jnp.sum(real),
    )
    return x, blocks / scale, log_scale + jnp.log(scale), row


@functools.partial(jax.jit, static_argnames="geometry")
def _whole(blocks, log_scale, x, real, geometry):
    """Logarithm of the bound of all layers together, and the domain of what comes out of them."""
    return log_scale + jnp.log(whole_norm(geometry, blocks)), domain_of(x, real)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _pooled(pooler: Pooler, geometry, variables, blocks, log_scale, total, x, mask, reach):
    """The row of a pooler: what it makes of ``total``, the logarithm of the bound of the layers."""

    def pool(z):
        return jnp.asarray(pooler.apply(variables, z, mask))

    real = jnp.ones(x.shape[0], bool) if mask is None else mask
    domain = domain_of(x, real)
    if reach is None:
        norm = pooled_norm(blocks, pool, x, geometry)
    else:
        norm = pooled_on_ball(pooler, variables, x, real, Reach(reach, geometry), blocks)
    pooled = log_scale + jnp.log(norm)
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
