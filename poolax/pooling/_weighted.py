"""Weighted averages of tokens: given weights, and learned weights by position."""

from typing import Any, final

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax._checks import (
    check_choice,
    check_count,
    check_finite,
    check_floating,
    check_num_tokens,
)
from poolax._numerics import accumulation_dtype, masked_softmax, with_leading_axes, zero_masked
from poolax._typing import AnyArray
from poolax.pooling._base import Pooler, check_input, check_pooled


def weighted_average_pool(
    z: Float[AnyArray, "*batch n d"],
    weights: Float[AnyArray, "*#batch n"],
    mask: Bool[AnyArray, "*#batch n"] | None = None,
) -> Float[Array, "*batch d"]:
    """Tokens summed with the given weights, taken as they are: no softmax, no renormalisation.

    Args:
        z: Tokens, shape ``(*batch, n, d)``.
        weights: One weight for each token, broadcastable to ``(*batch, n)``. What stands at masked
            positions is ignored.
        mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

    Returns:
        ``sum_i mask_i w_i z_i``, shape ``(*batch, d)``, accumulated in at least float32; zeros for
        a sequence without real tokens.

    Raises:
        ValueError: for a wrong shape, dtype or mask, ``n = 0``, or non-finite real tokens or
            weights.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> weighted_average_pool(z, jnp.array([0.25, 0.75]))
        Array([2.5, 3.5], dtype=float32)
    """
    z, mask = check_input(z, mask)
    check_floating("weights", weights)
    shape = z.shape[:-1]
    try:
        weights = jnp.broadcast_to(weights, shape)
    except ValueError:
        raise ValueError(
            f"weights: expected a shape that broadcasts to {shape}, got {jnp.shape(weights)}"
        ) from None
    check_finite("weights", weights, mask)
    if mask is not None:
        weights = jnp.where(mask, weights, 0)
    dtype = accumulation_dtype(z)
    pooled = jnp.einsum(
        "...n,...nd->...d",
        weights.astype(dtype),
        zero_masked(z, mask).astype(dtype),
        precision=jax.lax.Precision.HIGHEST,
    )
    return check_pooled(pooled.astype(z.dtype))


@final
class WeightedAveragePool(Pooler):
    r"""Weighted average with one learned weight for each token position (the paper's W-Avg).

    ``sum_i p_i z_i`` with ``p = softmax(w)`` over the real tokens, or ``p = w`` as it is. The
    position of a token is its offset from the first real token, so that the side of the padding
    does not change the result.

    Attributes:
        max_tokens: Number of positions that have a weight; ``None`` takes the ``n`` that the module
            is initialised with. Shorter sequences use the first weights, longer ones raise.
        normalize: ``"softmax"`` (weights start at zero, as the plain average) or ``"none"``
            (weights start at ``1 / max_tokens``).

    Its one parameter is ``weights``, shape ``(max_tokens,)``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> pooler = WeightedAveragePool()
        >>> variables = {"params": {"weights": jnp.log(jnp.array([1.0, 3.0]))}}
        >>> pooled = pooler.apply(variables, jnp.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> print([f"{number:.3f}" for number in pooled])
        ['2.500', '3.500']

    Reference:
        "Pool Me Wisely" (Ennadir et al., NeurIPS 2025), section on learnable weighted average.
    """

    max_tokens: int | None = None
    normalize: str = "softmax"

    def _weights_by_position(self, num_tokens: int) -> Float[Array, " m"]:
        size = self.max_tokens
        if size is None:
            stored = self.get_variable("params", "weights")
            size = num_tokens if stored is None else stored.shape[0]
        check_num_tokens("z", num_tokens, size)
        start = 0.0 if self.normalize == "softmax" else 1.0 / size
        return self.param("weights", lambda _: jnp.full(size, start, jnp.float32))

    @nn.compact
    def __call__(self, z, mask=None, *, return_weights: bool = False) -> Any:
        """Pool ``z``.

        Args:
            z: Tokens, shape ``(*batch, n, d)``, ``n`` at most ``max_tokens``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.
            return_weights: Also return the weights ``p``, shape ``(*batch, n)``.

        Returns:
            Pooled vectors, shape ``(*batch, d)``, and the weights if asked for.

        Raises:
            ValueError: for a wrong shape, dtype or mask, more than ``max_tokens`` tokens, or
                non-finite real tokens.
        """
        check_choice("normalize", self.normalize, ("softmax", "none"))
        if self.max_tokens is not None:
            check_count("max_tokens", self.max_tokens)
        z, mask = check_input(z, mask)
        num_tokens = z.shape[-2]
        offsets = jnp.arange(num_tokens)
        if mask is not None:
            first = jnp.argmax(mask, axis=-1)[..., None]
            offsets = jnp.maximum(with_leading_axes(offsets, mask.ndim) - first, 0)
        weights = jnp.broadcast_to(self._weights_by_position(num_tokens)[offsets], z.shape[:-1])
        if self.normalize == "softmax":
            weights = masked_softmax(weights, mask)
        pooled = weighted_average_pool(z, weights, mask)
        return (pooled, weights) if return_weights else pooled
