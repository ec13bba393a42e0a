"""Bounds of one-block models, of poolers on one block, and of heads, by all methods."""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from poolax import bounds
from poolax.blocks import TBM
from poolax.bounds import Domain, TokenRange
from poolax.measure._constants import Constant
from poolax.measure._methods import by_method
from poolax.measure._precision import without_overflow
from poolax.pooling import Pooler

_Constants = dict[str, Constant | None]


def block_bounds(
    model: TBM,
    variables: Mapping[str, Any],
    num_tokens: int | TokenRange,
    domain: Domain,
    *,
    geometry: str = "frobenius",
) -> _Constants:
    """Bounds of a one-block model by all methods.

    Args:
        model: The model.
        variables: What its ``init`` returned.
        num_tokens: Number of tokens, or a :class:`TokenRange`.
        domain: Where the bounds hold.
        geometry: Norm of changes of the tokens: ``"frobenius"``, or ``"tokens"`` for the largest norm
            of a token's change.

    Returns:
        Constants by method; ``None`` where nothing was published.

    Raises:
        ValueError: as :func:`poolax.bounds.tbm` raises for sharp bounds.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from poolax.pooling import AveragePool
        >>> model = TBM(2, AveragePool())
        >>> variables = model.init(jax.random.key(0), jnp.ones((4, 8)))
        >>> found = block_bounds(model, variables, 4, Domain(1.0, 1.0))
        >>> found["tight"].number <= found["sharp"].number <= found["published"].number
        True
    """
    pooler = model.pooler
    with_variables = (pooler, {"params": variables["params"].get("pooler", {})})
    found = pooler_bounds(model, variables, [with_variables], num_tokens, domain, geometry=geometry)
    return next(found)


def pooler_bounds(
    model: TBM,
    variables: Mapping[str, Any],
    poolers: Iterable[tuple[Pooler, Mapping[str, Any]]],
    num_tokens: int | TokenRange,
    domain: Domain,
    *,
    geometry: str = "frobenius",
) -> Iterator[_Constants]:
    """Bounds of one block with one pooler after another on top, the block bounded once for all.

    Args:
        model: A model of the block; its own pooler does not count.
        variables: What its ``init`` returned.
        poolers: Poolers, and what their ``init`` returned.
        num_tokens: Number of tokens, or a :class:`TokenRange`.
        domain: Where the bounds hold.
        geometry: As for :func:`block_bounds`.

    Yields:
        :func:`block_bounds` for each pooler.

    Raises:
        ValueError: as :func:`poolax.bounds.tbm` raises for sharp bounds.
    """
    sizes = {"num_tokens": num_tokens, "radius": domain.radius, "spread": domain.spread}

    def block(method):
        return without_overflow(
            lambda variables: bounds.block(model, variables, **sizes, method=method), variables
        )

    blocks = by_method(block)

    def pooled(method, pooler, parameters):
        block = blocks[method]
        if block is None:
            return None
        with_pooler = functools.partial(bounds.with_pooler, geometry=geometry)
        if method == "published":
            bound = without_overflow(lambda block: with_pooler(block, pooler), block)
        else:
            reads = without_overflow(
                lambda block, parameters: _reads(block, pooler, parameters), block, parameters
            )
            bound = without_overflow(with_pooler, block, reads)
        return Constant(float(bound.log_lipschitz), float(bound.lipschitz))

    for pooler, parameters in poolers:
        yield by_method(functools.partial(pooled, pooler=pooler, parameters=parameters))


def _reads(block, pooler, parameters):
    sizes = {"num_tokens": block.num_tokens, "dim": block.dim, "spread": block.spread}
    return bounds.pooler(pooler, parameters, **sizes, method=block.attention.method)


def head_bounds(
    pooler: Pooler,
    params: Mapping[str, Any],
    num_tokens: int | TokenRange,
    domain: Domain,
    *,
    geometry: str = "frobenius",
) -> _Constants:
    """Bounds from token states to the outputs of a pooler with a linear layer behind it.

    Args:
        pooler: The pooler.
        params: Parameters of the head: ``"output"``, and ``"pooler"`` where it has any.
        num_tokens: Number of tokens, or a :class:`TokenRange`.
        domain: Of the token states.
        geometry: As for :func:`block_bounds`.

    Returns:
        Constants by method; nothing is published of heads.

    Raises:
        ValueError: as :func:`poolax.bounds.pooler` raises.
    """

    def lipschitz(params, method):
        kernel = params["output"]["kernel"]
        sizes = {"num_tokens": num_tokens, "dim": kernel.shape[0], "spread": domain.spread}
        variables = {"params": params.get("pooler", {})}
        reads = bounds.pooler(pooler, variables, **sizes, method=method)
        return bounds.spectral_norm(kernel) * (reads.l2 if geometry == "frobenius" else reads.l1)

    def bound(method):
        if method == "published":
            return None
        found = without_overflow(functools.partial(lipschitz, method=method), params)
        return Constant(float(np.log(found)) if found > 0 else -math.inf, float(found))

    return by_method(bound)
