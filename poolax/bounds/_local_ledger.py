"""Local bounds of whole backbones: at given inputs, from their attention maps.

Theory, sections 5.3, 5.4 and 7.7.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, ArrayLike, Bool, Float

from poolax._checks import (
    broadcast_mask,
    check_choice,
    check_finite,
    check_instance,
    check_number,
    check_tokens,
)
from poolax._geometry import GEOMETRIES
from poolax._layer_specs import LayerSpec
from poolax._numerics import accumulation_dtype, at_highest_precision, zero_masked
from poolax._threads import on_one_thread
from poolax.bounds._ball_ledger import Balls, add_ball_layer, even_steps
from poolax.bounds._ball_poolers import pooled_on_ball
from poolax.bounds._domain import domain_of
from poolax.bounds._layer_inputs import check_all_read, next_attention
from poolax.bounds._linalg import spectral_norm
from poolax.bounds._local_layers import layer_at
from poolax.bounds._local_pooled import pooled_norm
from poolax.bounds._local_whole import (
    attention_jacobian,
    is_attention,
    may_form,
    then_by_token,
    token_jacobians,
    whole_jacobian_norm,
)
from poolax.bounds._no_bound import NoBoundError
from poolax.bounds._overflow import check_held, or_infinite
from poolax.bounds._reach import Reach, on_ball, whole_norm
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

    never above the product of the layers' own ``|N^l|``, which are the rows' factors. Where there are
    no more than 4,096 numbers in all tokens together, the Jacobian of each layer of attention with
    what follows it up to the next is formed, and their norms multiply as well; the smaller of both
    counts behind each. With a pooler the last row is what it makes of the bound, from its exact
    derivative at the token states.

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
        NoBoundError: for layers that cut or merge tokens, or are convolutions, and where the bound
            overflows; on a ball also for activations and poolers without a bound.
        ValueError: for no layers, wrong shapes, dtypes or masks, values that are not finite, or
            attention maps that do not fit the layers.

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
    nothing = jnp.zeros((), x.dtype)
    reached = _Reached(jnp.eye(num_tokens, dtype=x.dtype), nothing, nothing, None)
    rows = []
    radius = on_ball(epsilon, x.dtype)
    balls = None if radius is None else Balls.around(x, real, even_steps(radius), geometry)
    for spec in layers:
        attention = next_attention(maps, spec, x.shape)
        # Without its name, so that layers of one shape share one program.
        layer = dataclasses.replace(spec, name="")
        if balls is None:
            if is_attention(layer):
                reached = _closed(reached)
            x, reached, row = _add_layer(
                layer, x, reached, attention, real, with_branch=branches, geometry=geometry
            )
        else:
            balls, row = add_ball_layer(layer, balls, attention, real)
            x, reached = balls.x, dataclasses.replace(reached, blocks=balls.blocks[-1], log_norm=None)
        check_held("embeddings", jnp.abs(x))
        rows.append(dataclasses.replace(row, name=spec.name))
    if not rows:
        raise ValueError("layers: expected at least one layer, got none")
    check_all_read(maps, weights)
    closed = _closed(reached)
    total, domain = _whole(closed, x, real, geometry)
    if pooler is not None:
        check_instance("pooler", pooler, Pooler, "a Pooler")
        given = dict(variables or {}), closed, reached, total, x, mask
        row, total = _pooled(pooler, geometry, *given, None if balls is None else balls.last)
        rows.append(row)
    if balls is not None:
        domain = balls.grown(domain)
    rounding = (64 if balls is None else 256) * len(rows) * jnp.finfo(x.dtype).eps
    total = or_infinite(total + rounding)
    check_held("embeddings", total, error=NoBoundError)
    return Ledger(tuple(rows), total, domain, "local", states=x)


@struct.dataclass
class _Reached:
    """What is known of the Jacobian of the layers so far.

    Attributes:
        blocks: Bounds of the norms of its blocks, output token first, over ``exp(log_scale)``.
        log_scale: A logarithm.
        log_norm: Logarithm of a bound of the norm of the Jacobian up to the last layer of attention, or
            of the whole if that is not formed; ``None`` where nothing but the blocks is known.
        formed: Blocks of the Jacobian from the last layer of attention on, output token first, where it
            is small enough.
    """

    blocks: Float[Array, "n n"]
    log_scale: Float[Array, ""]
    log_norm: Any
    formed: Any


@jax.jit
def _closed(reached: _Reached) -> _Reached:
    """The norm of what is formed multiplied with what it stands behind."""
    if reached.formed is None or reached.log_norm is None:
        return reached
    log_norm = jnp.minimum(
        reached.log_norm + jnp.log(whole_jacobian_norm(reached.formed)),
        reached.log_scale + jnp.log(spectral_norm(reached.blocks)),
    )
    # No block has a larger norm than all of them together.
    blocks = jnp.minimum(reached.blocks, jnp.exp(log_norm - reached.log_scale))
    return _Reached(blocks, reached.log_scale, log_norm, None)


@functools.partial(jax.jit, static_argnames=("with_branch", "geometry"))
def _add_layer(spec: LayerSpec, x, reached: _Reached, attention, real, *, with_branch, geometry):
    """What comes out of a layer at ``x``, the layers so far with it, and the layer's row.

    One program for all layers of one shape: a backbone has two of them, and a dozen layers.
    """
    before = domain_of(x, real)
    formed = reached.formed
    if is_attention(spec):
        formable = geometry == "frobenius" and may_form(x)
        formed = attention_jacobian(spec, x, attention, real) if formable else None
    elif formed is not None:
        formed = then_by_token(token_jacobians(spec, x, real), formed)
    x, matrix, log_branch, log_norm = layer_at(spec, x, attention, real, with_branch)
    matrix = jnp.where(real[:, None] & real[None, :], matrix, 0)
    log_factor = jnp.log(whole_norm(geometry, matrix))
    x = zero_masked(x, real)
    # Norms of blocks multiply as the blocks do: |(J K)_ik| <= sum_j |J_ij| |K_jk|; (n, n).
    blocks = matrix @ reached.blocks
    largest = jnp.max(blocks)
    # Nothing is left of an input without real tokens, or behind a layer that gives zeros.
    scale = jnp.where(largest > 0, largest, 1)
    after = domain_of(x, real)
    row = LedgerRow(
        name=spec.name,
        log_branch=log_branch,
        log_norm=log_norm,
        log_factor=log_factor,
        radius_in=before.radius,
        spread_in=before.spread,
        radius_out=after.radius,
        spread_out=after.spread,
        num_tokens=jnp.sum(real),
    )
    known = reached.log_norm if formed is not None else reached.log_norm + log_factor
    return x, _Reached(blocks / scale, reached.log_scale + jnp.log(scale), known, formed), row


@functools.partial(jax.jit, static_argnames="geometry")
def _whole(reached: _Reached, x, real, geometry):
    """Logarithm of the bound of all layers together, and the domain of what comes out of them."""
    by_blocks = reached.log_scale + jnp.log(whole_norm(geometry, reached.blocks))
    known = reached.log_norm is not None
    total = jnp.minimum(by_blocks, reached.log_norm) if known else by_blocks
    return total, domain_of(x, real)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _pooled(
    pooler: Pooler, geometry, variables, reached: _Reached, before: _Reached, total, x, mask, reach
):
    """The row of a pooler: what it makes of ``total``, the logarithm of the bound of the layers.

    ``before`` is ``reached`` with what of the Jacobian is formed apart.
    """
    blocks, log_scale = reached.blocks, reached.log_scale

    def pool(z):
        return jnp.asarray(pooler.apply(variables, z, mask))

    real = jnp.ones(x.shape[0], bool) if mask is None else mask
    domain = domain_of(x, real)
    if reach is None:
        limits: list[tuple[Any, Any]] = []
        if geometry == "frobenius":
            limits.append((jnp.exp(total - log_scale), None))
        if before.formed is not None:
            limits.append((jnp.exp(before.log_norm - log_scale), before.formed))
        norm = pooled_norm(blocks, pool, x, geometry, limits)
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
