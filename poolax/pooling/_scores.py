"""Averages of tokens by the softmax of scores, which poolers with attention share."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax._numerics import masked_softmax


def averages_by_scores(
    tokens: Float[Array, "*batch n d"],
    scores: Float[Array, "*batch k n"],
    mask: Bool[Array, "*batch n"] | None,
) -> tuple[Float[Array, "*batch k n"], Float[Array, "*batch k d"]]:
    """Softmax over the real tokens of each of ``k`` rows of scores, and averages with these weights.

    Averaging tokens before projecting them costs ``d`` a token instead of ``d^2``.

    Args:
        tokens: Checked tokens, masked ones zero, in the dtype of reductions.
        scores: Logits; what stands at masked positions is ignored.
        mask: True at real tokens; ``None`` if all are real.

    Returns:
        Weights and averages, zeros for a sequence without real tokens.
    """
    weights = masked_softmax(scores, None if mask is None else mask[..., None, :])
    return weights, jnp.einsum("...kn,...nd->...kd", weights, tokens)


def scores_along(
    tokens: Float[Array, "*batch n d"], directions: Float[Array, "d k"]
) -> Float[Array, "*batch k n"]:
    """Products of tokens with directions."""
    return jnp.einsum("...nd,dk->...kn", tokens, directions.astype(tokens.dtype))
