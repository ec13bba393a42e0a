"""Jacobians of layers at given tokens and their products, formed, and the norms of their blocks.

Theory, sections 5.4 and 5.6.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from poolax._checks import is_concrete
from poolax._layer_specs import AttentionSpec, LayerSpec
from poolax._numerics import safe_sqrt
from poolax._squaring import eigenvalue_above
from poolax.bounds._linalg import spectral_norm
from poolax.bounds._local_layers import Around, attention_at, tokens_at
from poolax.bounds._local_norms import norm_at

# Tokens times width: matrices of this size have a norm within seconds.
_MOST_ENTRIES = 4096
# Up to this width a norm costs no more than what bounds it.
_SMALL = 64
# So many terms of a sum are left to a product of matrices, whose rounding grows with their number.
_SUMMED_TOGETHER = 128


def may_form(x: Float[Array, "n d"]) -> bool:
    """Whether Jacobians at these tokens are small enough."""
    return x.shape[0] <= _MOST_ENTRIES // x.shape[1]


def formed_count(x: Float[Array, "n d"], real: Bool[Array, " n"]) -> int:
    """How many tokens to read: all but padding at the end that keeps Jacobians from being formed."""
    most = _MOST_ENTRIES // x.shape[1]
    if not is_concrete(real) or not 0 < most < x.shape[0] or np.any(np.asarray(real)[most:]):
        return x.shape[0]
    return most


def attention_jacobian(
    spec: LayerSpec,
    x: Float[Array, "n d"],
    attention: Float[Array, "H n n"],
    real: Bool[Array, " n"],
) -> Float[Array, "n n d d"]:
    """Blocks of the Jacobian of an attention layer, norms and residual included, output token first."""
    around = Around.of(spec, x, real)
    at = attention_at(spec, around, attention, real)
    _, after = norm_at(spec.norm_after, around.summed(x, at.out))
    blocks_of, tokens = at.rows(), jnp.arange(x.shape[0])

    def row(index):
        # Rows are changed by the norm before, the branch and the residual, then the norm behind.
        blocks = blocks_of(index)
        if spec.norm_before is not None:
            blocks = jax.vmap(lambda key, block: around.before.matrix(key) @ block)(tokens, blocks)
        blocks = blocks.at[index].add(around.kept * jnp.eye(x.shape[1], dtype=x.dtype))
        blocks = blocks @ after.matrix(index)[None]
        return jnp.where((real & real[index])[:, None, None], blocks, 0)

    return jax.lax.map(row, tokens)


def token_jacobians(
    spec: LayerSpec, x: Float[Array, "n d"], real: Bool[Array, " n"]
) -> Float[Array, "n d d"]:
    """The Jacobians of a layer that maps each token alone, norms and residual included."""
    around = Around.of(spec, x, real)
    out, jacobian, _ = tokens_at(spec.branch, around.inner)
    _, after = norm_at(spec.norm_after, around.summed(x, around.scale * out))

    def at(index):
        matrix = around.block(index, jacobian(index) * around.scale) @ after.matrix(index)
        return jnp.where(real[index], matrix, 0)

    return jax.lax.map(at, jnp.arange(x.shape[0]))


def formed_behind(
    spec: LayerSpec,
    x: Float[Array, "n d"],
    attention: Any,
    real: Bool[Array, " n"],
    blocks: Float[Array, "n n d d"] | None,
) -> tuple[Float[Array, "n n d d"], Any]:
    """The Jacobian of a layer behind others, if any, formed, and the layer's own.

    Args:
        spec: The layer; without others before it if it is one of attention.
        x: What enters it.
        attention: Attention there, shape ``(H, n, n)``; ``None`` for other layers.
        real: True at tokens that are real.
        blocks: Blocks of the Jacobian of the others, output token first.

    Returns:
        Blocks of both together, and those of the layer itself: only those on the diagonal of a layer
        that maps each token alone, shape ``(n, d, d)``.
    """
    if is_attention(spec):
        own = attention_jacobian(spec, x, attention, real)
        return own, own
    own = token_jacobians(spec, x, real)
    if blocks is None:
        eye = jnp.eye(x.shape[0], dtype=bool)[:, :, None, None]
        return jnp.where(eye, own[:, None], 0), own
    return jax.lax.map(lambda row: row[0] @ row[1][None], (blocks, own)), own


def composed(
    first: Float[Array, "n n d d"], second: Float[Array, "n n d d"]
) -> Float[Array, "n n d d"]:
    """Blocks of ``second`` behind ``first``, off by no more than :func:`rounding_of` says."""
    count, width = first.shape[0], first.shape[-1]
    size = count * width
    parts = _parts(size)
    # Rows are what is summed over: tokens between the two and their entries.
    before = jnp.transpose(first, (0, 3, 1, 2)).reshape(size, size)
    behind = jnp.transpose(second, (1, 2, 0, 3)).reshape(size, size)
    missing = ((0, parts * -(-size // parts) - size), (0, 0))
    rows = [jnp.pad(matrix, missing).reshape(parts, -1, size) for matrix in (before, behind)]

    def add(total, row):
        return total + row[0].T @ row[1], None

    total, _ = jax.lax.scan(add, jnp.zeros((size, size), before.dtype), tuple(rows))
    return jnp.transpose(total.reshape(count, width, count, width), (2, 0, 1, 3))


def rounding_of(blocks: Float[Array, "n n d d"]) -> float:
    """What a product of two such Jacobians may lose, over the product of the norms of their blocks."""
    size = blocks.shape[0] * blocks.shape[-1]
    parts = _parts(size)
    return (-(-size // parts) + parts) * float(jnp.finfo(blocks.dtype).eps)


def _parts(size):
    """Into how many parts a sum is split: rounding grows with their number and with that of terms."""
    return -(-size // _SUMMED_TOGETHER)


def block_norms(blocks: Float[Array, "n n d d"], norm: Callable[[Array], Array]) -> Float[Array, "n n"]:
    """Norms of the blocks, by :func:`near_norm` or :func:`norm_above`."""
    count, width = blocks.shape[0], blocks.shape[-1]
    return jax.lax.map(norm, blocks.reshape(-1, width, width)).reshape(count, count)


def near_norm(matrix: Float[Array, "k k"]) -> Float[Array, ""]:
    """The norm, or of a wide matrix what :func:`norm_above` gives."""
    return norm_above(matrix) if matrix.shape[0] > _SMALL else spectral_norm(matrix)


def norm_above(matrix: Float[Array, "k k"]) -> Float[Array, ""]:
    """The norm, or up to the sixteenth root of the width more."""
    scale = jnp.max(jnp.abs(matrix))
    scaled = matrix / jnp.where(scale > 0, scale, 1)
    return scale * safe_sqrt(eigenvalue_above(scaled @ scaled.T))


def is_attention(spec: LayerSpec) -> bool:
    """Whether a layer moves one token by another."""
    return isinstance(spec.branch, AttentionSpec)


def attention_groups(layers: Sequence[LayerSpec]) -> list[tuple[int, int]]:
    """Where each layer of attention, with what follows it up to the next, starts and ends.

    What stands before the first one is a group of its own.
    """
    starts = [index for index, spec in enumerate(layers) if index == 0 or is_attention(spec)]
    return list(zip(starts, [*starts[1:], len(layers)], strict=True))


def raised_norm(matrix: Float[Array, "m k"]) -> Float[Array, ""]:
    """Norm of a matrix, raised by what the products that made it may be rounded by."""
    return spectral_norm(matrix) * (1 + max(matrix.shape) * jnp.finfo(matrix.dtype).eps)
