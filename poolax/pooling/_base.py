"""What every pooler is: the abstract class, and the checks that all of them make first."""

import abc
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax._checks import broadcast_mask, check_finite, check_result, check_tokens
from poolax._typing import AnyArray


class Pooler(nn.Module, abc.ABC):
    """Abstract pooler: ``(*batch, n, d)`` tokens to ``(*batch, d)`` vectors.

    Concrete poolers are final: wrap one rather than subclass it. Every pooler

    - reads the tokens where ``mask`` is True, wherever they stand (left, right or both-side
      padding and holes), so that a padded batch gives what the sequences give one by one;
    - lets nothing of a masked position, NaN and inf included, reach its value or its gradient;
    - gives zeros with zero gradient for a sequence without real tokens;
    - accumulates in at least float32 and returns the dtype of its input.

    A pooler of your own gets its bound through :func:`poolax.bounds.register_pooler`.

    Attributes:
        reads_spread: Whether that bound depends on how far tokens are apart, as it does where they are
            weighed by what they are.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> class NormSumPool(Pooler):
        ...     def __call__(self, z, mask=None):
        ...         return jnp.max(jnp.abs(z), axis=-2)
        >>> NormSumPool().apply({}, jnp.array([[1.0, -3.0], [2.0, 1.0]]))
        Array([2., 3.], dtype=float32)
    """

    reads_spread: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(
        self, z: Float[AnyArray, "*batch n d"], mask: Bool[AnyArray, "*#batch n"] | None = None
    ) -> Float[Array, "*batch d"]:
        """Pool ``z`` over its tokens; ``mask`` is True at real tokens, ``None`` if all are."""


def check_input(
    z: Float[AnyArray, "*batch n d"], mask: Bool[AnyArray, "*#batch n"] | None
) -> tuple[Float[Array, "*batch n d"], Bool[Array, "*batch n"] | None]:
    """Check tokens and mask, and give them as JAX arrays, the mask in the shape ``z.shape[:-1]``.

    Raises:
        ValueError: if ``z`` is not floating of shape ``(*batch, n, d)`` with ``n, d >= 1``, if
            ``mask`` is not boolean or does not broadcast, or if a real token is not finite.
    """
    check_tokens("z", z)
    mask = broadcast_mask(mask, z.shape[:-1])
    check_finite("z", z, mask)
    return jnp.asarray(z), mask


def check_pooled(pooled: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    """Refuse finite tokens whose pooled vector overflowed, where that can be seen.

    Raises:
        ValueError: if a number of ``pooled`` is not finite.
    """
    check_result("z", pooled, "pooled vector")
    return pooled
