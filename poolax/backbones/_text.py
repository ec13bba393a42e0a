"""What language models share: checked token ids, their embeddings and positions."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from poolax._checks import broadcast_mask, is_concrete


def check_ids(
    ids: Int[Array, "*batch n"],
    mask: Bool[Array, "*#batch n"] | None,
    vocab_size: int,
    max_tokens: int | None = None,
) -> tuple[Int[Array, "*batch n"], Bool[Array, "*batch n"] | None]:
    """Check token ids and their mask.

    Args:
        ids: Token ids, shape ``(*batch, n)``; those at masked positions are not looked at.
        mask: True at real tokens, or ``None``.
        vocab_size: Ids are below it.
        max_tokens: Most tokens that the model takes; ``None`` for any number.

    Returns:
        Ids, zero at masked positions, and the mask, broadcast.

    Raises:
        ValueError: for a wrong shape or dtype, too many tokens, or an id outside the vocabulary.
    """
    shape = jnp.shape(ids)
    if len(shape) < 1 or shape[-1] < 1:
        raise ValueError(f"inputs: expected token ids of shape (*batch, n), n >= 1, got {shape}")
    if not jnp.issubdtype(jnp.result_type(ids), jnp.integer):
        raise ValueError(f"inputs: expected integer token ids, got dtype {jnp.result_type(ids)}")
    if max_tokens is not None and shape[-1] > max_tokens:
        raise ValueError(f"inputs: expected at most {max_tokens} tokens, got n = {shape[-1]}")
    mask = broadcast_mask(mask, shape)
    ids = jnp.asarray(ids) if mask is None else jnp.where(mask, ids, 0)
    if is_concrete(ids):
        outside = (np.asarray(ids) < 0) | (np.asarray(ids) >= vocab_size)
        if outside.any():
            first = int(np.asarray(ids)[outside][0])
            raise ValueError(f"inputs: expected token ids from 0 to {vocab_size - 1}, got {first}")
    return ids, mask


def positions(
    num_tokens: int, mask: Bool[Array, "*batch n"] | None
) -> Int[Array, " n"] | Int[Array, "*batch n"]:
    """Offset of each token from the first real one, so that padding on the left changes nothing."""
    index = jnp.arange(num_tokens)
    if mask is None:
        return index
    first = jnp.argmax(mask, axis=-1, keepdims=True)
    return jnp.maximum(index - first, 0)


def take_rows(table: Float[Array, "rows d"], rows: Int[Array, "*batch"]) -> Float[Array, "*batch d"]:
    """Rows of a table by number; a number outside gives NaN where it could not be checked."""
    return jnp.take(table, rows, axis=0)
