"""Lipschitz bounds of dot-product, L2 and scaled cosine attention."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, ArrayLike, Float

from poolax._checks import check_choice
from poolax._numerics import at_highest_precision
from poolax._threads import on_one_thread
from poolax.attention import L2, Cosine, DotProduct, Kind, MultiHeadAttention, PatchRotary, Rotary
from poolax.bounds._attention_kernels import attention_of_kernels
from poolax.bounds._kernels import read_normalised_kernels
from poolax.bounds._methods import METHODS
from poolax.bounds._modules import Layer, feature_scale, read_layer
from poolax.bounds._no_bound import NoBoundError
from poolax.bounds._overflow import or_infinite
from poolax.records import AttentionBound, TokenRange

_Number = Float[ArrayLike, ""]
_NumTokens = float | Array | TokenRange


def dot_product_attention(
    query: Float[ArrayLike, "d H d_h"],
    key: Float[ArrayLike, "d H_kv d_h"],
    value: Float[ArrayLike, "d H_kv d_h"],
    out: Float[ArrayLike, "H d_h d"],
    *,
    num_tokens: _NumTokens,
    radius: _Number,
    spread: _Number | None = None,
    query_bias: Float[ArrayLike, "H d_h"] | None = None,
    key_bias: Float[ArrayLike, "H_kv d_h"] | None = None,
    rotary: bool | Rotary | PatchRotary = False,
    method: str = "sharp",
    pattern: str = "any",
    per_token: bool = False,
) -> Float[Array, ""]:
    r"""Lipschitz bound of multi-head dot-product attention on a domain.

    Sharp, with ``A_h = W_Q^h W_K^{hT} / sqrt(d_h)``, ``c_h = W_K^h b_Q^h / sqrt(d_h)``, radius R and
    spread rho:

        ``L_h = sqrt(n) s_h + |A_h| rho^2``,  ``s_h = sqrt(1 + (|A_h| R + |c_h|)^2 rho^2)``

    for the whole sequence, without ``sqrt(n)`` for one token; heads combine to ``min(|W_O|
    sqrt(sum_h (|W_V^h| L_h)^2), sum_h |W_V^h W_O^h| L_h)``. With one token it is ``L_h = 1``. Key
    biases, value and output biases, any mask and anything added to the logits that does not depend
    on the input leave it unchanged.

    Proof sketch. With ``a_i = A^T x_i + c`` and ``P`` the attention,
    ``dh_i = sum_k P_ik [dx_k + (x_k - m_i)(a_i . dx_k)] + Cov_i A^T dx_i``, ``m_i`` and ``Cov_i`` mean
    and covariance of the tokens under ``P_i``. For a unit ``u`` and ``t_k = u . (x_k - m_i)`` the
    bracket is ``sum_k P_ik (u + t_k a_i) . dx_k``. Cauchy-Schwarz, and ``sum_k P_ik t_k = 0``, which
    kills the cross term, bound it by ``sqrt(sum_k P_ik |dx_k|^2) sqrt(1 + |a_i|^2 u^T Cov_i u)``.
    Sum over ``i``; column sums of ``P`` are at most ``n``, and ``|Cov_i| <= rho^2``.

    With rotary positions ``A_h`` depends on ``i - k``; with biases ``b_Q`` and ``b_K``, sharp is then

        ``s_h = 1 + (|W_Q| R + |b_Q|) |W_K| rho / sqrt(d_h)``

    and ``(|W_K| R + |b_K|) |W_Q| rho / sqrt(d_h)`` in place of ``|A_h| rho^2``: rotations keep norms,
    and the covariance of tokens with turned keys is at most ``rho`` times the longest key.

    Tight: the rows' attention weights limit ``s_h`` where it counts against all tokens, heads combine
    by the norms of their matrices one below the other, both of what they write and of what they read of
    a token, and where every token is seen by every query a bounded range of logits keeps attention from
    being peaked. The part ``sum_h A_h Cov_h F_h``, ``F_h = W_V^h W_O^h``, of the query's own token has
    covariances that are ``rho^2 / 2`` times the identity and what has at most that norm: with one head
    it is at most ``rho^2 / 2 (|A| |F| + |A F|)``. Proofs in the theory.

    Published: ``sum_h |W_V^h W_O^h| sqrt(3) sqrt(|A_h|^2 R^4 (4 n + 1) + n)``.

    Args:
        query: Kernel, shape ``(d, H, d_h)``.
        key: Kernel, shape ``(d, H_kv, d_h)``; ``H_kv`` divides ``H``.
        value: Kernel, shape ``(d, H_kv, d_h)``.
        out: Kernel, shape ``(H, d_h, d)``.
        num_tokens: Number of valid tokens, or a :class:`TokenRange`; the window if there is one.
        radius: Largest token norm R.
        spread: Half of the largest distance between two tokens; ``None`` takes ``radius``.
        query_bias: Shape ``(H, d_h)``, or ``None``.
        key_bias: Shape ``(H_kv, d_h)``, or ``None``.
        rotary: The rotary positions, whose scale of the features counts; ``True`` if it is one.
        method: ``"sharp"``, ``"tight"``, or ``"published"`` for the constant of the literature.
        pattern: Which tokens see each other; as for :func:`attention`, for the tight bound alone.
        per_token: Bound one output token instead of the whole sequence.

    Returns:
        The bound, a scalar.

    Raises:
        ValueError: for wrong shapes, numbers out of range, or a combination for which nothing was
            published: biases that are not known to be zero, rotary positions or ``per_token`` with
            ``"published"``.

    Example:
        >>> import jax.numpy as jnp
        >>> kernel = jnp.eye(4).reshape(4, 2, 2)
        >>> bound = dot_product_attention(
        ...     kernel, kernel, kernel, kernel.reshape(2, 2, 4), num_tokens=16, radius=1.0
        ... )
        >>> print(f"{bound:.3f}")
        7.928

    Reference:
        Published: Castin, Ablin and Peyré, "How Smooth Is Attention?" (ICML 2024), Theorem 3.3, per
        head; heads added. Sharp and tight: this library's own, at least 1.62 times below it; Theory,
        sections 4.1 to 4.3, 8.1, 8.3, 8.7, 8.15 and 8.18.
    """
    kernels = {"query": query, "key": key, "value": value, "out": out}
    kernels |= {"query_bias": query_bias, "key_bias": key_bias}
    bound = attention(
        DotProduct(),
        kernels,
        num_tokens=num_tokens,
        radius=radius,
        spread=spread,
        rotary=rotary,
        method=method,
        pattern=pattern,
    )
    return _sequence_or_token(bound, per_token)


def l2_attention(
    query: Float[ArrayLike, "d H d_h"],
    value: Float[ArrayLike, "d H d_h"],
    out: Float[ArrayLike, "H d_h d"],
    *,
    num_tokens: _NumTokens,
    plain_values: bool = False,
    radius: _Number | None = None,
    spread: _Number | None = None,
    method: str = "sharp",
    pattern: str = "any",
    per_token: bool = False,
) -> Float[Array, ""]:
    r"""Lipschitz bound of multi-head L2 attention: on all of space, or on a domain for plain values.

    Sharp, with ``w = W_0((n - 1) / e)``, W_0 the Lambert W function:

        ``L_h = |W_Q^h|^2 / sqrt(d_h) (sqrt(n) (1 + 2 w) + 2 w)``

    for the whole sequence, ``|W_Q^h|^2 / sqrt(d_h) (1 + 4 w)`` for one token; heads combine to
    ``|W_O| sqrt(sum_h (|W_V^h| L_h)^2)``. Every query has to see itself: causal and padding masks
    are covered, a mask that hides a token from itself or an additive logit bias is not.

    Proof sketch. With ``y = A^{1/2} x``, the derivative with respect to the query's own token is
    ``2 Cov_i(y)``, and ``sum_k P_ik |y_i - y_k|^2 <= w``, since the own key contributes ``e^0 = 1`` to
    the softmax's denominator and ``max_t t (n - 1) e^{-t} / (1 + (n - 1) e^{-t}) = W_0((n - 1) / e)``.
    The rest is as for dot-product attention.

    Plain values, ``x_j W_V^h`` without ``A_h``, have no global constant. On a domain of spread rho,
    with ``m = |W_Q^h|^2 / sqrt(d_h)`` and under any mask or bias: ``L_h = sqrt(n) (1 + 4 m rho^2) + 2 m
    rho^2``, for one token ``1 + 6 m rho^2``; heads combine as for dot-product attention.

    Tight: ``|W_Q^h| |W_Q^{hT} W_V^h W_O^h|`` for ``|W_Q^h|^2 |W_V^h| |W_O^h|``, rows as roots of sums
    of squares, plain values with the root of ``m`` instead of ``m``, and on a domain the smaller of
    both kinds of constants. Where every query sees every token, what all queries see of one of them is
    bounded together, which leaves the fourth root of ``n``. Plain values, too, have to be seen by their
    own query and without a bias then.

    Published: ``sqrt(n / d_h) (4 w + 1) sqrt(sum_h |W_Q^h|^4 |W_V^h|^2) |W_O|``. The power of
    ``|W_Q^h|`` is four because ``A_h`` is quadratic in it; with two, as it is quoted elsewhere,
    exact Jacobians exceed the formula.

    Args:
        query: Kernel of queries and keys, shape ``(d, H, d_h)``.
        value: Kernel, shape ``(d, H, d_h)``.
        out: Kernel, shape ``(H, d_h, d)``.
        num_tokens: Number of valid tokens, or a :class:`TokenRange`; the window if there is one. No
            query may see more keys: the own key is one of ``n`` in ``w``.
        plain_values: Whether values do not pass through ``A_h``.
        radius: Largest token norm; needed for plain values.
        spread: Half of the largest distance between two tokens; ``None`` takes ``radius``.
        method: ``"sharp"``, ``"tight"``, or ``"published"`` for the constant of the literature.
        pattern: Which tokens see each other; as for :func:`attention`, for the tight bound alone.
        per_token: Bound one output token instead of the whole sequence.

    Returns:
        The bound, a scalar.

    Raises:
        ValueError: for wrong shapes, numbers out of range, or a combination for which nothing was
            published: plain values or ``per_token`` with ``"published"``.

    Example:
        >>> import jax.numpy as jnp
        >>> kernel = jnp.eye(4).reshape(4, 2, 2)
        >>> print(f"{l2_attention(kernel, kernel, kernel.reshape(2, 2, 4), num_tokens=16):.2f}")
        17.83

        Where every query is known to see every token, the tight bound is far below:

        >>> full = l2_attention(
        ...     kernel, kernel, kernel.reshape(2, 2, 4), num_tokens=16, method="tight", pattern="full"
        ... )
        >>> print(f"{full:.2f}")
        6.31

    Reference:
        Published: Kim, Papamakarios and Mnih, "The Lipschitz Constant of Self-Attention" (ICML
        2021), Theorem 3.2. Sharp and tight: this library's own; Theory, sections 4.4, 8.3 to 8.5, 8.7,
        8.15, 8.16, 8.18 and 8.19.
    """
    kernels = {"query": query, "value": value, "out": out}
    kind = L2(plain_values=plain_values)
    sizes = {"num_tokens": num_tokens, "radius": radius, "spread": spread}
    bound = attention(kind, kernels, **sizes, method=method, pattern=pattern)
    return _sequence_or_token(bound, per_token)


@at_highest_precision
def cosine_attention(
    query: Float[ArrayLike, "d H d_h"],
    key: Float[ArrayLike, "d H_kv d_h"],
    value: Float[ArrayLike, "d H_kv d_h"],
    out: Float[ArrayLike, "H d_h d"],
    *,
    num_tokens: _NumTokens,
    tau: _Number,
    nu: _Number,
    eps: _Number,
    plain_values: bool = False,
    radius: _Number | None = None,
    spread: _Number | None = None,
    method: str = "sharp",
    pattern: str = "any",
    per_token: bool = False,
) -> Float[Array, ""]:
    r"""Lipschitz bound of scaled cosine attention: on all of space, or on a domain for plain values.

    Sharp:

        ``L_h = nu eps^{-1/2} (sqrt(n) (|W_V^h| + tau |W_K^h|) + tau |W_Q^h|)``

    for the whole sequence, without ``sqrt(n)`` for one token; heads combine to
    ``min(|W_O| sqrt(sum_h L_h^2), sum_h |W_O^h| L_h)``. With one token the terms with ``tau`` vanish.
    Biases leave it unchanged.

    Proof sketch. Normalising a row is ``eps^{-1/2}``-Lipschitz and gives rows of norm at most one.
    Normalised values lie in a ball of radius one, so their covariance under any attention is at
    most one, with queries and keys at most one long: the softmax's part is at most ``tau`` times the
    change of a key, averaged with attention weights, and of the query. Column sums of the attention
    are at most ``n``.

    Values that are not normalised have no global constant. On a domain of spread rho, with ``r = tau
    eps^{-1/2} rho``: ``L_h = nu (sqrt(n) (1 + r |W_K^h|) + r |W_Q^h|)``, for one token without
    ``sqrt(n)``; heads combine as for dot-product attention.

    Tight: one row ``nu eps^{-1/2} sqrt(|W_V^h|^2 + tau^2 max(|W_K^h|, |W_Q^h|)^2)``, since a normaliser
    that gives a long row moves little there, and ``sqrt(n)`` times it for the whole sequence; where all
    tokens are seen, keys that are attended to much are long. Every query has to see itself then.

    Published, which grows with ``n^2``: ``sqrt(H) |W_O| max_h (2 n (n - 1) nu tau eps^{-1/2} |W_K^h| +
    2 (n - 1) nu tau eps^{-1/2} |W_Q^h| + 2 n nu eps^{-1/2} |W_V^h|)``.

    Args:
        query: Kernel, shape ``(d, H, d_h)``.
        key: Kernel, shape ``(d, H_kv, d_h)``; ``H_kv`` divides ``H``.
        value: Kernel, shape ``(d, H_kv, d_h)``.
        out: Kernel, shape ``(H, d_h, d)``.
        num_tokens: Number of valid tokens, or a :class:`TokenRange`; the window if there is one.
        tau: Scale of the logits, positive.
        nu: Scale of the output, positive.
        eps: What is added to the squared norm of rows, positive.
        plain_values: Whether values are not normalised.
        radius: Largest token norm; needed for plain values.
        spread: Half of the largest distance between two tokens; ``None`` takes ``radius``.
        method: ``"sharp"``, ``"tight"``, or ``"published"`` for the constant of the literature.
        pattern: Which tokens see each other; as for :func:`attention`, for the tight bound alone.
        per_token: Bound one output token instead of the whole sequence.

    Returns:
        The bound, a scalar.

    Raises:
        ValueError: for wrong shapes, numbers out of range, or a combination for which nothing was
            published: plain values or ``per_token`` with ``"published"``.

    Example:
        >>> import jax.numpy as jnp
        >>> kernel = jnp.eye(4).reshape(4, 2, 2)
        >>> bound = cosine_attention(
        ...     kernel, kernel, kernel, kernel.reshape(2, 2, 4), num_tokens=16, tau=1.0, nu=1.0,
        ...     eps=1.0
        ... )
        >>> print(f"{bound:.2f}")
        12.73

    Reference:
        Published: Qi et al., "LipsFormer" (ICLR 2023), theorem on scaled cosine similarity
        attention. Sharp and tight: this library's own; Theory, sections 4.5, 8.3, 8.6, 8.7, 8.13,
        8.15 and 8.18.
    """
    kernels = {"query": query, "key": key, "value": value, "out": out}
    # Not through the hash of the kind, so that its numbers may be tracers.
    kind = Cosine(tau, nu, eps, plain_values)  # pyright: ignore[reportArgumentType]
    bound = _attention(Layer(kind, kernels, num_tokens, None, pattern), radius, spread, method)
    return _sequence_or_token(bound, per_token)


@at_highest_precision
def attention(
    kind: Kind | MultiHeadAttention,
    kernels: Mapping[str, Any],
    *,
    num_tokens: _NumTokens,
    radius: _Number | None = None,
    spread: _Number | None = None,
    rotary: bool | Rotary | PatchRotary | None = None,
    method: str = "sharp",
    pattern: str | None = None,
) -> AttentionBound:
    """All bounds of a multi-head attention layer: whole sequence, one token, and its two parts.

    Of a module with its variables, which say themselves what the layer does; or of a kind with kernels,
    which do not show whether positions are rotary, whether there is a window, and who sees whom: then
    the arguments have to say so, and the bound holds for layers of which they are true. With either,
    no logit bias and no masking beyond causality, padding, windows and segments is assumed where the
    functions of the kinds say so: for L2 attention, and for ``"tight"`` bounds of cosine attention.

    Args:
        kind: A ``MultiHeadAttention``, or :class:`poolax.attention.DotProduct`, ``L2`` or ``Cosine``.
        kernels: The module's variables, as its ``init`` returned them. With a kind, kernels ``query``,
            ``key`` (not for L2), ``value`` and ``out``, and ``query_bias`` and ``key_bias`` if there
            are any; or the parameters of a ``MultiHeadAttention``.
        num_tokens: Number of valid tokens, or a :class:`TokenRange`. With a kind, the window if there
            is one: no token is seen by more, and no query sees more.
        radius: Largest token norm; needed for dot-product attention and for plain values.
        spread: Half of the largest distance between two tokens; ``None`` takes ``radius``.
        rotary: With a kind, in dot-product attention, the :class:`poolax.attention.Rotary` positions,
            whose scale of the features counts; ``True`` if it is one.
        method: ``"sharp"``, ``"tight"``, or ``"published"`` for the constant of the literature.
        pattern: What is known of which tokens see each other, for the tight bound alone: ``"any"``
            nothing but what ``num_tokens`` says (sliding windows included) and that a token sees
            itself; ``"sequence"`` that there are no more than ``num_tokens`` tokens (causal, padded,
            segments, windows that partition the tokens); ``"full"`` that besides every valid token
            sees all ``num_tokens`` of them and nothing is added to the logits. ``None`` takes
            ``"any"`` for a kind and for a window, else ``"sequence"``.

    Returns:
        The bounds; see :func:`dot_product_attention`, :func:`l2_attention` and
        :func:`cosine_attention`.

    Raises:
        ValueError: as these three raise, for another kind or pattern, for rotary positions in another
            kind than dot product, for variables that are not the module's, and for a pattern or
            ``rotary`` that contradicts a module.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from poolax.attention import L2, MultiHeadAttention, Rotary
        >>> kernel = jnp.eye(4).reshape(4, 2, 2)
        >>> kernels = {"query": kernel, "value": kernel, "out": kernel.reshape(2, 2, 4)}
        >>> bound = attention(L2(), kernels, num_tokens=1)
        >>> print(f"{bound.sequence:.3f} {bound.per_token:.3f}")
        1.000 1.000
        >>> layer = MultiHeadAttention(2, causal=True, window=4, rotary=Rotary())
        >>> variables = layer.init(jax.random.key(0), jnp.zeros((16, 8)))
        >>> bound = attention(layer, variables, num_tokens=16, radius=1.0, method="tight")
        >>> bound.pattern
        'any'

    Reference:
        Theory, sections 1.3 (assumptions), 3 (published), 4 (sharp) and 8 (tight).
    """
    layer = read_layer(kind, kernels, num_tokens, rotary, pattern)
    return _attention(layer, radius, spread, method)


@on_one_thread
def _attention(layer: Layer, radius, spread, method):
    check_choice("method", method, METHODS)
    scale = feature_scale(layer.rotary)
    kernels = read_normalised_kernels(
        layer.kernels,
        has_key=not isinstance(layer.kind, L2),
        eps=layer.query_key_eps,
        turned=layer.query_key_turned,
    )
    if layer.growth is not None:
        kernels = kernels.scaled_queries(layer.growth)
    bound = attention_of_kernels(
        layer.kind,
        kernels if scale == 1.0 else kernels.scaled_logits(scale),
        layer.num_tokens,
        radius,
        spread,
        method,
        layer.pattern,
        rotary=layer.rotary not in (None, False),
        capped=layer.capped,
        grows=layer.growth is not None,
    )
    return or_infinite(bound)


def _sequence_or_token(bound, per_token):
    if not per_token:
        return bound.sequence
    if bound.per_token is None:
        raise NoBoundError(
            f"per_token: expected False for method {bound.method!r}, which has no such bound"
        )
    return bound.per_token
