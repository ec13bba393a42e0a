"""Backbones on balls around an input, layer by layer: how far tokens move, and by how much blocks grow.

What enters a layer moves, on a ball of radius ``r``, by no more than the integral from 0 to ``r`` of
what the layers before it do on smaller balls. Several radii are carried along at once, and the integral
is the sum of the widths between them times what holds at their upper ends.

Theory, section 5.6.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from poolax._layer_specs import LayerSpec
from poolax.bounds._ball_layers import LayerBall
from poolax.bounds._ball_norms import normalises
from poolax.bounds._centre_products import CentreProducts
from poolax.bounds._domain import domain_of
from poolax.bounds._overflow import or_infinite
from poolax.bounds._reach import Reach, whole_norm
from poolax.records import Domain, LedgerRow

# Smaller balls on the way to one.
_STEPS = 8


@struct.dataclass
class Balls:
    """Balls of growing radii around an input, as far as some layers have carried them.

    Attributes:
        x: The tokens at the centre.
        blocks: Bounds of the blocks of the layers so far, on each ball.
        reaches: How far tokens move on each, as the matrix of a :class:`Reach`.
        widths: How much each radius is above that before it.
        products: What layers do together at the centre, where it is known.
        geometry: ``"frobenius"`` or ``"tokens"``.
    """

    x: Float[Array, "n d"]
    blocks: Float[Array, "J n n"]
    reaches: Float[Array, "J n n"]
    widths: Float[Array, " J"]
    products: CentreProducts | None
    geometry: str = struct.field(pytree_node=False)

    @classmethod
    def around(cls, x, real, widths, geometry: str, product_norms=None) -> "Balls":
        """Balls around an input before its first layer.

        Args:
            x: The input, shape ``(n, d)``.
            real: True at tokens that are real, shape ``(n,)``.
            widths: How much each radius is above that before it, shape ``(J,)``.
            geometry: ``"frobenius"`` or ``"tokens"``.
            product_norms: What :func:`product_norms` gives of the layers that follow, if anything.
        """
        start = jnp.diag(real.astype(x.dtype))
        blocks = jnp.broadcast_to(start, (widths.shape[0], *start.shape))
        products = None
        if product_norms is not None:
            products = CentreProducts.before_layers(product_norms, widths.shape[0])
        return cls(x, blocks, integrals(widths, blocks), widths, products, geometry)

    @property
    def last(self) -> Float[Array, "n n"]:
        """How far tokens move on the largest ball."""
        return self.reaches[-1]

    def grown(self, domain: Domain) -> Domain:
        """A domain of tokens at the centre, enlarged to hold those on the largest ball."""
        return _grown(domain, self.last, self.geometry)


@functools.partial(jax.jit, static_argnames="geometry")
def _grown(domain, reach, geometry):
    most = jnp.max(Reach(reach, geometry).radii)
    return Domain(domain.radius + most, jnp.minimum(domain.spread, domain.radius) + most)


def even_steps(radius: Float[Array, ""]) -> Float[Array, " J"]:
    """Widths of even steps up to a radius."""
    return jnp.broadcast_to(radius / _STEPS, (_STEPS,))


def integrals(widths: Float[Array, " J"], slopes: Float[Array, "J *s"]) -> Float[Array, "J *s"]:
    """Upper sums up to each radius of what holds on the balls of growing radii."""
    return or_infinite(jnp.cumsum(jnp.expand_dims(widths, range(1, slopes.ndim)) * slopes, axis=0))


@jax.jit
def add_ball_layer(
    spec: LayerSpec, balls: Balls, attention: Float[Array, "H n n"] | None, real: Bool[Array, " n"]
) -> tuple[Balls, LedgerRow]:
    """The balls behind a layer, and its row on the largest of them."""
    layer = LayerBall(spec, balls.x, attention, real)
    after, (sums, sum_reaches, wholes) = carried(layer, spec, balls)
    last = jax.tree.map(lambda leaf: leaf[-1], sums)
    before = balls.grown(domain_of(balls.x, real))
    behind = after.grown(domain_of(after.x, real))
    row = LedgerRow(
        name=spec.name,
        log_branch=jnp.log(whole_norm(balls.geometry, last.branch)),
        log_norm=jnp.log(layer.steepest(last, Reach(sum_reaches[-1], balls.geometry))),
        log_factor=jnp.log(or_infinite(whole_norm(balls.geometry, wholes[-1]))),
        radius_in=before.radius,
        spread_in=before.spread,
        radius_out=behind.radius,
        spread_out=behind.spread,
        num_tokens=jnp.sum(real),
    )
    return after, row


def carried(layer: LayerBall, spec: LayerSpec, balls: Balls):
    """The balls behind a layer; on each its sum, how far that moves, and the layer's blocks."""
    geometry, widths = balls.geometry, balls.widths
    sums = jax.lax.map(lambda reach: layer.sum_on(Reach(reach, geometry)), balls.reaches)
    if normalises(spec.norm_after):
        sum_reaches = integrals(widths, or_infinite(sums.blocks @ balls.blocks))
    else:
        # The norm is as steep wherever the sum moves to.
        sum_reaches = jnp.zeros_like(balls.reaches)
    wholes = jax.vmap(lambda found, reach: layer.whole_on(found, Reach(reach, geometry)))(
        sums, sum_reaches
    )
    blocks, products = or_infinite(wholes @ balls.blocks), balls.products
    if products is not None:
        changes = jax.vmap(lambda found, reach: layer.change_of_whole(found, Reach(reach, geometry)))(
            sums, sum_reaches
        )
        known, products = products.behind(changes, balls.blocks)
        blocks = jnp.minimum(blocks, known)
    after = dataclasses.replace(
        balls,
        x=layer.result,
        blocks=blocks,
        reaches=integrals(widths, blocks),
        products=products,
    )
    return after, (sums, sum_reaches, wholes)
