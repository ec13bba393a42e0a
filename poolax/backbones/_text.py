"""What language models share: checked token ids, their embeddings and positions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from poolax._checks import broadcast_mask, check_num_tokens, is_concrete
from poolax._numerics import with_leading_axes


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
    ids = as_array(ids)
    shape = ids.shape
    if len(shape) < 1 or shape[-1] < 1:
        raise ValueError(f"inputs: expected token ids of shape (*batch, n), n >= 1, got {shape}")
    if not jnp.issubdtype(jnp.result_type(ids), jnp.integer):
        raise ValueError(f"inputs: expected integer token ids, got dtype {jnp.result_type(ids)}")
    check_num_tokens("inputs", shape[-1], max_tokens)
    mask = broadcast_mask(mask, shape)
    check_rows("inputs", ids, mask, vocab_size)
    return jnp.asarray(ids) if mask is None else jnp.where(mask, ids, 0), mask


def as_array(ids: Any) -> Any:
    """A JAX array as it is, anything else as a NumPy array, which keeps numbers of 64 bits."""
    return ids if isinstance(ids, jax.Array) else np.asarray(ids)


def check_rows(
    name: str, rows: Int[Array, "*batch"], mask: Bool[Array, "*batch"] | None, num_rows: int
) -> None:
    """Refuse concrete numbers of rows that a table does not have, where ``mask`` is True."""
    concrete = is_concrete(rows) if mask is None else is_concrete(rows, mask)
    if not concrete:
        return
    # In NumPy: JAX would first wrap numbers beyond 32 bits.
    numbers = np.asarray(rows)
    outside = (numbers < 0) | (numbers >= num_rows)
    if mask is not None:
        outside = outside & np.asarray(mask)
    if outside.any():
        raise ValueError(
            f"{name}: expected numbers from 0 to {num_rows - 1}, got {int(numbers[outside][0])}"
        )


def positions(
    num_tokens: int, mask: Bool[Array, "*batch n"] | None
) -> Int[Array, " n"] | Int[Array, "*batch n"]:
    """Offset of each token from the first real one, so that padding on the left changes nothing."""
    index = jnp.arange(num_tokens)
    if mask is None:
        return index
    first = jnp.argmax(mask, axis=-1, keepdims=True)
    return jnp.maximum(with_leading_axes(index, mask.ndim) - first, 0)


def positions_from(
    pad_id: int, ids: Int[Array, "*batch n"], mask: Bool[Array, "*batch n"] | None
) -> Int[Array, "*batch n"]:
    """Numbers that count real tokens from ``pad_id + 1``, as RoBERTa counts; others have ``pad_id``.

    A token counts that the mask has and that is not the padding token itself.
    """
    real = ids != pad_id if mask is None else mask & (ids != pad_id)
    return jnp.cumsum(real, axis=-1) * real + pad_id


def take_rows(
    table: Float[Array, "rows d"], rows: Int[Array, "*#batch"], ndim: int | None = None
) -> Float[Array, "*#batch d"]:
    """Rows of a table by number; a number outside gives NaN where it could not be checked.

    Args:
        table: The table.
        rows: Numbers of rows.
        ndim: Number of axes of the result, those that are missing being of length one in front.

    Returns:
        The rows.
    """
    taken = jnp.take(table, rows, axis=0)
    return taken if ndim is None else with_leading_axes(taken, ndim)
