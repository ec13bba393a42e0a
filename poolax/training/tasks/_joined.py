"""What a linear layer reads of the pooled vectors of two sequences."""

from typing import Any

import jax.numpy as jnp
import numpy as np


def joined_pair(vectors: Any) -> Any:
    r"""Both vectors, their absolute difference and their product, entry by entry.

    ``(u, v, |u - v|, u v)``: a linear layer on it can weigh what two sequences share and where they
    differ, which one on ``(u, v)`` alone cannot.

    Args:
        vectors: Vectors ``u`` and ``v``, shape ``(*batch, 2, d)``, of NumPy or JAX.

    Returns:
        Shape ``(*batch, 4 d)``.

    Example:
        >>> joined_pair(np.array([[1.0, 2.0], [3.0, -2.0]])).tolist()
        [1.0, 2.0, 3.0, -2.0, 2.0, 4.0, 3.0, -4.0]

    Reference:
        Conneau et al., "Supervised Learning of Universal Sentence Representations from Natural Language
        Inference Data" (EMNLP 2017).
    """
    xp = np if isinstance(vectors, np.ndarray) else jnp
    if vectors.shape[-2] != 2:
        raise ValueError(f"vectors: expected shape (*batch, 2, d), got {vectors.shape}")
    left, right = vectors[..., 0, :], vectors[..., 1, :]
    return xp.concatenate([left, right, xp.abs(left - right), left * right], axis=-1)
