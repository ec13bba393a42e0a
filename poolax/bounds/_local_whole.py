"""Jacobians of small Transformer blocks at given tokens, formed, and their norms.

Theory, section 5.4.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from poolax._checks import is_concrete
from poolax._layer_specs import AttentionSpec, LayerSpec
from poolax.bounds._linalg import spectral_norm
from poolax.bounds._local_layers import Around, attention_at, tokens_at
from poolax.bounds._local_norms import norm_at

# Tokens times width: matrices of this size have a norm within seconds.
_MOST_ENTRIES = 4096


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


def then_by_token(
    jacobians: Float[Array, "n d d"], blocks: Float[Array, "n n d d"]
) -> Float[Array, "n n d d"]:
    """Blocks of a Jacobian with a layer behind that maps each token alone by these."""
    return jax.lax.map(lambda row: row[0] @ row[1][None], (blocks, jacobians))


def is_attention(spec: LayerSpec) -> bool:
    """Whether a layer moves one token by another."""
    return isinstance(spec.branch, AttentionSpec)


def raised_norm(matrix: Float[Array, "m k"]) -> Float[Array, ""]:
    """Norm of a matrix, raised by what the products that made it may be rounded by."""
    return spectral_norm(matrix) * (1 + max(matrix.shape) * jnp.finfo(matrix.dtype).eps)


@jax.jit
def whole_jacobian_norm(blocks: Float[Array, "n n d d"]) -> Float[Array, ""]:
    """Norm of the Jacobian of these blocks."""
    size = blocks.shape[0] * blocks.shape[-1]
    return raised_norm(jnp.transpose(blocks, (1, 2, 0, 3)).reshape(size, size))
