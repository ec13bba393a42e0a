"""Domains that bounds hold on, and the numbers of tokens they hold for."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from poolax._checks import (
    broadcast_mask,
    check_count,
    check_finite,
    check_number,
    check_tokens,
    is_concrete,
)
from poolax._numerics import accumulation_dtype, safe_norm, zero_masked
from poolax._typing import AnyArray, Real
from poolax.bounds._linalg import round_up
from poolax.bounds._overflow import check_held
from poolax.records import Domain, TokenRange


def cube(high: Real, dim: int) -> Domain:
    """The domain of tokens in the cube ``[0, high]^dim``.

    Radius ``high sqrt(dim)`` and spread ``high sqrt(dim) / 2``. "Pool Me Wisely" states its theorem
    on this cube, while its proof uses ``|x_i| <= high``, which the cube does not give; so the
    radius is an explicit argument of every bound here.

    Args:
        high: Side of the cube, at least 0.
        dim: Width ``d``.

    Returns:
        The domain, never smaller than the cube by rounding.

    Raises:
        ValueError: if ``high`` is negative or not finite, if the radius overflows, or ``dim`` is below
            one.

    Example:
        >>> cube(1.0, 4)
        Domain(radius=2.0, spread=1.0)

    Reference:
        Theory, section 1.2; the cube is that of "Pool Me Wisely" (Ennadir et al., NeurIPS 2025).
    """
    check_number("high", high, at_least=0.0)
    check_count("dim", dim)
    if isinstance(high, (int, float)):
        radius = float(high) * math.sqrt(dim)
    else:
        # In at least single precision and upwards: rounded down it would not hold the corners.
        radius = round_up(jnp.asarray(high, accumulation_dtype(high)) * math.sqrt(dim))
    check_held("high", radius, "the radius")
    return Domain(radius=radius, spread=radius / 2)


def domain_of(
    tokens: Float[AnyArray, "*batch n d"], mask: Bool[AnyArray, "*#batch n"] | None = None
) -> Domain:
    """The smallest domain that holds the given tokens.

    Radius ``max_i |x_i|`` and spread ``max_{i, j} |x_i - x_j| / 2``, ``i`` and ``j`` real tokens of one
    sequence.

    Args:
        tokens: Shape ``(*batch, n, d)``.
        mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

    Returns:
        The largest token norm, and half of the largest distance between two tokens of one sequence,
        each rounded up by a few units in the last place.

    Raises:
        ValueError: for a wrong shape, dtype or mask, ``n = 0``, real tokens that are not finite, or
            tokens whose norms overflow.

    Example:
        >>> import jax.numpy as jnp
        >>> domain = domain_of(jnp.array([[3.0, 4.0], [3.0, 0.0]]))
        >>> print(f"{domain.radius:.3f} {domain.spread:.3f}")
        5.000 2.000

    Reference:
        Theory, section 1.2.
    """
    check_tokens("tokens", tokens)
    mask = broadcast_mask(mask, tokens.shape[:-1])
    check_finite("tokens", tokens, mask)
    dtype = accumulation_dtype(tokens)
    tokens = zero_masked(jnp.asarray(tokens), mask).astype(dtype)
    radius = jnp.max(safe_norm(tokens, axis=-1), initial=0.0)
    real = jnp.ones(tokens.shape[:-1], bool) if mask is None else mask

    # One token against all others at a time: differences of squares would cancel and come out low.
    def farthest(index):
        distance = safe_norm(tokens - tokens[..., index, None, :], axis=-1)
        return jnp.max(jnp.where(real & real[..., index, None], distance, 0), initial=0.0)

    spread = jnp.max(jax.lax.map(farthest, jnp.arange(tokens.shape[-2]))) / 2
    domain = Domain(radius=round_up(radius), spread=round_up(spread))
    check_held("tokens", domain.radius, "their norms")
    check_held("tokens", domain.spread, "their distances")
    return domain


def token_range(num_tokens: float | Array | TokenRange) -> TokenRange:
    """Check a number or range of valid tokens, and give it as a range."""
    if isinstance(num_tokens, TokenRange):
        low, high = num_tokens.low, num_tokens.high
        check_number("num_tokens.low", low, at_least=1)
        check_number("num_tokens.high", high, at_least=1)
        if is_concrete(low, high) and np.asarray(low) > np.asarray(high):
            raise ValueError(f"num_tokens: expected low <= high, got {low} > {high}")
    else:
        if isinstance(num_tokens, (tuple, list, range)):
            raise ValueError(
                f"num_tokens: expected a number or a bounds.TokenRange(low, high), got {num_tokens!r}"
            )
        low = high = num_tokens
        check_number("num_tokens", num_tokens, at_least=1)
    return TokenRange(low, high)


def check_domain(radius, spread, *, needed: bool) -> None:
    """Check a domain's radius and spread, which not every kind of attention needs."""
    if radius is None and needed:
        raise ValueError("radius: expected the largest token norm, got None")
    for name, value in (("radius", radius), ("spread", spread)):
        if value is not None:
            check_number(name, value, at_least=0.0)
