"""Lipschitz bounds of one Transformer block with a pooler on top.

Theory, sections 1.5 and 4.6; tight 8.14 and 8.17.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from poolax._checks import check_choice, check_finite, check_instance
from poolax._numerics import at_highest_precision
from poolax._threads import on_one_thread
from poolax.blocks import TBM
from poolax.bounds._activations import activation_lipschitz
from poolax.bounds._attention import attention as attention_bound
from poolax.bounds._domain import token_range
from poolax.bounds._folded import folded, spread_of_pooled
from poolax.bounds._linalg import spectral_norm
from poolax.bounds._methods import METHODS
from poolax.bounds._pooled_block import pooled_block
from poolax.bounds._pooling import pooler as pooler_bound
from poolax.pooling import Pooler
from poolax.records import BlockBound, Bound, PoolerBound, TokenRange

_Number = Float[ArrayLike, ""]


@on_one_thread
@at_highest_precision
def tbm(
    model: TBM,
    variables: Mapping[str, Any],
    *,
    num_tokens: float | Array | TokenRange,
    radius: _Number | None = None,
    spread: _Number | None = None,
    method: str = "sharp",
    geometry: str = "frobenius",
) -> Bound:
    """Lipschitz bound of a :class:`poolax.blocks.TBM` at given variables.

    The tight bound knows besides that every valid token sees all of them, and folds what follows the
    attention into its output matrix: norms and feed-forward layer together are one known matrix, and
    another one times slopes of the activation, so that norms of products stand for products of norms.
    ``attention`` and ``c2`` of the result are then relative to each other; their product counts.

    A fresh initialisation is a kink of published and sharp bounds, for ``max|scale|`` of equal scales:
    ``grad`` with respect to ``variables`` is finite and shares the slope among them, which is the
    change of the bound neither where one of them grows nor where it shrinks.

    Args:
        model: The model.
        variables: What its ``init`` returned.
        num_tokens: Number of valid tokens, or a :class:`TokenRange` for a padded batch.
        radius: Largest norm of an input token; needed for dot-product attention, plain values and query
            attention pooling.
        spread: Half of the largest distance between two input tokens; ``None`` takes ``radius``.
        method: ``"sharp"``, ``"tight"`` or ``"published"``.
        geometry: Norm of changes of the tokens: ``"frobenius"``, or ``"tokens"`` for the largest norm
            of a token's change, where nothing was published.

    Returns:
        The bound with its factors; see :func:`pooled_block`.

    Raises:
        ValueError: for a pooler, attention kind, activation or option without a bound, for missing
            variables, or for numbers out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from poolax.pooling import AveragePool
        >>> model = TBM(num_heads=2, pooler=AveragePool())
        >>> x = 0.1 * jax.random.normal(jax.random.key(0), (16, 8))
        >>> variables = model.init(jax.random.key(1), x)
        >>> bound = tbm(model, variables, num_tokens=16, radius=1.0)
        >>> measured = jnp.linalg.norm(
        ...     jax.jacrev(lambda x: model.apply(variables, x))(x).reshape(8, -1), ord=2
        ... )
        >>> bool(measured <= bound.lipschitz)
        True

    Reference:
        As :func:`pooled_block`, and Theory, section 8.17.
    """
    bound = block(model, variables, num_tokens=num_tokens, radius=radius, spread=spread, method=method)
    inner = {"params": variables["params"].get("pooler", {})}
    return with_pooler(bound, model.pooler, inner, geometry=geometry)


@on_one_thread
@at_highest_precision
def block(
    model: TBM,
    variables: Mapping[str, Any],
    *,
    num_tokens: float | Array | TokenRange,
    radius: _Number | None = None,
    spread: _Number | None = None,
    method: str = "sharp",
) -> BlockBound:
    r"""What :func:`tbm` knows of a model before its pooler, to compare many poolers on one block.

    Nearly all work of a bound is that of the block: norms of its matrices. :func:`with_pooler` makes
    of it the bound for one pooler after another,

        ``pooling_factor c^2 (1 + L) (1 + F)``

    with ``L`` the attention's bound as that pooler sees it, ``c`` of ``norm_scale`` and ``F`` the
    constant of the feed-forward layer; see :func:`pooled_block`. For ``grad`` at a fresh initialisation
    see :func:`tbm`.

    Args:
        model: The model; its own pooler does not count.
        variables: What its ``init`` returned; those of a pooler are not needed.
        num_tokens: Number of valid tokens, or a :class:`TokenRange` for a padded batch.
        radius: Largest norm of an input token; needed for dot-product attention, plain values and query
            attention pooling.
        spread: Half of the largest distance between two input tokens; ``None`` takes ``radius``.
        method: ``"sharp"``, ``"tight"`` or ``"published"``.

    Returns:
        Bounds of the parts, and the spread of the tokens that are pooled.

    Raises:
        ValueError: for an attention kind, activation or option without a bound, for missing variables,
            or for numbers out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from poolax.pooling import AveragePool
        >>> model = TBM(num_heads=2, pooler=AveragePool())
        >>> variables = model.init(jax.random.key(0), jnp.zeros((16, 8)))
        >>> parts = block(model, variables, num_tokens=16, radius=1.0)
        >>> average, total = (with_pooler(parts, name) for name in ("avg", "sum"))
        >>> bool(average.lipschitz < total.lipschitz)
        True

    Reference:
        As :func:`tbm`.
    """
    check_instance("model", model, TBM, "a TBM")
    check_choice("method", method, METHODS)
    params = variables.get("params", {}) if isinstance(variables, Mapping) else {}
    if not {"attention", "ffn", "norm1", "norm2"} <= set(params):
        raise ValueError(f"variables: expected what TBM.init returned, got {_keys(variables)}")
    slope = activation_lipschitz(model.activation)
    kernel = params["ffn"]["kernel"]
    check_finite("ffn/kernel", kernel)
    scales = [params[norm]["scale"] for norm in ("norm1", "norm2")]
    for scale in scales:
        check_finite("scale", scale)
    num_tokens, tight = token_range(num_tokens), method == "tight"
    bound_attention = functools.partial(
        attention_bound,
        model.attention,
        num_tokens=num_tokens,
        radius=radius,
        spread=spread,
        method=method,
        pattern="full" if tight else "any",
    )
    if tight:
        attention, ffn = folded(bound_attention, params, slope)
    else:
        attention = bound_attention(params["attention"])
        ffn = slope * spectral_norm(jnp.asarray(kernel))
    pooled_spread = None
    # What was published reads no spread.
    if method != "published":
        pooled_spread = spread_of_pooled(model, params, radius, spread, slope, tight)
    return BlockBound(
        attention=attention,
        ffn=ffn,
        norm_scale=jnp.stack([jnp.max(jnp.abs(scale)) for scale in scales]),
        spread=pooled_spread,
        num_tokens=num_tokens,
        dim=kernel.shape[0],
    )


@on_one_thread
@at_highest_precision
def with_pooler(
    block: BlockBound,
    pooler: str | Pooler | PoolerBound,
    variables: Mapping[str, Any] | None = None,
    *,
    geometry: str = "frobenius",
) -> Bound:
    """Lipschitz bound of a block with a pooler on top.

    Args:
        block: What :func:`block` gave.
        pooler: A pooler, its name, or a :class:`PoolerBound` that holds for tokens with the spread of
            ``block.spread``.
        variables: What the pooler's ``init`` returned; ``None`` if it has no parameters.
        geometry: Norm of changes of the tokens; as for :func:`tbm`.

    Returns:
        The bound with its factors; see :func:`pooled_block`. It is of the block's method.

    Raises:
        ValueError: for an unknown pooler, one for which nothing was published if the method is
            ``"published"``, variables that are missing or beside a :class:`PoolerBound`, or a number of
            tokens that the pooler does not take.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from poolax.blocks import TBM
        >>> from poolax.pooling import AveragePool
        >>> model = TBM(num_heads=2, pooler=AveragePool())
        >>> variables = model.init(jax.random.key(0), jnp.zeros((16, 8)))
        >>> bound = with_pooler(block(model, variables, num_tokens=16, radius=1.0), "avg")
        >>> bool(bound.lipschitz == tbm(model, variables, num_tokens=16, radius=1.0).lipschitz)
        True

    Reference:
        As :func:`pooled_block`, and Theory, section 6.
    """
    check_instance("block", block, BlockBound, "what bounds.block gave")
    method, sizes = block.attention.method, {"num_tokens": block.num_tokens, "dim": block.dim}
    if isinstance(pooler, PoolerBound):
        if variables is not None:
            raise ValueError(f"variables: expected None beside a PoolerBound, got {_keys(variables)}")
    elif method != "published":
        pooler = pooler_bound(pooler, variables, **sizes, spread=block.spread, method=method)
    return pooled_block(
        pooler,
        attention=block.attention,
        ffn=block.ffn,
        norm_scale=block.norm_scale,
        method=method,
        geometry=geometry,
        **sizes,
    )


def _keys(variables):
    return f"keys {list(variables)}" if isinstance(variables, Mapping) else repr(variables)
