"""Certified radii of whole models: layers, a pooler and a linear layer, at one input.

The lead of a label over a class has a gradient at the input, which is known exactly, and changes on a
ball by what the layers' derivatives change by there: each by its own, seen through the gradient behind
it and times what the layers before it do. Beside it stand radii of the head on token states, and how
far these may move.

Theory, section 9.5.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from poolax._checks import is_concrete
from poolax._layer_specs import LayerSpec
from poolax._numerics import safe_norm
from poolax.bounds._ball_layers import LayerBall
from poolax.bounds._ball_ledger import Balls, carried, integrals
from poolax.bounds._ball_norms import norm_on_ball, normalises
from poolax.bounds._ball_poolers import lead_changes
from poolax.bounds._centre_products import product_norms
from poolax.bounds._certify_heads import head_radius
from poolax.bounds._certify_slopes import crossing, search
from poolax.bounds._hidden_units import HiddenUnits, hidden_units
from poolax.bounds._layer_maps import layer_map, states_through
from poolax.bounds._overflow import or_infinite
from poolax.bounds._reach import Reach, pooled_norm_of, row_norm
from poolax.pooling import Pooler

# Up to this width exact norms of tokens' own matrices are worth their time.
_EXACT = 128


@struct.dataclass
class Head:
    """A pooler and a linear layer behind it, as differences of logits.

    Attributes:
        variables: Variables of the pooler.
        directions: ``w_y - w_j`` for each other class, shape ``(k, e)``.
        margins: By how much the label leads, rounding subtracted, shape ``(k,)``.
        others: True, but where the label is the only class.
        pooler: The pooler.
    """

    variables: Mapping[str, Any]
    directions: Float[Array, "k e"]
    margins: Float[Array, " k"]
    others: Bool[Array, " k"]
    pooler: Pooler = struct.field(pytree_node=False)


def layered_radius(
    layers: Sequence[LayerSpec],
    maps: Sequence[Float[Array, "H n n"] | None],
    x: Float[Array, "n d"],
    real: Bool[Array, " n"],
    head_of: Any,
    geometry: str,
) -> Float[Array, ""]:
    """The radius of one input.

    Args:
        layers: The layers.
        maps: Attention of each there; ``None`` for other layers.
        x: The input, shape ``(n, d)``.
        real: True at tokens that are real.
        head_of: Gives the :class:`Head` at token states.
        geometry: ``"frobenius"`` or ``"tokens"``.

    Returns:
        A radius below which no change alters the class; 0 where it is wrong, infinite where there is no
        other class.
    """
    # Without their names, so that layers of one shape share one program.
    layers = [dataclasses.replace(spec, name="") for spec in layers]
    states = states_through(layers, maps, x, real)
    head = head_of(states[-1])
    covectors = _head_covectors(head, states[-1], real)
    behind = []
    for spec, attention, at in zip(layers[::-1], maps[::-1], states[-2::-1], strict=True):
        behind.append(covectors)
        covectors = _pulled_back(spec, at, attention, real, covectors)
    behind = behind[::-1]
    slopes = safe_norm(covectors, axis=-1)  # (k, n)
    # No certificate of this kind is larger than what the margin leaves of the gradient.
    size = row_norm(geometry, slopes)
    most = jnp.where(head.others & (size > 0), head.margins / jnp.where(size > 0, size, 1), jnp.inf)
    most = jnp.min(most)
    most = jnp.where(jnp.isfinite(most) & (most > 0), most, 1)

    products = product_norms(layers, maps, states, real)
    units = hidden_units(layers, maps[0] if layers else None, x, real)

    def found_on(widths):
        known = products, units
        return _pass(layers, maps, states, real, head, behind, slopes, known, widths, geometry)

    found = search(found_on, most, traced=not is_concrete(x))
    right = jnp.all(jnp.where(head.others, head.margins > 0, True))
    # What sums of gradients may have lost.
    rounding = 256 * (len(layers) + 1) * jnp.finfo(x.dtype).eps
    return jnp.where(right, found * (1 - rounding), 0)


def _pass(layers, maps, states, real, head, behind, slopes, known, widths, geometry):
    """The radius that is found on balls whose radii grow by ``widths``."""
    products, units = known
    exact = states[0].shape[-1] <= _EXACT
    balls = Balls.around(states[0], real, widths, geometry, products)
    falling = jnp.broadcast_to(slopes[:, None], (slopes.shape[0], widths.shape[0], slopes.shape[1]))
    unit_changes = None
    for place, (spec, attention, covectors) in enumerate(zip(layers, maps, behind, strict=True)):
        seen_units = units if place < 2 else None
        balls, changes, unit_changes = _through(
            spec, attention, real, covectors, balls, seen_units, unit_changes, exact
        )
        falling = falling + changes
    return _largest(head, balls, real, falling)


@jax.jit
def _largest(head: Head, balls: Balls, real, falling):
    """The largest radius on which no lead can be lost, by either form."""
    z, geometry = balls.x, balls.geometry
    changes = _lead_changes(head, balls, real)  # (k, J, n)
    slopes = or_infinite(falling + changes)
    lipschitz = row_norm(geometry, slopes)  # (k, J)
    known = crossing(balls.widths, lipschitz, head.margins)
    known = jnp.min(known, initial=jnp.inf, where=head.others)
    # Of the head alone: states move by no more than their reach, all together and each.
    together = jax.vmap(functools.partial(pooled_norm_of, geometry))(balls.reaches)  # (J,)
    each = jnp.max(jax.vmap(lambda reach: Reach(reach, geometry).radii)(balls.reaches), axis=-1)
    radii = jnp.cumsum(balls.widths)
    margins = jnp.maximum(head.margins, jnp.finfo(z.dtype).tiny)

    def least(norm):
        found = jax.vmap(functools.partial(head_radius, head.pooler, head.variables, norm, z, real))(
            head.directions, margins
        )
        found = jnp.where(jnp.isnan(found), 0, found)
        return jnp.min(found, initial=jnp.inf, where=head.others)

    safe = (together < least("frobenius")) | (each < least("tokens"))
    return jnp.maximum(known, jnp.max(jnp.where(safe, radii, 0)))


def _lead_changes(head: Head, balls: Balls, real):
    """How much the pooler's derivative of each lead changes, as changes of the input see it."""
    changes_of = lead_changes(head.pooler, head.variables, balls.x, real)

    def on(given):
        reach, blocks = given
        radii = Reach(reach, balls.geometry).radii
        changes = jax.vmap(lambda direction: changes_of(radii, direction))(head.directions)  # (k, n)
        return or_infinite(changes @ blocks)

    return jnp.swapaxes(jax.lax.map(on, (balls.reaches, balls.blocks)), 0, 1)


@jax.jit
def _head_covectors(head: Head, z, real):
    """Gradients of the leads by the token states, ``(k, n, d)``."""

    def lead(z, direction):
        return direction @ head.pooler.apply(head.variables, z, real)

    return jax.vmap(lambda direction: jax.grad(lead)(z, direction))(head.directions)


@jax.jit
def _pulled_back(spec, x, attention, real, covectors):
    sum_of, norm_of = layer_map(spec, x, attention, real)
    back = jax.vjp(lambda x: norm_of(sum_of(x)), x)[1]
    return jax.vmap(lambda covector: back(covector)[0])(covectors)


@functools.partial(jax.jit, static_argnames="exact")
def _through(
    spec, attention, real, covectors, balls: Balls, units: HiddenUnits | None, unit_changes, exact
):
    """The balls behind a layer, and what its derivative's changes do to the leads' gradients.

    Of a first layer of attention also what the derivatives of the hidden units behind it change by,
    which the next layer is given.
    """
    layer = LayerBall(spec, balls.x, attention, real, exact=exact)
    after, (sums, sum_reaches, _) = carried(layer, spec, balls)
    before, geometry = balls.blocks, balls.geometry
    # Of the norm behind, at the sum: by its size, times how far the sum moves.
    norm_of = layer_map(spec, balls.x, attention, real)[1]
    back = jax.vjp(norm_of, layer.summed)[1]
    seen = jax.vmap(lambda covector: back(covector)[0])(covectors)  # (k, n, d)
    sizes = safe_norm(covectors, axis=-1)  # (k, n)

    def of_norm(given):
        reach, blocks, first = given
        bent = norm_on_ball(spec.norm_after, layer.summed, Reach(reach, geometry).radii).change
        return (sizes * bent[None]) @ or_infinite(blocks @ first)

    def of_branch(given):
        reach, blocks = given
        inner = Reach(reach, geometry)
        return jax.vmap(lambda covector: layer.changes_along(covector, inner))(seen) @ blocks

    changes = jnp.zeros((before.shape[0], *sizes.shape), sizes.dtype)  # (J, k, n)
    if normalises(spec.norm_after):
        changes = jax.lax.map(of_norm, (sum_reaches, sums.blocks, before))
    if layer.branch is not None or spec.norm_before is not None:
        of_branches = jax.lax.map(of_branch, (balls.reaches, before))
        if units is not None and unit_changes is not None:
            known = _through_units(spec, layer, seen, balls, units, unit_changes)
            of_branches = jnp.minimum(of_branches, known)
        changes = changes + of_branches

    ahead = None
    if units is not None and unit_changes is None:
        ahead = _unit_changes(spec, layer, sums, sum_reaches, balls, units)
    return after, jnp.swapaxes(or_infinite(changes), 0, 1), ahead


def _unit_changes(spec, layer: LayerBall, sums, sum_reaches, balls: Balls, units: HiddenUnits):
    """What derivatives of the hidden units behind a layer of attention change by, ``(J, n, m, n)``."""

    def on(given):
        found, *reaches = given
        return units.changes(spec, layer, found, *(Reach(reach, balls.geometry) for reach in reaches))

    return jax.lax.map(on, (sums, sum_reaches, balls.reaches))


def _through_units(spec, layer: LayerBall, seen, balls: Balls, units: HiddenUnits, unit_changes):
    """What slopes of hidden units do to the leads' gradients, by what is known of each, (J, k, n)."""

    def slopes_on(given):
        reach, blocks, changes = given
        bent = norm_on_ball(spec.norm_before, balls.x, Reach(reach, balls.geometry).radii).change
        return units.on(changes, blocks, bent)

    slopes = jax.lax.map(slopes_on, (balls.reaches, balls.blocks, unit_changes))

    def on(given):
        reach, blocks, slopes, summed = given
        inner = Reach(reach, balls.geometry)
        moves = {name: row_norm(balls.geometry, far) for name, far in summed.items()}
        return jax.vmap(
            lambda covector: layer.changes_through_units(covector, inner, blocks, moves, slopes)
        )(seen)

    summed = {name: integrals(balls.widths, found) for name, found in slopes.items()}
    return or_infinite(jax.lax.map(on, (balls.reaches, balls.blocks, slopes, summed)))
