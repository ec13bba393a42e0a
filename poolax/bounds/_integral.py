"""How far outputs move on a ball, from bounds on smaller ones.

Theory, section 5.6.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from poolax._checks import check_count, check_number
from poolax.bounds._linalg import round_up
from poolax.bounds._overflow import or_infinite


def largest_move(
    lipschitz: Callable[[Float[Array, ""]], Float[Array, ""]],
    epsilon: Float[ArrayLike, ""],
    *,
    steps: int = 16,
) -> Float[Array, ""]:
    r"""How far an output moves at most where its input moves by ``epsilon``, from bounds on balls.

    On the segment to a neighbour at distance ``epsilon`` the point at distance ``r`` lies in the ball
    of radius ``r``, so that the output moves by at most

        ``int_0^epsilon L(r) dr <= (epsilon / m) sum_{j = 1..m} L(epsilon j / m)``,

    which is never more than ``epsilon L(epsilon)`` where ``L`` does not fall.

    Args:
        lipschitz: ``L``, a bound of the Jacobian's norm on the ball of a given radius, such as
            :func:`local_tbm` or :func:`local_attention` with ``epsilon``; it is traced, once.
        epsilon: Radius, in the geometry of ``L``.
        steps: ``m``, smaller balls.

    Returns:
        The upper sum, rounded up.

    Raises:
        ValueError: for a radius that is negative or not finite, or fewer than one step.

    Example:
        >>> print(f"{largest_move(lambda r: 1 + r, 1.0, steps=100):.2f}")  # the integral is 1.5
        1.51

    Reference:
        Theory, section 5.6; this library's own.
    """
    check_number("epsilon", epsilon, at_least=0.0)
    check_count("steps", steps)
    epsilon = jnp.asarray(epsilon, jnp.result_type(float))
    shares = jnp.arange(1, steps + 1, dtype=epsilon.dtype) / steps
    # Every ball is no smaller than the part of the way that it stands for.
    bounds = jax.lax.map(lipschitz, round_up(epsilon * shares))
    return or_infinite(round_up(epsilon / steps * jnp.sum(bounds)))
