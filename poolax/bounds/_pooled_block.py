"""Bounds of a pooled block from the constants of its parts.

Theory, sections 3.1, 3.2 and 4.6; tight 8.2, 8.8 and 8.14.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from poolax._checks import (
    check_center_norm_width,
    check_choice,
    check_count,
    check_finite,
    check_values,
)
from poolax._geometry import GEOMETRIES
from poolax._numerics import safe_sqrt
from poolax._threads import on_one_thread
from poolax.bounds._domain import token_range
from poolax.bounds._heads import whole_sequence
from poolax.bounds._linalg import round_up, spectral_norm
from poolax.bounds._methods import METHODS
from poolax.bounds._no_bound import NoBoundError
from poolax.bounds._overflow import or_infinite
from poolax.bounds._pooling import pooling_factor, resolve_pooler
from poolax.pooling import AveragePool, FirstPool, LastPool, MaxPool, Pooler, SumPool, from_name
from poolax.records import AttentionBound, Bound, PoolerBound, TokenRange

_Number = Float[ArrayLike, ""]


@on_one_thread
def pooled_block(
    pooler: str | Pooler | PoolerBound,
    *,
    attention: AttentionBound | _Number,
    attention_per_token: _Number | None = None,
    ffn: Float[ArrayLike, "..."],
    dim: int,
    num_tokens: float | Array | TokenRange,
    norm_scale: Float[ArrayLike, "..."] = 1.0,
    method: str = "sharp",
    weights: Float[ArrayLike, " n"] | None = None,
    geometry: str = "frobenius",
) -> Bound:
    r"""Lipschitz bound of one Post-LN block with CenterNorm and a pooler on top.

    With ``c = norm_scale d / (d - 1)``, ``L`` the attention's bound and ``F`` that of the
    feed-forward layer, the separate form is

        ``pooling_factor c^2 (1 + L) (1 + F)``,

    where first and last read one token and take the attention's bound for one token. The joint form
    knows that mixing (``S``) and own (``B``) part of the attention reach a pooler differently,

        ``c^2 (1 + F) (l2 + l2 B + l1 S)``

    with the pooler's ``l2`` and ``l1`` of :func:`poolax.bounds.pooler`. *Proof sketch:* ``|d MHA_i| <=
    S |dX| + B |dx_i|``; what follows acts on each position alone, with Jacobians of norm at most
    ``c^2 (1 + F)``; and ``sum_i |w_i| |dx_i| <= |w|_2 |dX|``. The sharp bound is the smaller of both.

    The tight bound takes the parts of a tight attention bound and knows more of what is pooled.
    With ``|d MHA_i| <= T max_k |dx_k| + B |dx_i|`` and coefficients ``w`` of the pooler,

        ``c^2 (1 + F) sqrt(l1^2 T^2 + 2 l1 linf T (1 + B) + l2^2 (1 + B)^2)``;

    for max, which selects entries of ``m = min(n, d)`` rows, and for ``m = n`` rows of any pooler on a
    sequence of ``n`` tokens (times ``l2``),

        ``c^2 (1 + F) (sqrt(m) T + sqrt(m T^2 + 4 (1 + B) (1 + B + T))) / 2``.

    If the attention bound knows how much all entries of its output mix in, each at a token of its own,
    as that of :func:`block` does, max has besides ``l2 (1 + B + E)``.

    *Proof sketch:* let ``m_x = max_k |dx_k|``, attained at one token; ``sum_i |w_i| ((1 + B) |dx_i| + T
    m_x)`` is linear in the ``|dx_i|``, with the Euclidean norm above, and the sum of the squares of
    ``m`` rows is a quadratic form whose top eigenvalue is the square of the second. The smallest of
    all forms counts.

    With a budget for each token, ``geometry="tokens"``, sharp and tight bounds are

        ``c^2 (1 + F) l1 (1 + B + T)``.

    Published: ``pooling_factor c^2 (1 + L) (1 + F)`` with the bound of the whole sequence for every
    pooler and ``sqrt(min(n, d))`` for max.

    Args:
        pooler: A fixed pooler, its name (``"wavg"`` with ``weights``), or a :class:`PoolerBound`.
        attention: An :class:`AttentionBound` for as many tokens, or for their window; or a number: then
            only the separate form is known.
        attention_per_token: Bound of one output token beside a plain number; ``None`` takes
            ``attention``.
        ffn: Lipschitz constant of the feed-forward layer, or the kernel ``(d, d)`` of a single layer
            whose activation has slopes of at most one.
        dim: Width ``d``, at least 2.
        num_tokens: Number of pooled tokens ``n``, or a :class:`TokenRange`.
        norm_scale: Largest ``|scale|`` of the two norms: one number, or one for each.
        method: ``"sharp"``, ``"tight"`` or ``"published"``.
        weights: Weights of a weighted average, shape ``(n,)``.
        geometry: Norm of changes of the tokens: ``"frobenius"``, or ``"tokens"`` for the largest norm
            of a token's change, in which a number for ``attention`` has to be as well.

    Returns:
        The bound with its factors.

    Raises:
        NoBoundError: for ``geometry="tokens"`` and method ``"published"``.
        ValueError: for numbers or shapes out of range, ``d = 1``, an unknown pooler, weights that are
            missing or misplaced, an attention bound of another method or beside a bound for one token,
            or a pooler for which nothing was published.

    Example:
        >>> bound = pooled_block("avg", attention=3.0, ffn=1.0, dim=64, num_tokens=16)
        >>> print(f"{bound.lipschitz:.3f} {bound.gamma(0.1, 0.5).gamma:.3f}")
        2.064 0.413

    Reference:
        Published: the structure of "Pool Me Wisely" (Ennadir et al., NeurIPS 2025), Theorem 4.2 and
        Lemmas 4.3 and 4.4, with the best attention constant published for the same setting. Sharp and
        tight: this library's own; Theory, sections 4.6, 4.9, 8.2, 8.8 and 8.14.
    """
    check_choice("method", method, METHODS)
    check_choice("geometry", geometry, GEOMETRIES)
    check_count("dim", dim)
    check_center_norm_width(dim)
    norm_factor = _norm_factor(norm_scale, dim)
    c2 = 1 + _ffn_lipschitz(ffn, dim)
    if attention_per_token is not None:
        check_values("attention_per_token", attention_per_token, at_least=0.0)
    if method == "published":
        if geometry != "frobenius":
            raise NoBoundError(
                f"geometry: expected 'frobenius' for method 'published', got {geometry!r}: nothing was "
                "published for it"
            )
        if weights is not None:
            raise ValueError("weights: expected None for method 'published', got an array")
        factor = _published_factor(pooler, num_tokens, dim)
        if isinstance(attention, AttentionBound):
            if attention.method != "published":
                raise ValueError(
                    f"attention: expected a published bound for method 'published', got one of "
                    f"method {attention.method!r}"
                )
            source = attention.source
        else:
            source = "the attention constant that was given"
        sequence = _sequence(attention)
        source = f"structure of 'Pool Me Wisely', Theorem 4.2, with {source}"
        return _bound(factor, sequence, c2, norm_factor, method, source)
    reads = resolve_pooler(pooler, num_tokens=num_tokens, dim=dim, weights=weights, method=method)
    if not isinstance(attention, AttentionBound):
        sequence = _sequence(attention)
        if reads.reads_one_token and attention_per_token is not None:
            sequence = jnp.asarray(attention_per_token)
        factor = reads.l2 if geometry == "frobenius" else reads.l1
        return _bound(factor, sequence, c2, norm_factor, method, "poolax, separate form")
    if attention_per_token is not None:
        raise ValueError("attention_per_token: expected None beside an AttentionBound, got a number")
    if attention.method != method:
        raise ValueError(
            f"attention: expected a {method} bound for method {method!r}, got one of method "
            f"{attention.method!r}"
        )
    if geometry == "tokens":
        if attention.each_token is None:
            raise ValueError("attention: expected one whose mixing_largest is known, got None")
        return _bound(
            reads.l1, attention.each_token, c2, norm_factor, method, f"poolax, {method}, each token"
        )
    most = jnp.asarray(token_range(num_tokens).high, float)
    seen = _as_pooled(attention, reads, most)
    return _bound(reads.l2, seen, c2, norm_factor, method, f"poolax, smallest {method} form")


@jax.jit
def _as_pooled(attention: AttentionBound, reads: PoolerBound, num_tokens) -> Float[Array, ""]:
    """The attention's bound ``L`` for which a form is ``l2 (1 + L)``; the smallest of all forms."""
    l2, l1 = jnp.asarray(reads.l2), jnp.asarray(reads.l1)
    # l1 / l2 has no value for a pooler that reads nothing; neither has it any effect.
    reads_any = l2 > 0
    safe_l2 = jnp.where(reads_any, l2, 1)
    ratio = jnp.where(reads_any, l1 / safe_l2, 0)
    own: Any = attention.own
    mixing: Any = attention.mixing
    largest: Any = attention.mixing_largest
    separate = attention.per_token if reads.reads_one_token else attention.sequence
    forms = [separate, own + ratio * mixing]
    if attention.method == "tight":
        # The residual inside the rows: l2 (1 + L) is the norm of rows of mixing T and own 1 + B.
        if attention.pattern != "any":
            forms.append(whole_sequence(num_tokens, largest, 1 + own) - 1)
        if reads.selects:
            forms.append(whole_sequence(jnp.square(ratio), largest, 1 + own) - 1)
            if attention.folded_entries is not None:
                forms.append(own + attention.folded_entries)
        if reads.linf is not None:
            peak = jnp.where(reads_any, reads.linf / safe_l2, 0)
            mixed, kept = ratio * largest, 1 + own
            forms.append(safe_sqrt(jnp.square(mixed) + 2 * peak * mixed * kept + jnp.square(kept)) - 1)
    # A form that overflows leaves the others.
    return functools.reduce(jnp.minimum, or_infinite([jnp.asarray(form) for form in forms]))


def _norm_factor(norm_scale, dim):
    check_values("norm_scale", norm_scale, at_least=0.0)
    scale = jnp.asarray(norm_scale)
    if scale.shape not in ((), (2,)):
        raise ValueError(f"norm_scale: expected one number or two, got shape {scale.shape}")
    first, second = (scale, scale) if scale.shape == () else scale
    return first * (dim / (dim - 1)), second * (dim / (dim - 1))


def _ffn_lipschitz(ffn, dim):
    if jnp.shape(ffn) == (dim, dim):
        check_finite("ffn", ffn)
        return spectral_norm(jnp.asarray(ffn))
    if jnp.ndim(ffn) != 0:
        raise ValueError(f"ffn: expected a number or a kernel {(dim, dim)}, got shape {jnp.shape(ffn)}")
    check_values("ffn", ffn, at_least=0.0)
    return jnp.asarray(ffn)


def _sequence(attention):
    if isinstance(attention, AttentionBound):
        return attention.sequence
    if jnp.ndim(attention) != 0:
        raise ValueError(
            f"attention: expected an AttentionBound or a number, got shape {jnp.shape(attention)}"
        )
    check_values("attention", attention, at_least=0.0)
    return jnp.asarray(attention)


def _published_factor(pooler, num_tokens, dim):
    instance = pooler if isinstance(pooler, PoolerBound) else from_name(pooler)
    published = (FirstPool, LastPool, AveragePool, SumPool, MaxPool)
    if isinstance(instance, PoolerBound) or type(instance) not in published:
        raise NoBoundError(
            "pooler: expected first, last, avg, sum or max for method 'published', got "
            f"{type(instance).__name__}: nothing was published for it"
        )
    return pooling_factor(instance, num_tokens=num_tokens, dim=dim, norm="operator")


@functools.partial(jax.jit, static_argnames=("method", "source"))
def _bound(pooling_factor, attention, c2, norm_factor, method, source):
    c1 = 1 + attention
    factors = [jnp.asarray(factor) for factor in (pooling_factor, *norm_factor, c1, c2)]
    dtype = jnp.result_type(jnp.float32, *factors)
    factors = [factor.astype(dtype) for factor in factors]
    zero = jnp.any(jnp.stack(factors) == 0) & jnp.all(jnp.isfinite(jnp.stack(factors)))

    def product(*numbers):
        # Of numbers that are not zero it is not either, however small.
        found = functools.reduce(jnp.multiply, numbers)
        return jnp.where(zero, found, jnp.maximum(found, jnp.finfo(dtype).tiny))

    reads, first, second, seen, through = factors
    # Small with large ones first: a partial product may leave the range of numbers.
    lipschitz = round_up(product(product(first, seen), product(second, through), reads))
    logs = jnp.stack([jnp.log(jnp.where(zero, 1, factor)) for factor in factors])
    rounding = 64 * jnp.finfo(dtype).eps * (1 + jnp.sum(jnp.abs(logs)))
    bound = Bound(
        lipschitz=lipschitz,
        log_lipschitz=jnp.where(zero, -jnp.inf, jnp.sum(logs) + rounding),
        attention=jnp.asarray(attention).astype(dtype),
        c1=seen,
        c2=through,
        norm_factor=product(first, second),
        pooling_factor=reads,
        method=method,
        source=source,
    )
    return or_infinite(bound)
