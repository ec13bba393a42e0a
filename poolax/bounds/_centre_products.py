"""What several layers do together at the centre of a ball: norms of the blocks of their product.

Norms of layers multiply to far more than the norm of their product, and on a small ball a product is
not far from that at its centre: it changes by what each layer changes by, with products at the centre
behind it and what stands before it on the ball.

Theory, section 5.6.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from poolax._layer_specs import LayerSpec
from poolax.bounds._local_whole import (
    attention_groups,
    block_norms,
    composed,
    formed_behind,
    is_attention,
    may_form,
    near_norm,
    rounding_of,
)
from poolax.bounds._overflow import or_infinite


@struct.dataclass
class CentreProducts:
    """Bounds of products at the centre, and what the layers so far change by on balls around it.

    Attributes:
        norms: Of the blocks of products, by where they start and where they end: what
            :func:`product_norms` gives.
        moved: Of what each layer's blocks change by, times what stands before it; zeros of later ones.
        depth: How many layers there are so far.
    """

    norms: Float[Array, "m_and_1 m_and_1 n n"]
    moved: Float[Array, "m J n n"]
    depth: Int[Array, ""]

    @classmethod
    def before_layers(
        cls, norms: Float[Array, "m_and_1 m_and_1 n n"], num_balls: int
    ) -> "CentreProducts":
        """Of an input before its first layer."""
        moved = jnp.zeros((norms.shape[0] - 1, num_balls, *norms.shape[2:]), norms.dtype)
        return cls(norms, moved, jnp.asarray(0))

    def behind(
        self, change: Float[Array, "J n n"], before: Float[Array, "J n n"]
    ) -> tuple[Float[Array, "J n n"], "CentreProducts"]:
        """Bounds of the blocks behind the next layer on balls, and this with the layer in it.

        Args:
            change: Of what the layer's blocks change by.
            before: Of the blocks of all layers before it.
        """
        moved = self.moved.at[self.depth].set(or_infinite(change @ before))
        ending = self.norms[:, self.depth + 1]
        changes = jnp.einsum("mik,mjkl->jil", ending[1:], moved)
        after = CentreProducts(self.norms, moved, self.depth + 1)
        return or_infinite(ending[0][None] + changes), after


def product_norms(
    layers: Sequence[LayerSpec],
    maps: Sequence[Float[Array, "H n n"] | None],
    states: Sequence[Float[Array, "n d"]],
    real: Bool[Array, " n"],
) -> Float[Array, "m_and_1 m_and_1 n n"] | None:
    """Norms of blocks of the products of layers at the centre, by where they start and where they end.

    Each layer of attention with what follows it up to the next is formed, and so are all products of
    these; other products are bounded by their parts.

    Args:
        layers: The layers.
        maps: Attention of each; ``None`` for other layers.
        states: What enters each, and what comes out of the last.
        real: True at tokens that are real.

    Returns:
        The norms or bounds of them, output token first, zeros where a product would end before it
        starts; ``None`` where Jacobians are too large to form, or no product has two parts.
    """
    count, depth = real.shape[0], len(layers)
    starts, ends = zip(*attention_groups(layers), strict=True)
    if not may_form(states[0]) or len(starts) < 2:
        return None
    eye = jnp.eye(count, dtype=states[0].dtype)
    known = {(index, index): eye for index in range(depth + 1)}
    groups = []
    for start, end in zip(starts, ends, strict=True):
        blocks = None
        for index in range(start, end):
            blocks, known[index, index + 1] = _formed(
                layers[index], states[index], maps[index], real, blocks
            )
        groups.append(blocks)
    # From the last to the first: what rounding adds is seen through the products behind it.
    for first in reversed(range(len(groups))):
        blocks = groups[first]
        for last in range(first, len(groups)):
            if last > first:
                blocks = _composed(blocks, groups[last])
            lost = jnp.zeros_like(eye)
            for place in range(first + 1, last + 1):
                alone, behind = known[starts[place], ends[place]], known[ends[place], ends[last]]
                lost = lost + behind @ alone @ known[starts[first], starts[place]]
            known[starts[first], ends[last]] = _block_norms(blocks) + rounding_of(blocks) * lost
    for length in range(2, depth + 1):
        for start in range(depth + 1 - length):
            end = start + length
            if (start, end) not in known:
                parts = [known[k, end] @ known[start, k] for k in range(start + 1, end)]
                known[start, end] = jnp.min(jnp.stack(parts), axis=0)
    nothing = jnp.zeros_like(eye)
    return jnp.stack(
        [
            jnp.stack([known.get((start, end), nothing) for end in range(depth + 1)])
            for start in range(depth + 1)
        ]
    )


_composed = jax.jit(composed)


@jax.jit
def _formed(spec, x, attention, real, blocks):
    """Blocks of a layer's Jacobian behind others', and the norms of the layer's own."""
    blocks, own = formed_behind(spec, x, attention, real, blocks)
    if is_attention(spec):
        return blocks, block_norms(own, near_norm)
    return blocks, jnp.diag(jax.lax.map(near_norm, own))


@jax.jit
def _block_norms(blocks):
    return block_norms(blocks, near_norm)
