"""The largest constant that a search on a domain finds."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax import empirical
from poolax._checks import is_concrete
from poolax.bounds import Domain
from poolax.empirical import SearchResult


def find(
    fn: Callable[..., Any],
    x: Float[Array, "n d"],
    domain: Domain,
    *,
    key: jax.Array,
    num_restarts: int,
    num_steps: int,
    mask: Bool[Array, " n"] | None = None,
    starts: Float[Array, "k n d"] | None = None,
    variables: Any = None,
    geometry: str = "frobenius",
) -> SearchResult:
    """Largest norm of a Jacobian that a search on a domain of bounds finds.

    It is a lower bound of the Lipschitz constant there, so that no bound on this domain is below it.

    Args:
        fn: A function of tokens; with ``variables`` of these and of tokens.
        x: Where the search begins.
        domain: Where it stays; a spread as large as the radius restricts nothing.
        key: Random key.
        num_restarts: Number of starts.
        num_steps: Number of ascent steps of each.
        mask: True at real tokens; ``None`` if all are real.
        starts: Further inputs to start from, such as those at which norms were measured.
        variables: Weights to search over as well; ``None`` for none.
        geometry: Of the norm: ``"frobenius"``, or ``"tokens"`` for the largest norm of a token.

    Returns:
        The largest norm, and where it is.

    Raises:
        ValueError: as :func:`poolax.empirical.maximize_jacobian_norm` raises.

    Example:
        >>> x = jnp.full((2, 2), 0.1)
        >>> found = find(
        ...     jnp.square, x, Domain(1.0, 1.0), key=jax.random.key(0), num_restarts=4, num_steps=40
        ... )
        >>> print(f"{found.value:.2f}")
        2.00
    """
    return empirical.maximize_jacobian_norm(
        fn,
        x,
        project=_projection(domain, mask),
        key=key,
        num_restarts=num_restarts,
        num_steps=num_steps,
        starts=starts,
        variables=variables,
        geometry=geometry,
    )


def _projection(domain, mask):
    radius, spread = domain.radius, domain.spread
    is_ball = is_concrete(radius) and is_concrete(spread) and float(spread) >= float(radius)
    into = empirical.project_to_ball(radius) if is_ball else empirical.project_to_domain(radius, spread)
    if mask is None:
        return into
    # Masked positions follow a real token: the domain does not constrain them.
    return lambda x: into(jnp.where(mask[:, None], x, x[jnp.argmax(mask)]))
