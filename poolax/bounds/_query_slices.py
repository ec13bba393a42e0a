"""Slices of query attention at given tokens.

Theory, section 9.4.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float


@struct.dataclass
class QuerySlices:
    """Slices of the output of query attention, each with weights of its own.

    Attributes:
        along_logits: ``a``, what each slice's logits change with a token.
        kernels: ``W_s``, by which its values are linear in the tokens.
        weights: Its attention.
    """

    along_logits: Float[Array, "S d"]
    kernels: Float[Array, "d S d_v"]
    weights: Float[Array, "S n"]


def query_slices(params, z, real) -> QuerySlices:
    """The slices of :class:`poolax.pooling.QueryAttentionPool` with these parameters."""
    query, key, value = (params[name] for name in ("query", "key", "value"))
    width, slices = z.shape[-1], query.shape[0] * query.shape[1]
    along_logits = jnp.einsum("dhk,qhk->qhd", key, query) / jnp.sqrt(query.shape[-1])
    along_logits = along_logits.reshape(slices, width)
    logits = jnp.where(real[None], along_logits @ z.T, -jnp.inf)  # (S, n)
    weights = jnp.where(real[None], jax.nn.softmax(logits, axis=-1), 0)
    return QuerySlices(along_logits, value.reshape(width, slices, -1), weights)
