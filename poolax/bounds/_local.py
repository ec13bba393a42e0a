"""Local bounds: of the Jacobian at a given input, from what the attention does there.

Theory, chapter 5 and section 8.11.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from poolax._checks import (
    broadcast_mask,
    check_choice,
    check_finite,
    check_instance,
    check_number,
    check_tokens,
)
from poolax._geometry import GEOMETRIES
from poolax._numerics import accumulation_dtype, at_highest_precision, divisor, zero_masked
from poolax._threads import on_one_thread
from poolax.attention import (
    L2,
    DotProduct,
    Kind,
    PatchRotary,
    Rotary,
    from_name,
)
from poolax.bounds._ball_attention import AttentionBall, changed
from poolax.bounds._ball_domain import attention_on_domain
from poolax.bounds._kernels import read_kernels
from poolax.bounds._linalg import round_up
from poolax.bounds._local_blocks import attention_blocks
from poolax.bounds._local_rows import centred_form, row_form
from poolax.bounds._no_bound import NoBoundError
from poolax.bounds._overflow import check_held, or_infinite
from poolax.bounds._reach import Reach, on_ball, whole_norm
from poolax.bounds._rebuilt import attention_layer, with_biases


@on_one_thread
@at_highest_precision
def local_attention(
    x: Float[ArrayLike, "*batch n d"],
    query: Float[ArrayLike, "d H d_h"],
    key: Float[ArrayLike, "d H_kv d_h"] | None,
    value: Float[ArrayLike, "d H_kv d_h"],
    out: Float[ArrayLike, "H d_h d"],
    *,
    kind: Kind = DotProduct(),
    query_bias: Float[ArrayLike, "H d_h"] | None = None,
    key_bias: Float[ArrayLike, "H_kv d_h"] | None = None,
    value_bias: Float[ArrayLike, "H_kv d_h"] | None = None,
    mask: Bool[ArrayLike, "*#batch n"] | None = None,
    causal: bool = False,
    window: int | None = None,
    rotary: Rotary | PatchRotary | None = None,
    bias: Float[ArrayLike, "*#batch H n n"] | None = None,
    segments: Int[ArrayLike, "*#batch n"] | None = None,
    epsilon: Float[ArrayLike, ""] = 0.0,
    geometry: str = "frobenius",
) -> Float[Array, "*batch"]:
    r"""Bound of the Jacobian's norm of multi-head attention at ``x``, of every kind.

    It holds at ``x`` alone, or on a ball around it. The Jacobian is made of blocks ``J_ik``, output
    token ``i`` against input token ``k``; with ``N_ik >= |J_ik|``,

        ``|J| <= |N|``,

    the spectral norm of an ``n`` by ``n`` matrix, since ``|sum_k J_ik dx_k| <= sum_k N_ik |dx_k|``.
    Blocks off the diagonal are bounded from the attention map and the heads' matrices, those on the
    diagonal are exact. For dot-product attention without rotary positions the smallest of this and
    two other forms counts: with ``a_i = A^T x_i + c`` and ``Cov_i`` the covariance of the tokens
    under ``P_i``, for each head

        ``sqrt(max_k sum_i P_ik (1 + |a_i|^2 |Cov_i|)) + max_i |Cov_i A^T|``,

    and, with ``X_c`` the tokens minus their mean and ``g(p) = p_(1) (1 - p_(1) + p_(2))``,

        ``|P| + |X_c| (|A X_c^T| + |X A + 1 c^T|) max_i g(P_i)``;

    heads combine as for the tight bound.

    With ``epsilon > 0`` it holds at every input whose real tokens are at most ``epsilon`` away from
    ``x``: to the norms of the blocks at ``x`` comes what they can change, from the interval in which
    each logit stays and with it each attention weight, the ball in which each value stays, and the
    lengths that normalised rows keep. In the Frobenius norm it is no larger than the tight bound on the
    domain that holds the ball, if there is one. It does not fall as ``epsilon > 0`` grows.

    Args:
        x: Tokens, shape ``(*batch, n, d)``.
        query: Kernel, shape ``(d, H, d_h)``.
        key: Kernel, shape ``(d, H_kv, d_h)``; ``None`` for L2 attention.
        value: Kernel, shape ``(d, H_kv, d_h)``.
        out: Kernel, shape ``(H, d_h, d)``.
        kind: :class:`poolax.attention.DotProduct`, ``L2`` or ``Cosine``.
        query_bias: Shape ``(H, d_h)``, or ``None``; for L2 attention it cancels.
        key_bias: Shape ``(H_kv, d_h)``, or ``None``.
        value_bias: Shape ``(H_kv, d_h)``, or ``None``; it counts where values are normalised.
        mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.
        causal: Whether a token sees only itself and what stands before it.
        window: Number of keys that a query sees; ``None`` if it sees all.
        rotary: Rotary positions of tokens or patches, or ``None``.
        bias: Added to the logits, broadcastable to ``(*batch, H, n, n)``.
        segments: Tokens see only tokens with the same number, broadcastable to ``(*batch, n)``.
        epsilon: Radius of the ball.
        geometry: ``"frobenius"`` for the Frobenius norm on sequences, ``"tokens"`` for the largest
            norm of a token, in both the input and the output: a change of each token by at most
            ``epsilon``.

    Returns:
        The bound at each sequence, shape ``(*batch,)``; 0 for one without real tokens.

    Raises:
        NoBoundError: where the bound overflows.
        ValueError: for another kind or geometry, a negative ``epsilon``, wrong shapes, dtypes or
            masks, ``n = 0``, or values that are not finite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> kernel = jnp.eye(4).reshape(4, 2, 2)
        >>> x = 0.1 * jax.random.normal(jax.random.key(0), (16, 4))
        >>> print(f"{local_attention(x, kernel, kernel, kernel, kernel.reshape(2, 2, 4)):.1f}")
        1.0

    Reference:
        Theory, sections 5.1 to 5.3 and, on a ball, 5.5. The centred form after Yudin et al. (2025),
        whose printed form does not hold with a query bias; the others are this library's own.
    """
    kind = from_name(kind) if isinstance(kind, str) else kind
    check_instance("kind", kind, Kind, "DotProduct, L2 or Cosine")
    check_choice("geometry", geometry, GEOMETRIES)
    check_number("epsilon", epsilon, at_least=0.0)
    check_tokens("x", x)
    x = jnp.asarray(x)
    mask = broadcast_mask(mask, x.shape[:-1])
    check_finite("x", x, mask)
    params = {
        "query": {"kernel": query, "bias": query_bias},
        "key": {"kernel": key, "bias": key_bias},
        "value": {"kernel": value, "bias": value_bias},
        "out": {"kernel": out},
    }
    if isinstance(kind, L2):
        if key is not None or key_bias is not None:
            raise ValueError("key: expected None for L2 attention, whose keys are its queries")
        del params["key"]
    params = {
        name: {leaf: array for leaf, array in part.items() if array is not None}
        for name, part in params.items()
    }
    layer = attention_layer(kind, params, causal=causal, window=window, rotary=rotary)
    kernels = read_kernels(params, has_key=not isinstance(kind, L2))
    dtype = accumulation_dtype(x, kernels.query)
    x = zero_masked(x, mask).astype(dtype)
    applied: Any = layer.apply(
        {"params": with_biases(params, bare=("out",))},
        x,
        mask,
        bias=bias,
        return_weights=True,
        segments=segments,
    )
    weights = applied[1]
    real = jnp.ones(x.shape[:-1], bool) if mask is None else mask

    tokens, kept = x.reshape(-1, *x.shape[-2:]), real.reshape(-1, x.shape[-2])
    radius = on_ball(epsilon, dtype)
    flat = jnp.broadcast_to(weights, (*x.shape[:-2], *weights.shape[-3:]))
    norms = _norms_at(
        kind,
        rotary,
        geometry,
        radius,
        kernels,
        tokens,
        flat.reshape(-1, *flat.shape[-3:]),
        kept,
        kernels.by_head(value_bias),
    )
    if radius is not None and geometry == "frobenius":
        options = {"rotary": rotary, "has_bias": bias is not None}
        on_domain = attention_on_domain(kind, params, tokens, kept, radius, **options)
        norms = jnp.minimum(norms, on_domain)
    bound = round_up(norms).reshape(x.shape[:-2])
    check_held("x", bound, error=NoBoundError)
    return bound


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _norms_at(kind, rotary, geometry, epsilon, kernels, x, weights, real, value_bias):
    """The smallest form at each of several inputs, or on the balls around them."""
    size = 1
    if isinstance(kind, DotProduct) or kind.plain_values:
        # The output is linear in the values, squares of which may leave the range.
        size = divisor(jax.lax.stop_gradient(jnp.max(jnp.abs(kernels.value))))
        kernels = kernels.replace(value=kernels.value / size)
        value_bias = None if value_bias is None else value_bias / size

    def at(one):
        x, weights, real = one  # (n, d), (H, n, n) and (n,)
        # Frequencies of rotary positions may depend on the number of real tokens.
        turn = None if rotary is None else functools.partial(rotary, lengths=jnp.sum(real))
        parts = {"value_bias": value_bias, "turn": turn}
        blocks = attention_blocks(kind, kernels, x, weights, **parts)
        # What one form cannot hold says nothing about the others.
        norm = or_infinite(whole_norm(geometry, blocks))
        if isinstance(kind, DotProduct) and rotary is None and geometry == "frobenius":
            norm = jnp.minimum(norm, or_infinite(row_form(kind, kernels, x, weights)))
            seen = jnp.sum(weights[0], axis=-1) > 0
            norm = jnp.minimum(norm, or_infinite(centred_form(kind, kernels, x, weights, seen)))
        if epsilon is None:
            return norm
        reach = Reach.of_input(epsilon, real, geometry)
        found = AttentionBall(kind, kernels, x, weights, **parts).on(reach)
        change, largest = changed(blocks, found, real)
        # The whole at the centre, and what all blocks change; or all blocks at their largest, which
        # may be bounded by less than blocks at the centre are.
        moved = or_infinite(norm + whole_norm(geometry, change))
        return jnp.maximum(norm, jnp.minimum(moved, or_infinite(whole_norm(geometry, largest))))

    return size * jax.lax.map(at, (x, weights, real))
