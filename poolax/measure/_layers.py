"""One attention layer: its norm and its bound at an input, and its bounds on a domain."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from poolax import bounds, empirical
from poolax.attention import Kind, MultiHeadAttention
from poolax.bounds import AttentionBound, Domain, TokenRange
from poolax.measure._methods import by_method, known


@struct.dataclass
class LayerAt:
    """An attention layer at one input.

    Attributes:
        measured: Norm of its Jacobian there.
        local: Bound of it.
        converged: Whether the measurement converged; without, it is a lower estimate.
    """

    measured: Float[Array, ""]
    local: Float[Array, ""]
    converged: Bool[Array, ""]


def attend(
    kind: Kind,
    params: Mapping[str, Any],
    mask: Bool[Array, " n"] | None = None,
    *,
    causal: bool = False,
) -> Callable[[Float[Array, "n d"]], Float[Array, "n d"]]:
    """An attention layer as a function of tokens; what stands at masked positions is no output.

    Args:
        kind: Kind of attention.
        params: Parameters as :class:`poolax.attention.MultiHeadAttention` holds them.
        mask: True at real tokens; ``None`` if all are real.
        causal: Whether a token sees only what stands before it.

    Returns:
        The function.
    """
    _, num_heads, head_dim = params["query"]["kernel"].shape
    layer = MultiHeadAttention(
        num_heads, kind, head_dim=head_dim, causal=causal, use_bias="bias" in params["out"]
    )

    def of_tokens(x):
        out: Any = layer.apply({"params": params}, x, mask)
        return out if mask is None else jnp.where(mask[:, None], out, 0)

    return of_tokens


def layer_at(
    kind: Kind,
    params: Mapping[str, Any],
    x: Float[Array, "n d"],
    mask: Bool[Array, " n"] | None = None,
    *,
    causal: bool = False,
    key: jax.Array,
) -> LayerAt:
    """Norm of the Jacobian of an attention layer at an input, by Lanczos iteration, and its bound.

    Args:
        kind: Kind of attention.
        params: Parameters as :class:`poolax.attention.MultiHeadAttention` holds them.
        x: Tokens, shape ``(n, d)``.
        mask: True at real tokens; ``None`` if all are real.
        causal: Whether a token sees only what stands before it.
        key: Random key of the iteration.

    Returns:
        Both.

    Raises:
        ValueError: as :func:`poolax.bounds.local_attention` raises.

    Example:
        >>> from poolax.attention import L2
        >>> layer, x = MultiHeadAttention(2, L2()), jnp.eye(4)
        >>> params = layer.init(jax.random.key(0), x)["params"]
        >>> at = layer_at(L2(), params, x, key=jax.random.key(1))
        >>> bool(at.measured <= at.local)
        True
    """
    attention = attend(kind, params, mask, causal=causal)
    measured = empirical.power_iteration(attention, x, key=key, method="lanczos")
    kernels = {name: params.get(name, {}).get("kernel") for name in ("query", "key", "value", "out")}
    biases = {f"{name}_bias": params.get(name, {}).get("bias") for name in ("query", "key", "value")}
    local = bounds.local_attention(x, **kernels, **biases, kind=kind, causal=causal, mask=mask)
    return LayerAt(measured.value, local, measured.converged)


def layer_bounds(
    kind: Kind,
    params: Mapping[str, Any],
    num_tokens: int | Array | TokenRange,
    domain: Domain,
    *,
    causal: bool = False,
) -> dict[str, AttentionBound | None]:
    """Bounds of an attention layer on a domain, by all methods.

    Nothing was published for layers with biases: for these, ``"published_without_biases"`` is of the
    same layer without them.

    Args:
        kind: Kind of attention.
        params: Parameters as :class:`poolax.attention.MultiHeadAttention` holds them.
        num_tokens: Number of tokens, or a :class:`TokenRange`.
        domain: Where the bounds hold.
        causal: Whether a token sees only what stands before it.

    Returns:
        Bounds by method; ``None`` where nothing was published.

    Raises:
        ValueError: as :func:`poolax.bounds.attention` raises for sharp bounds.
    """
    pattern = "sequence" if causal else "full"

    def bound(method, of):
        return bounds.attention(
            kind,
            of,
            num_tokens=num_tokens,
            radius=domain.radius,
            spread=domain.spread,
            method=method,
            pattern=pattern,
        )

    found = by_method(lambda method: bound(method, params))
    unbiased = {name: {"kernel": part["kernel"]} for name, part in params.items()}
    return found | {"published_without_biases": known(bound, "published", unbiased)}
