"""The largest mean of a window of tokens, for long sequences with few tokens that count."""

from typing import final

import jax
import jax.export
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax._checks import check_count
from poolax._numerics import accumulation_dtype, with_leading_axes, zero_masked
from poolax._typing import AnyArray
from poolax.pooling._base import Pooler, check_input
from poolax.pooling._reduce import masked_max


def rolling_pool(
    z: Float[AnyArray, "*batch n d"],
    window: int = 10,
    mask: Bool[AnyArray, "*#batch n"] | None = None,
) -> Float[Array, "*batch d"]:
    """The largest of each entry's means over windows of consecutive real tokens.

    Windows are ``window`` real tokens long and stand at every offset; masked tokens between real ones
    are passed over. A sequence of fewer tokens is one window: its average.

    Args:
        z: Tokens, shape ``(*batch, n, d)``.
        window: Real tokens of a window ``w``; 1 gives max pooling.
        mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

    Returns:
        ``max_t mean(z_t, ..., z_{t+w-1})`` of each entry, shape ``(*batch, d)``, accumulated in at
        least float32; zeros for a sequence without real tokens. Windows that attain it share its
        gradient.

    Raises:
        ValueError: for a ``window`` below one, a wrong shape, dtype or mask, ``n = 0``, or non-finite
            real tokens.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([[0.0], [4.0], [2.0], [1.0]])
        >>> rolling_pool(z, 2), rolling_pool(z, 9)
        (Array([3.], dtype=float32), Array([1.75], dtype=float32))

    Reference:
        McKenzie et al., "Detecting High-Stakes Interactions with Activation Probes" (2025); Theory,
        section 6.13.
    """
    check_count("window", window)
    z, mask = check_input(z, mask)
    dtype, num_tokens = accumulation_dtype(z), z.shape[-2]
    tokens = zero_masked(z, mask).astype(dtype)
    if not jax.export.is_symbolic_dim(num_tokens):
        window = min(window, num_tokens)
    starts = with_leading_axes(jnp.arange(num_tokens), z.ndim - 1)
    real = jnp.sum(jnp.ones(starts.shape, bool) if mask is None else mask, axis=-1, keepdims=True)
    if mask is not None:
        # Real tokens first, in their order.
        order = jnp.argsort(~mask, axis=-1, stable=True)
        tokens = jnp.take_along_axis(tokens, order[..., None], axis=-2)
    # Divided before they are added, means of numbers in range stay in it.
    shares = tokens / jnp.clip(real, 1, window)[..., None].astype(dtype)
    means = _window_sums(shares, window)
    fits = (starts + window <= real) | ((starts == 0) & (real > 0))
    return masked_max(means, jnp.broadcast_to(fits, z.shape[:-1])).astype(z.dtype)


def _window_sums(x, window):
    """Sums of each token and the ``window - 1`` behind it; nothing stands behind the last one.

    Of sums over powers of two, each from two of the one before: neither differences of long sums nor a
    cost that grows with the window.
    """
    num_tokens = x.shape[-2]
    x = jnp.concatenate([x, jnp.zeros((*x.shape[:-2], window - 1, x.shape[-1]), x.dtype)], axis=-2)
    total, offset, power = jnp.zeros_like(x), 0, 1
    while offset < window:
        if window & power:
            total = total + _from(x, offset)
            offset += power
        x, power = x + _from(x, power), 2 * power
    return total[..., :num_tokens, :]


def _from(x, offset):
    """Tokens moved to the front by ``offset``, zeros behind the last one."""
    edges = [(0, 0, 0)] * (x.ndim - 2) + [(-offset, offset, 0), (0, 0, 0)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), edges)


@final
class RollingPool(Pooler):
    """The largest mean of each entry over windows of consecutive tokens; see :func:`rolling_pool`.

    Between average and maximum for sequences of any length: a few tokens that count are not averaged
    away, and one alone does not decide.

    Attributes:
        window: Real tokens of a window; shorter sequences are averaged.

    Example:
        >>> import jax.numpy as jnp
        >>> RollingPool(window=2).apply({}, jnp.array([[0.0], [4.0], [2.0], [1.0]]))
        Array([3.], dtype=float32)

    Reference:
        McKenzie et al., "Detecting High-Stakes Interactions with Activation Probes" (2025), of scores;
        Kramár et al., "Building Production-Ready Probes For Gemini" (2026), with windows of ten.
    """

    window: int = 10

    def __call__(self, z, mask=None):
        """Pool ``z``; see :func:`rolling_pool`."""
        return rolling_pool(z, self.window, mask)
