"""What a local bound of a one-block model says of its parts."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax.records import Bound


def block_bound(
    lipschitz: Float[Array, ""],
    attention: Float[Array, ""],
    largest: Float[Array, ""],
    first: Float[Array, ""],
    second: Float[Array, ""],
    *,
    on_ball: bool = False,
) -> Bound:
    """The bound with its factors, which multiply to it by the factor of the pooler.

    Args:
        lipschitz: The bound, rounded up.
        attention: Norm of attention alone.
        largest: Largest norm of a token's feed-forward part and the norm behind it.
        first: Norm of the first layer norm.
        second: Norm of the second.
        on_ball: Whether it holds on a ball around the input.
    """
    safe = jnp.where(second > 0, second, 1)
    c1, c2, norm_factor = 1 + attention, largest / safe, first * second
    product = norm_factor * c1 * c2
    return Bound(
        lipschitz=lipschitz,
        log_lipschitz=jnp.where(
            lipschitz > 0, jnp.log(jnp.where(lipschitz > 0, lipschitz, 1)), -jnp.inf
        ),
        attention=attention,
        c1=c1,
        c2=c2,
        norm_factor=norm_factor,
        pooling_factor=lipschitz / jnp.where(product > 0, product, 1),
        method="local",
        source="poolax, local block form on a ball" if on_ball else "poolax, local block form",
    )
