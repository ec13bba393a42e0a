"""What is raised where no bound is known."""

from typing import Any


class NoBoundError(ValueError):
    """No bound is known, or none was published, for what was asked; the arguments are otherwise fine.

    A pooler without a rule, an activation of an unknown kind, biases or rotary positions with
    ``method="published"``: code that sets several methods side by side catches this and leaves a gap.

    Example:
        >>> from poolax import bounds, pooling
        >>> block = {"attention": 1.0, "ffn": 1.0, "dim": 4, "num_tokens": 2}
        >>> try:
        ...     bounds.pooled_block(pooling.LatentAttentionPool(), **block, method="published")
        ... except bounds.NoBoundError:
        ...     print("nothing was published")
        nothing was published
    """


def check_plain_logits(
    query_key_eps: float | None, soft_cap: float | None, query_growth: Any, num_tokens: int
) -> None:
    """Refuse attention whose logits are more than scaled products of queries and keys."""
    for name, value, what in (
        ("query_key_eps", query_key_eps, "norms of queries and keys"),
        ("soft_cap", soft_cap, "capped logits"),
    ):
        if value is not None:
            raise NoBoundError(f"{name}: expected None, for no bound is known of {what}, got {value}")
    if query_growth is not None and num_tokens > query_growth.num_tokens:
        raise NoBoundError(
            f"query_growth: expected at most {query_growth.num_tokens} tokens, for no bound is known "
            f"of queries that grow, got n = {num_tokens}"
        )


def check_no_inner_norm(eps: float | None) -> None:
    """Refuse layers with a norm before their last linear map, which ledgers alone bound."""
    if eps is not None:
        raise NoBoundError(
            "inner_norm_eps: expected None, for only bounds.ledger has a bound of layers that are "
            f"normalised inside, got {eps}"
        )
