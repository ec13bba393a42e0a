"""What depends on the positions of tokens themselves, not on differences of them alone."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from poolax import codec
from poolax._checks import check_count, check_number


@codec.register("query_growth", "query_growth")
@dataclasses.dataclass(frozen=True)
class QueryGrowth:
    """Queries far from the first token grow: times ``1 + rate log(1 + floor(position / num_tokens))``.

    Positions count from the first real token.

    Attributes:
        rate: How fast they grow, positive.
        num_tokens: So many tokens at the start do not grow.

    Example:
        >>> print(QueryGrowth(rate=1.0, num_tokens=3)(jnp.arange(5)))
        [1.        1.        1.        1.6931472 1.6931472]

    Reference:
        Mistral AI, "Ministral 3" (2025), after Meta AI, "Llama 4" (2025).
    """

    rate: float
    num_tokens: int

    def __post_init__(self):
        """Refuse numbers that are not positive."""
        check_number("rate", self.rate, above=0.0)
        check_count("num_tokens", self.num_tokens)

    def __call__(self, positions: Int[Array, "..."] | Float[Array, "..."]) -> Float[Array, "..."]:
        """What queries at some positions are multiplied with; those before the first stay."""
        turns = jnp.floor_divide(jnp.maximum(positions, 0), self.num_tokens)
        return 1 + self.rate * jnp.log1p(jnp.asarray(turns, jnp.result_type(float)))


def first_real(mask: Bool[Array, "*batch n"]) -> Int[Array, "*batch"]:
    """Index of the first real token, 0 where there is none."""
    return jnp.argmax(mask, axis=-1)


def masked_before_last(mask: Bool[Array, "*batch n"]) -> Int[Array, "*batch"]:
    """How many masked tokens stand before the last real one."""
    behind = jnp.argmax(mask[..., ::-1], axis=-1)
    return mask.shape[-1] - behind - jnp.sum(mask, axis=-1)
