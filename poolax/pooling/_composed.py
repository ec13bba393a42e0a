"""Poolers around poolers: side by side, behind a layer or a norm, of unit length, without a start."""

import dataclasses
from typing import Any, final

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax._activations import activation_from_name
from poolax._checks import check_count, check_flag, check_instance, check_number
from poolax._norms import LayerNorm
from poolax._numerics import accumulation_dtype, safe_norm
from poolax._typing import AnyArray
from poolax.pooling._base import Pooler, check_input, check_pooled
from poolax.pooling._counted import PositionPool
from poolax.pooling._hybrid import HybridPool
from poolax.pooling._mixed import LayerMixPool
from poolax.pooling._reduce import AveragePool, MaxPool


def parts_of(pooler: nn.Module) -> tuple[Pooler, ...]:
    """The poolers that a pooler of this package is made of; none for one that pools by itself.

    Example:
        >>> parts_of(UnitPool(AveragePool())), parts_of(AveragePool())
        ((AveragePool(),), ())
    """
    if isinstance(pooler, (HybridPool, ConcatPool)):
        return pooler.poolers
    if isinstance(pooler, (ProjectedPool, NormPool, UnitPool, SkipPool, LayerMixPool)):
        return (pooler.pooler,)
    return ()


def behind(pooler: Pooler, num_tokens: int) -> Pooler:
    """A pooler of the real tokens behind the first ones, whose weights go on counting from these.

    Args:
        pooler: What pools the others.
        num_tokens: Real tokens in front that it does not see, such as those of a prompt.

    Returns:
        The pooler; the parameters of ``pooler`` are under ``pooler``.

    Example:
        >>> behind(PositionPool(), 3).pooler
        PositionPool(
            # attributes
            start = 4
        )
    """
    return SkipPool(_counting_from(pooler, num_tokens), num_tokens)


def _counting_from(pooler, num_tokens):
    if isinstance(pooler, PositionPool):
        return PositionPool(pooler.start + num_tokens)
    if isinstance(pooler, (HybridPool, ConcatPool)):
        parts = tuple(_counting_from(part, num_tokens) for part in pooler.poolers)
        return dataclasses.replace(pooler, poolers=parts)
    if isinstance(pooler, (ProjectedPool, NormPool, UnitPool, LayerMixPool)):
        return dataclasses.replace(pooler, pooler=_counting_from(pooler.pooler, num_tokens))
    return pooler


@final
class ConcatPool(Pooler):
    """The vectors of several poolers side by side, in their order: ``len(poolers) d`` numbers.

    Attributes:
        poolers: The poolers; at least one.

    A component's parameters are under ``poolers_0``, ``poolers_1``, …

    Example:
        >>> import jax.numpy as jnp
        >>> ConcatPool((AveragePool(), MaxPool())).apply({}, jnp.array([[0.0, 2.0], [4.0, 2.0]]))
        Array([2., 2., 4., 2.], dtype=float32)
    """

    poolers: tuple[Pooler, ...] = (AveragePool(), MaxPool())

    def __call__(
        self, z: Float[AnyArray, "*batch n d"], mask: Bool[AnyArray, "*#batch n"] | None = None
    ) -> Float[Array, "*batch k"]:
        """Pool ``z``.

        Args:
            z: Tokens, shape ``(*batch, n, d)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

        Returns:
            Pooled vectors, shape ``(*batch, len(poolers) d)`` where each pooler gives ``d`` numbers.

        Raises:
            ValueError: if there is no pooler, or as the poolers raise.
        """
        if not self.poolers:
            raise ValueError("poolers: expected at least one pooler, got none")
        for pooler in self.poolers:
            check_instance("poolers", pooler, Pooler, "Pooler instances")
        z, mask = check_input(z, mask)
        return jnp.concatenate([pooler(z, mask) for pooler in self.poolers], axis=-1)


@final
class ProjectedPool(Pooler):
    """A linear layer and an activation behind a pooler, ``act(g(z) W + b)``.

    Attributes:
        pooler: What pools the tokens.
        features: Width of the result.
        activation: Name of the activation, such as ``"tanh"``; ``None`` for none.
        use_bias: Whether there is a bias ``b``.

    Parameters: ``dense`` with kernel and bias; those of the pooler under ``pooler``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> pooler = ProjectedPool(AveragePool(), features=3, activation="tanh")
        >>> z = jnp.ones((2, 5, 4))
        >>> pooler.apply(pooler.init(jax.random.key(0), z), z).shape
        (2, 3)
    """

    pooler: Pooler
    features: int
    activation: str | None = None
    use_bias: bool = True

    @nn.compact
    def __call__(self, z, mask=None) -> Any:
        """Pool ``z``.

        Args:
            z: Tokens, shape ``(*batch, n, d)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

        Returns:
            Vectors, shape ``(*batch, features)``; of a sequence without real tokens what zeros give.

        Raises:
            ValueError: for an unknown activation, ``features`` below one, or as the pooler raises.
        """
        check_instance("pooler", self.pooler, Pooler, "a Pooler")
        check_count("features", self.features)
        check_flag("use_bias", self.use_bias)
        pooled = self.pooler(z, mask)
        projected = nn.Dense(
            self.features, use_bias=self.use_bias, name="dense", dtype=accumulation_dtype(pooled)
        )(pooled)
        if self.activation is not None:
            projected = activation_from_name(self.activation)(projected)
        return check_pooled(projected.astype(pooled.dtype))


@final
class NormPool(Pooler):
    """A LayerNorm behind a pooler, as Vision Transformers have it that were trained with a mean.

    Attributes:
        pooler: What pools the tokens.
        eps: What is added to the variance.

    Parameters: ``norm`` with scale and bias; those of the pooler under ``pooler``. The variance is
    within a vector: near one whose entries are equal it is as steep as ``max|scale| / sqrt(eps)``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> pooler, z = NormPool(AveragePool()), jnp.array([[1.0, 4.0], [3.0, 4.0]])
        >>> print(pooler.apply(pooler.init(jax.random.key(0), z), z).round(4))
        [-1.  1.]
    """

    pooler: Pooler
    eps: float = 1e-6

    @nn.compact
    def __call__(self, z, mask=None) -> Any:
        """Pool ``z``.

        Args:
            z: Tokens, shape ``(*batch, n, d)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

        Returns:
            Vectors, shape ``(*batch, d)``; of a sequence without real tokens what zeros give, the bias.

        Raises:
            ValueError: unless ``eps`` is positive, or as the pooler raises.
        """
        check_instance("pooler", self.pooler, Pooler, "a Pooler")
        check_number("eps", self.eps, above=0.0)
        pooled = self.pooler(z, mask)
        norm = LayerNorm(
            epsilon=self.eps,
            use_fast_variance=False,
            dtype=accumulation_dtype(pooled),
            name="norm",
        )
        return check_pooled(norm(pooled).astype(pooled.dtype))


@final
class UnitPool(Pooler):
    """A pooler's vectors, each divided by its length: points of a sphere, compared by their product.

    Attributes:
        pooler: What pools the tokens.

    The pooler's parameters are under ``pooler``. Near a vector of length zero the direction is
    arbitrarily steep, so that no Lipschitz constant holds everywhere.

    Example:
        >>> import jax.numpy as jnp
        >>> UnitPool(AveragePool()).apply({}, jnp.array([[3.0, 4.0], [3.0, 4.0]]))
        Array([0.6, 0.8], dtype=float32)
    """

    pooler: Pooler

    def __call__(
        self, z: Float[AnyArray, "*batch n d"], mask: Bool[AnyArray, "*#batch n"] | None = None
    ) -> Float[Array, "*batch d"]:
        """Pool ``z``.

        Args:
            z: Tokens, shape ``(*batch, n, d)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

        Returns:
            Vectors of length one, or zeros where the pooler gives zeros.

        Raises:
            ValueError: as the pooler raises.
        """
        check_instance("pooler", self.pooler, Pooler, "a Pooler")
        pooled = self.pooler(z, mask)
        wide = pooled.astype(accumulation_dtype(pooled))
        length = safe_norm(wide, axis=-1)[..., None]
        return (wide / jnp.where(length > 0, length, 1)).astype(pooled.dtype)


@final
class SkipPool(Pooler):
    """A pooler of the real tokens behind the first ones, such as those of a prompt or a CLS token.

    Attributes:
        pooler: What pools the others.
        num_tokens: Real tokens in front that it does not see.

    The pooler's parameters are under ``pooler``.

    Example:
        >>> import jax.numpy as jnp
        >>> SkipPool(AveragePool(), 1).apply({}, jnp.array([[9.0], [2.0], [4.0]]))
        Array([3.], dtype=float32)
    """

    pooler: Pooler
    num_tokens: int

    def __call__(
        self, z: Float[AnyArray, "*batch n d"], mask: Bool[AnyArray, "*#batch n"] | None = None
    ) -> Float[Array, "*batch d"]:
        """Pool ``z``.

        Args:
            z: Tokens, shape ``(*batch, n, d)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

        Returns:
            Pooled vectors; as of a sequence without tokens where no more than ``num_tokens`` are real.

        Raises:
            ValueError: for a negative ``num_tokens``, or as the pooler raises.
        """
        check_instance("pooler", self.pooler, Pooler, "a Pooler")
        check_count("num_tokens", self.num_tokens, at_least=0)
        z, mask = check_input(z, mask)
        real = jnp.ones(z.shape[:-1], bool) if mask is None else mask
        return self.pooler(z, real & (jnp.cumsum(real, axis=-1) > self.num_tokens))
