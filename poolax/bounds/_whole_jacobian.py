"""The Jacobian of all layers of a backbone at an input, formed where it is small, and its norms.

It is the product of the Jacobians of layers of attention, each with what follows it up to the next, and
multiplied as a tree: what rounding adds to a product is seen by the norms of what stands behind and
before it, which are those of formed products themselves.

Theory, section 5.4.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from poolax._layer_specs import LayerSpec
from poolax._numerics import divisor
from poolax.bounds._linalg import spectral_norm
from poolax.bounds._local_pooled import PoolerAt
from poolax.bounds._local_whole import (
    attention_groups,
    block_norms,
    composed,
    formed_behind,
    may_form,
    near_norm,
    norm_above,
    raised_norm,
    rounding_of,
)
from poolax.bounds._reach import row_norm
from poolax.bounds._summed_norm import summed_norm


@struct.dataclass
class WholeJacobian:
    """The Jacobian of some layers, over ``exp(log_scale)``.

    Attributes:
        blocks: Its blocks, output token first.
        log_scale: A logarithm.
        norms: Bounds of the blocks' norms, from which what rounding adds is found.
        lost: Bounds of what rounding may have changed each block by.
    """

    blocks: Float[Array, "n n d d"]
    log_scale: Float[Array, ""]
    norms: Float[Array, "n n"]
    lost: Float[Array, "n n"]

    def log_norm(self, geometry: str) -> Float[Array, ""]:
        """Logarithm of the norm, from above."""
        if geometry == "frobenius":
            size = self.blocks.shape[0] * self.blocks.shape[-1]
            matrix = jnp.transpose(self.blocks, (1, 2, 0, 3)).reshape(size, size)
            return self.log_scale + jnp.log(raised_norm(matrix) + spectral_norm(self.lost))
        starts = block_norms(self.blocks, near_norm)
        by_token = jnp.swapaxes(self.blocks, 2, 3)
        rows = jax.lax.map(lambda row: summed_norm(*row), (by_token, starts))
        return self.log_scale + jnp.log(jnp.max(rows + row_norm(geometry, self.lost)))

    def log_pooled_norm(self, pooler: PoolerAt, geometry: str) -> Float[Array, ""]:
        """Logarithm of the norm of what a pooler makes of it, from above."""
        pooled = jnp.einsum("eid,ikcd->kec", pooler.derivative, self.blocks)
        if geometry == "frobenius":
            norm = raised_norm(jnp.moveaxis(pooled, 0, 1).reshape(pooled.shape[1], -1))
        else:
            norm = summed_norm(pooled, jax.lax.map(spectral_norm, pooled))
        lost = self.lost + rounding_of(self.blocks) * self.norms
        return self.log_scale + jnp.log(norm + pooler.norm_behind(lost, geometry))


def _scaled(blocks, log_scale, lost):
    scale = divisor(jax.lax.stop_gradient(jnp.max(jnp.abs(blocks))))
    blocks, lost = blocks / scale, lost / scale
    # Rounding is no function of the input that were to be differentiated.
    norms = lost + jax.lax.stop_gradient(block_norms(blocks, norm_above))
    return WholeJacobian(blocks, log_scale + jnp.log(scale), norms, lost)


@jax.jit
def _of_group(blocks):
    return _scaled(blocks, jnp.zeros((), blocks.dtype), jnp.zeros(blocks.shape[:2], blocks.dtype))


@jax.jit
def _composed(first: WholeJacobian, second: WholeJacobian) -> WholeJacobian:
    lost = second.norms @ first.lost + second.lost @ first.norms
    lost = lost + rounding_of(first.blocks) * (second.norms @ first.norms)
    return _scaled(composed(first.blocks, second.blocks), first.log_scale + second.log_scale, lost)


def product_of(groups: Iterable[Float[Array, "n n d d"]]) -> WholeJacobian:
    """The product of Jacobians of groups of layers, the first of which acts first, at least one.

    They are taken as they are needed, and no more than about the logarithm of their number is kept.
    """
    parts: list[tuple[int, WholeJacobian]] = []
    for blocks in groups:
        count, last = 1, _of_group(blocks)
        # As digits carry over: each part is of a power of two, and of fewer than the part before.
        while parts and parts[-1][0] == count:
            count, last = 2 * count, _composed(parts.pop()[1], last)
        parts.append((count, last))
    *before, (_, whole) = parts
    for _, part in reversed(before):
        whole = _composed(part, whole)
    return whole


def whole_jacobian(
    layers: Sequence[LayerSpec],
    maps: Sequence[Float[Array, "H n n"] | None],
    states: Sequence[Float[Array, "n d"]],
    real: Bool[Array, " n"],
) -> WholeJacobian | None:
    """The Jacobian of all layers, or ``None`` where it is too large to form.

    Args:
        layers: The layers.
        maps: Attention of each; ``None`` for other layers.
        states: What enters each.
        real: True at tokens that are real.
    """
    if not may_form(states[0]):
        return None

    def groups():
        for start, end in attention_groups(layers):
            blocks: Any = None
            for index in range(start, end):
                blocks = _formed(layers[index], states[index], maps[index], real, blocks)
            yield blocks

    return product_of(groups())


@jax.jit
def _formed(spec, x, attention, real, blocks):
    return formed_behind(spec, x, attention, real, blocks)[0]
