"""Fixed averages of sentence encoders: sums over the root of the count, and weights by position."""

from typing import final

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax._checks import check_count
from poolax._numerics import accumulation_dtype, zero_masked
from poolax._typing import AnyArray
from poolax.pooling._base import Pooler, check_input, check_pooled
from poolax.pooling._reduce import average_pool
from poolax.pooling._weighted import weighted_average_pool


@final
class SqrtPool(Pooler):
    """The sum of the real tokens over the root of their number, ``sum_i mask_i z_i / sqrt(n)``.

    Between average and sum: its length does not grow with independent tokens of mean zero.

    Example:
        >>> import jax.numpy as jnp
        >>> SqrtPool().apply({}, jnp.array([[1.0], [2.0], [3.0], [2.0]]))
        Array([4.], dtype=float32)

    Reference:
        Reimers and Gurevych, "Sentence-BERT" (EMNLP 2019), whose library has it as
        ``mean_sqrt_len_tokens``.
    """

    def __call__(self, z, mask=None):
        """Pool ``z``.

        Args:
            z: Tokens, shape ``(*batch, n, d)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

        Returns:
            Pooled vectors, shape ``(*batch, d)``; zeros for a sequence without real tokens.

        Raises:
            ValueError: for a wrong shape, dtype or mask, ``n = 0``, or non-finite real tokens.
        """
        z, mask = check_input(z, mask)
        dtype = accumulation_dtype(z)
        count = jnp.asarray(z.shape[-2], dtype) if mask is None else jnp.sum(mask, -1, dtype=dtype)
        average = average_pool(zero_masked(z, mask).astype(dtype), mask)
        return check_pooled((average * jnp.sqrt(count)[..., None]).astype(z.dtype))


@final
class PositionPool(Pooler):
    """The average of the real tokens with weights that grow with their position.

    ``sum_k (start + k) z_k / sum_k (start + k)`` over the real tokens, the first of which is number 0.
    In a causal model late tokens have seen most.

    Attributes:
        start: Weight of the first real token; what tokens in front of it would have counted.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([[3.0], [6.0], [jnp.nan]])
        >>> print(f"{PositionPool().apply({}, z, jnp.array([True, True, False]))[0]:.3f}")
        5.000

    Reference:
        Muennighoff, "SGPT: GPT Sentence Embeddings for Semantic Search" (2022), section 3.
    """

    start: int = 1

    def __call__(
        self, z: Float[AnyArray, "*batch n d"], mask: Bool[AnyArray, "*#batch n"] | None = None
    ) -> Float[Array, "*batch d"]:
        """Pool ``z``.

        Args:
            z: Tokens, shape ``(*batch, n, d)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

        Returns:
            Pooled vectors, shape ``(*batch, d)``; zeros for a sequence without real tokens.

        Raises:
            ValueError: for a ``start`` below one, a wrong shape, dtype or mask, ``n = 0``, or
                non-finite real tokens.
        """
        check_count("start", self.start)
        z, mask = check_input(z, mask)
        dtype = accumulation_dtype(z)
        if mask is None:
            weights = self.start + jnp.arange(z.shape[-2], dtype=dtype)
        else:
            # Holes are passed over: what a sequence gives does not depend on what stands between.
            weights = jnp.where(mask, self.start - 1 + jnp.cumsum(mask, axis=-1, dtype=dtype), 0)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        weights = weights / jnp.maximum(total, 1)
        return weighted_average_pool(z, weights, mask)
