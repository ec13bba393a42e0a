"""Learnable convex mixtures of poolers."""

from typing import Any, final

import jax
import jax.numpy as jnp
from flax import linen as nn

from poolax._checks import check_instance
from poolax._numerics import accumulation_dtype
from poolax.pooling._base import Pooler, check_input, check_pooled
from poolax.pooling._reduce import AveragePool, LastPool, MaxPool


@final
class HybridPool(Pooler):
    r"""A learnable convex mixture of poolers, ``sum_j alpha_j g_j(z)`` with ``alpha = softmax(a)``.

    The mixture does not depend on the input, so its Lipschitz constant is at most
    ``sum_j alpha_j Lip(g_j)``: the bound stays known, and training can move between a contracting
    and a selective pooler without leaving it.

    Attributes:
        poolers: The poolers that are mixed; at least one.

    Its own parameter is ``mixture``, shape ``(len(poolers),)``, the logits ``a``, which start at
    zero (equal shares). A component's parameters are under ``poolers_0``, ``poolers_1``, …

    Example:
        >>> import jax, jax.numpy as jnp
        >>> pooler = HybridPool((AveragePool(), MaxPool()))
        >>> z = jnp.array([[0.0, 2.0], [4.0, 2.0]])
        >>> pooler.apply(pooler.init(jax.random.key(0), z), z)
        Array([3., 2.], dtype=float32)
    """

    poolers: tuple[Pooler, ...] = (AveragePool(), MaxPool(), LastPool())

    @nn.compact
    def __call__(self, z, mask=None, *, return_weights: bool = False) -> Any:
        """Pool ``z``.

        Args:
            z: Tokens, shape ``(*batch, n, d)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.
            return_weights: Also return the shares ``alpha``, shape ``(len(poolers),)``.

        Returns:
            Pooled vectors, shape ``(*batch, d)``, and the shares if asked for.

        Raises:
            ValueError: if there is no pooler to mix, or as the poolers raise.
        """
        if not self.poolers:
            raise ValueError("poolers: expected at least one pooler, got none")
        for pooler in self.poolers:
            check_instance("poolers", pooler, Pooler, "Pooler instances")
        z, mask = check_input(z, mask)
        logits = self.param("mixture", nn.initializers.zeros, (len(self.poolers),), jnp.float32)
        dtype = accumulation_dtype(z)
        shares = jax.nn.softmax(logits.astype(dtype))
        pooled = [pooler(z, mask) for pooler in self.poolers]
        mixed = sum(share * vector.astype(dtype) for share, vector in zip(shares, pooled, strict=True))
        mixed = check_pooled(jnp.asarray(mixed).astype(z.dtype))
        return (mixed, shares) if return_weights else mixed
