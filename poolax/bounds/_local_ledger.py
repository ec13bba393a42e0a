"""Local bounds of whole backbones: at given inputs, from their attention maps.

Theory, sections 5.3, 5.4 and 7.7.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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
from poolax._geometry import GEOMETRIES
from poolax._layer_specs import LayerSpec
from poolax._numerics import accumulation_dtype, at_highest_precision, zero_masked
from poolax._threads import on_one_thread
from poolax.bounds._ball_ledger import Balls, add_ball_layer, even_steps
from poolax.bounds._centre_products import product_norms
from poolax.bounds._layer_inputs import checked_maps
from poolax.bounds._layer_maps import states_through
from poolax.bounds._local_reached import Reached, add_layer, pooled_bound, whole_bound
from poolax.bounds._local_whole import formed_count
from poolax.bounds._no_bound import NoBoundError
from poolax.bounds._overflow import check_held, or_infinite
from poolax.bounds._reach import on_ball
from poolax.bounds._whole_jacobian import whole_jacobian
from poolax.pooling import Pooler
from poolax.records import Ledger


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
    no more than 4,096 numbers in all tokens together, ``J`` itself is formed, and the bound is its
    norm, raised by what rounding may have taken. With a pooler the last row is what it makes of the
    bound: its exact derivative at the token states acts on ``J``, or else on bounds of the blocks.

    With ``epsilon > 0`` it holds wherever the real tokens are at most ``epsilon`` away from the
    embeddings: the matrices are bounds of the blocks on the ball, from how far the tokens that enter a
    layer may move, which is the integral of what the layers before it make of the way from the centre.
    Where there are no more than 4,096 numbers in all tokens, products of the layers' Jacobians are
    formed at the centre, as for :func:`certify`, and count with what they change by where that is less:
    on tiny balls the bound is about what the norms of their blocks give, which is a few times the
    bound at the embeddings alone. Without them bounds of deep models overflow on most balls.

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
        real tokens the bound is 0. It may be differentiated where none of its parts overflows, which
        they do on balls on which the bound is astronomical.

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
    [table] = local_ledgers(
        layers, embeddings, weights, mask, poolers=[pooler], variables=[variables],
        branches=branches, epsilon=epsilon, geometry=geometry,
    )  # fmt: skip
    return table


@on_one_thread
@at_highest_precision
def local_ledgers(
    layers: Iterable[LayerSpec],
    embeddings: Float[ArrayLike, "n d"],
    weights: Sequence[Float[ArrayLike, "H n n"]],
    mask: Bool[ArrayLike, " n"] | None = None,
    *,
    poolers: Sequence[Pooler | None],
    variables: Sequence[Mapping[str, Any] | None] | None = None,
    branches: bool = True,
    epsilon: Float[ArrayLike, ""] = 0.0,
    geometry: str = "frobenius",
) -> tuple[Ledger, ...]:
    """Ledgers of several poolers behind the same layers, which are nearly all of the work, done once.

    Args:
        layers: As for :func:`local_ledger`, as are all others that are not listed.
        embeddings: Shape ``(n, d)``.
        weights: Attention of every layer there, shape ``(H, n, n)`` each.
        mask: True at real tokens, shape ``(n,)``; ``None`` if all are real.
        poolers: Poolers on the token states, or ``None`` among them for the states themselves.
        variables: Variables of each pooler; ``None`` if none has any.
        branches: Whether to bound the branches alone as well.
        epsilon: Radius of the ball.
        geometry: ``"frobenius"`` or ``"tokens"``.

    Returns:
        What :func:`local_ledger` gives of each pooler.

    Raises:
        NoBoundError: as :func:`local_ledger`, if it does for any of the poolers.
        ValueError: as :func:`local_ledger`, and for another number of variables than of poolers.

    Example:
        >>> import jax
        >>> from poolax import backbones, pooling
        >>> config = backbones.ViTConfig(8, 4, 3, width=16, num_layers=2, num_heads=2, mlp_dim=24)
        >>> vit = backbones.ViT.init(config, jax.random.key(0))
        >>> embeddings, _ = vit.embed(vit.params, jax.random.normal(jax.random.key(1), (1, 8, 8, 3)))
        >>> maps = vit.encode(vit.params, embeddings, return_weights=True).weights
        >>> average, total = local_ledgers(
        ...     vit.layer_specs(vit.params), embeddings[0], [one[0] for one in maps],
        ...     poolers=[pooling.AveragePool(), pooling.SumPool()],
        ... )
        >>> bool(jnp.allclose(total.lipschitz, 5 * average.lipschitz, rtol=1e-4))
        True

    Reference:
        As :func:`local_ledger`.
    """
    check_choice("geometry", geometry, GEOMETRIES)
    check_number("epsilon", epsilon, at_least=0.0)
    check_tokens("embeddings", embeddings)
    x = jnp.asarray(embeddings)
    if x.ndim != 2:
        raise ValueError(f"embeddings: expected shape (n, d), got {x.shape}")
    mask = broadcast_mask(mask, x.shape[:-1])
    check_finite("embeddings", x, mask)
    poolers = list(poolers)
    variables = [None] * len(poolers) if variables is None else list(variables)
    if len(variables) != len(poolers):
        raise ValueError(
            f"variables: expected {len(poolers)}, as many as poolers, got {len(variables)}"
        )
    for pooler in poolers:
        if pooler is not None:
            check_instance("pooler", pooler, Pooler, "a Pooler")
    layers = list(layers)
    maps = checked_maps(layers, weights, x.shape)
    x = zero_masked(x, mask).astype(accumulation_dtype(x))
    real = jnp.ones(x.shape[0], bool) if mask is None else mask
    count = formed_count(x, real)
    x, real, mask = x[:count], real[:count], None if mask is None else mask[:count]
    maps = [None if one is None else one[:, :count, :count] for one in maps]
    radius = on_ball(epsilon, x.dtype)
    if radius is None:
        rows, x, reached, balls = _at_point(layers, maps, x, real, branches, geometry)
    else:
        rows, x, reached, balls = _on_balls(layers, maps, x, real, radius, geometry)
    states = jnp.zeros(jnp.shape(embeddings), x.dtype).at[:count].set(x)
    layers_total, domain = whole_bound(reached, x, real, geometry)
    tables = []
    for pooler, given in zip(poolers, variables, strict=True):
        own_rows, total = rows, layers_total
        if pooler is not None:
            row, total = pooled_bound(
                pooler, geometry, dict(given or {}), reached, total, x, mask,
                None if balls is None else balls.last,
            )  # fmt: skip
            own_rows = (*rows, row)
        rounding = (64 if balls is None else 256) * len(own_rows) * jnp.finfo(x.dtype).eps
        total = or_infinite(total + rounding)
        check_held("embeddings", total, error=NoBoundError)
        grown = domain if balls is None else balls.grown(domain)
        tables.append(Ledger(own_rows, total, grown, "local", states=states))
    return tuple(tables)


def _at_point(layers, maps, x, real, branches, geometry):
    """Rows of layers, what comes out of them, and what is known of their Jacobian at an input alone."""
    reached = Reached(jnp.eye(x.shape[0], dtype=x.dtype), jnp.zeros((), x.dtype))
    # Without their names, so that layers of one shape share one program.
    nameless = [dataclasses.replace(spec, name="") for spec in layers]
    states, rows = [], []
    for spec, layer, attention in zip(layers, nameless, maps, strict=True):
        states.append(x)
        x, reached, row = add_layer(
            layer, x, reached, attention, real, with_branch=branches, geometry=geometry
        )
        check_held("embeddings", jnp.abs(x))
        rows.append(dataclasses.replace(row, name=spec.name))
    whole = whole_jacobian(nameless, maps, states, real)
    return tuple(rows), x, dataclasses.replace(reached, whole=whole), None


def _on_balls(layers, maps, x, real, radius, geometry):
    """The same on the ball of a radius around the input, with the balls behind the layers."""
    nameless = [dataclasses.replace(spec, name="") for spec in layers]
    states = states_through(nameless, maps, x, real)
    for state in states:
        check_held("embeddings", jnp.abs(state))
    products = product_norms(nameless, maps, states, real)
    balls = Balls.around(x, real, even_steps(radius), geometry, products)
    rows = []
    for spec, layer, attention in zip(layers, nameless, maps, strict=True):
        balls, row = add_ball_layer(layer, balls, attention, real)
        rows.append(dataclasses.replace(row, name=spec.name))
    reached = Reached(balls.blocks[-1], jnp.zeros((), x.dtype))
    return tuple(rows), balls.x, reached, balls
