"""Lipschitz bounds of one Transformer block with a pooler on top."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from poolax._checks import (
    check_center_norm_width,
    check_choice,
    check_count,
    check_finite,
    check_instance,
    check_values,
)
from poolax._layer_specs import NormSpec
from poolax._numerics import accumulation_dtype, at_highest_precision, safe_norm, safe_sqrt
from poolax.blocks import TBM
from poolax.bounds._activations import activation_lipschitz
from poolax.bounds._attention import attention as attention_bound
from poolax.bounds._attention_kernels import METHODS
from poolax.bounds._domain import token_range
from poolax.bounds._heads import whole_sequence
from poolax.bounds._linalg import round_up, spectral_norm
from poolax.bounds._norms import normalised_domain
from poolax.bounds._pooling import pooler as pooler_bound
from poolax.bounds._pooling import pooling_factor, resolve_pooler
from poolax.bounds._propagation import attention_domain, residual
from poolax.pooling import AveragePool, FirstPool, LastPool, MaxPool, Pooler, SumPool, from_name
from poolax.records import AttentionBound, BlockBound, Bound, Domain, PoolerBound, TokenRange

_Number = Float[ArrayLike, ""]


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

    *Proof sketch:* let ``m_x = max_k |dx_k|``, attained at one token; ``sum_i |w_i| ((1 + B) |dx_i| + T
    m_x)`` is linear in the ``|dx_i|``, with the Euclidean norm above, and the sum of the squares of
    ``m`` rows is a quadratic form whose top eigenvalue is the square of the second. The smallest of
    all forms counts.

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

    Returns:
        The bound with its factors.

    Raises:
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
        tight: this library's own; Theory, sections 4.6, 8.2, 8.8 and 8.14.
    """
    check_choice("method", method, METHODS)
    check_count("dim", dim)
    check_center_norm_width(dim)
    norm_factor = _norm_factor(norm_scale, dim)
    c2 = 1 + _ffn_lipschitz(ffn, dim)
    if attention_per_token is not None:
        check_values("attention_per_token", attention_per_token, at_least=0.0)
    if method == "published":
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
        return _bound(reads.l2, sequence, c2, norm_factor, method, "poolax, separate form")
    if attention_per_token is not None:
        raise ValueError("attention_per_token: expected None beside an AttentionBound, got a number")
    if attention.method != method:
        raise ValueError(
            f"attention: expected a {method} bound for method {method!r}, got one of method "
            f"{attention.method!r}"
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
        if attention.pattern != "any":
            forms.append(whole_sequence(num_tokens, largest, 1 + own) - 1)
        if reads.selects:
            forms.append(whole_sequence(jnp.square(ratio), largest, 1 + own) - 1)
        if reads.linf is not None:
            peak = jnp.where(reads_any, reads.linf / safe_l2, 0)
            mixed, kept = ratio * largest, 1 + own
            forms.append(safe_sqrt(jnp.square(mixed) + 2 * peak * mixed * kept + jnp.square(kept)) - 1)
    return functools.reduce(jnp.minimum, [jnp.asarray(form) for form in forms])


@at_highest_precision
def tbm(
    model: TBM,
    variables: Mapping[str, Any],
    *,
    num_tokens: float | Array | TokenRange,
    radius: _Number | None = None,
    spread: _Number | None = None,
    method: str = "sharp",
) -> Bound:
    """Lipschitz bound of a :class:`poolax.blocks.TBM` at given variables.

    The tight bound knows besides that every valid token sees all of them, and folds what follows the
    attention into its output matrix: norms and feed-forward layer together are one known matrix, and
    another one times slopes of the activation, so that norms of products stand for products of norms.
    ``attention`` and ``c2`` of the result are then relative to each other; their product counts.

    A fresh initialisation is a kink of published and sharp bounds, for ``max|scale|`` of equal scales:
    ``grad`` with respect to ``variables`` is finite and shares the slope among them, which is the
    change of the bound neither where one of them grows nor where it shrinks.

    Args:
        model: The model.
        variables: What its ``init`` returned.
        num_tokens: Number of valid tokens, or a :class:`TokenRange` for a padded batch.
        radius: Largest norm of an input token; needed for dot-product attention, plain values and query
            attention pooling.
        spread: Half of the largest distance between two input tokens; ``None`` takes ``radius``.
        method: ``"sharp"``, ``"tight"`` or ``"published"``.

    Returns:
        The bound with its factors; see :func:`pooled_block`.

    Raises:
        ValueError: for a pooler, attention kind, activation or option without a bound, for missing
            variables, or for numbers out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from poolax.pooling import AveragePool
        >>> model = TBM(num_heads=2, pooler=AveragePool())
        >>> x = 0.1 * jax.random.normal(jax.random.key(0), (16, 8))
        >>> variables = model.init(jax.random.key(1), x)
        >>> bound = tbm(model, variables, num_tokens=16, radius=1.0)
        >>> measured = jnp.linalg.norm(
        ...     jax.jacrev(lambda x: model.apply(variables, x))(x).reshape(8, -1), ord=2
        ... )
        >>> bool(measured <= bound.lipschitz)
        True

    Reference:
        As :func:`pooled_block`, and Theory, section 8.17.
    """
    bound = block(model, variables, num_tokens=num_tokens, radius=radius, spread=spread, method=method)
    return with_pooler(bound, model.pooler, {"params": variables["params"].get("pooler", {})})


@at_highest_precision
def block(
    model: TBM,
    variables: Mapping[str, Any],
    *,
    num_tokens: float | Array | TokenRange,
    radius: _Number | None = None,
    spread: _Number | None = None,
    method: str = "sharp",
) -> BlockBound:
    r"""What :func:`tbm` knows of a model before its pooler, to compare many poolers on one block.

    Nearly all work of a bound is that of the block: norms of its matrices. :func:`with_pooler` makes
    of it the bound for one pooler after another,

        ``pooling_factor c^2 (1 + L) (1 + F)``

    with ``L`` the attention's bound as that pooler sees it, ``c`` of ``norm_scale`` and ``F`` the
    constant of the feed-forward layer; see :func:`pooled_block`. For ``grad`` at a fresh initialisation
    see :func:`tbm`.

    Args:
        model: The model; its own pooler does not count.
        variables: What its ``init`` returned; those of a pooler are not needed.
        num_tokens: Number of valid tokens, or a :class:`TokenRange` for a padded batch.
        radius: Largest norm of an input token; needed for dot-product attention, plain values and query
            attention pooling.
        spread: Half of the largest distance between two input tokens; ``None`` takes ``radius``.
        method: ``"sharp"``, ``"tight"`` or ``"published"``.

    Returns:
        Bounds of the parts, and the spread of the tokens that are pooled.

    Raises:
        ValueError: for an attention kind, activation or option without a bound, for missing variables,
            or for numbers out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from poolax.pooling import AveragePool
        >>> model = TBM(num_heads=2, pooler=AveragePool())
        >>> variables = model.init(jax.random.key(0), jnp.zeros((16, 8)))
        >>> parts = block(model, variables, num_tokens=16, radius=1.0)
        >>> average, total = (with_pooler(parts, name) for name in ("avg", "sum"))
        >>> bool(average.lipschitz < total.lipschitz)
        True

    Reference:
        As :func:`tbm`.
    """
    check_instance("model", model, TBM, "a TBM")
    check_choice("method", method, METHODS)
    params = variables.get("params", {}) if isinstance(variables, Mapping) else {}
    if not {"attention", "ffn", "norm1", "norm2"} <= set(params):
        raise ValueError(f"variables: expected what TBM.init returned, got {_keys(variables)}")
    slope = activation_lipschitz(model.activation)
    kernel = params["ffn"]["kernel"]
    check_finite("ffn/kernel", kernel)
    scales = [params[norm]["scale"] for norm in ("norm1", "norm2")]
    for scale in scales:
        check_finite("scale", scale)
    num_tokens, tight = token_range(num_tokens), method == "tight"
    bound_attention = functools.partial(
        attention_bound,
        model.attention,
        num_tokens=num_tokens,
        radius=radius,
        spread=spread,
        method=method,
        pattern="full" if tight else "any",
    )
    if tight:
        attention, ffn = _folded(bound_attention, params, slope)
    else:
        attention = bound_attention(params["attention"])
        ffn = slope * spectral_norm(jnp.asarray(kernel))
    pooled_spread = None
    # What was published reads no spread.
    if method != "published":
        pooled_spread = _pooled_spread(model, params, radius, spread, slope, tight)
    return BlockBound(
        attention=attention,
        ffn=ffn,
        norm_scale=jnp.stack([jnp.max(jnp.abs(scale)) for scale in scales]),
        spread=pooled_spread,
        num_tokens=num_tokens,
        dim=kernel.shape[0],
    )


@at_highest_precision
def with_pooler(
    block: BlockBound,
    pooler: str | Pooler | PoolerBound,
    variables: Mapping[str, Any] | None = None,
) -> Bound:
    """Lipschitz bound of a block with a pooler on top.

    Args:
        block: What :func:`block` gave.
        pooler: A pooler, its name, or a :class:`PoolerBound` that holds for tokens with the spread of
            ``block.spread``.
        variables: What the pooler's ``init`` returned; ``None`` if it has no parameters.

    Returns:
        The bound with its factors; see :func:`pooled_block`. It is of the block's method.

    Raises:
        ValueError: for an unknown pooler, one for which nothing was published if the method is
            ``"published"``, variables that are missing or beside a :class:`PoolerBound`, or a number of
            tokens that the pooler does not take.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from poolax.blocks import TBM
        >>> from poolax.pooling import AveragePool
        >>> model = TBM(num_heads=2, pooler=AveragePool())
        >>> variables = model.init(jax.random.key(0), jnp.zeros((16, 8)))
        >>> bound = with_pooler(block(model, variables, num_tokens=16, radius=1.0), "avg")
        >>> bool(bound.lipschitz == tbm(model, variables, num_tokens=16, radius=1.0).lipschitz)
        True

    Reference:
        As :func:`pooled_block`, and Theory, section 6.
    """
    check_instance("block", block, BlockBound, "what bounds.block gave")
    method, sizes = block.attention.method, {"num_tokens": block.num_tokens, "dim": block.dim}
    if isinstance(pooler, PoolerBound):
        if variables is not None:
            raise ValueError(f"variables: expected None beside a PoolerBound, got {_keys(variables)}")
    elif method != "published":
        pooler = pooler_bound(pooler, variables, **sizes, spread=block.spread, method=method)
    return pooled_block(
        pooler,
        attention=block.attention,
        ffn=block.ffn,
        norm_scale=block.norm_scale,
        method=method,
        **sizes,
    )


def _folded(bound_attention, params, slope):
    r"""Bounds of attention and feed-forward layer, with what follows the attention folded in.

    With ``C = I - 1 1^T / d``, norms ``x C diag(scale)`` up to ``d / (d - 1)``, and slopes of the
    activation ``diag(s) = I / 2 + E``, ``|E| <= slope - 1/2``, all that follows ``x + MHA(x)`` is

        ``C diag(scale_1) (I + W / 2) C diag(scale_2) + C diag(scale_1) W E C diag(scale_2)``,

    the sum of two known matrices, the second one times a matrix of known norm. Both stand behind
    ``W_O`` in a bound of the attention. The results are given as multiples of what the residual, which
    the same two matrices follow, lets through.
    """
    arrays = params["ffn"]["kernel"], params["norm1"]["scale"], params["norm2"]["scale"]
    kernel, first, second = (jnp.asarray(array, accumulation_dtype(*arrays)) for array in arrays)
    largest = jnp.max(jnp.abs(first)) * jnp.max(jnp.abs(second))
    entering = _centred(jnp.diag(first)).T
    inner = entering @ kernel
    steady = _centred(entering + inner / 2) * second[None]
    varying = (slope - 0.5) * jnp.max(jnp.abs(second)) * inner
    safe = jnp.where(largest > 0, largest, 1)
    passed = jnp.maximum((spectral_norm(steady) + spectral_norm(varying)) / safe, 1)
    attention, out = params["attention"], params["attention"]["out"]
    behind = [
        bound_attention({**attention, "out": {**out, "kernel": out["kernel"] @ matrix}})
        for matrix in (steady, varying)
    ]
    joined = jax.tree.map(lambda *parts: sum(parts) / (safe * passed), *behind)
    return joined, passed - 1


def _centred(matrix):
    """``matrix C``: rows without their mean."""
    return matrix - jnp.mean(matrix, axis=-1, keepdims=True)


def _pooled_spread(model, params, radius, spread, slope, tight):
    """Spread of the block's output, where a domain of its input is known."""
    if radius is None:
        return None
    domain = Domain(jnp.asarray(radius), jnp.asarray(radius if spread is None else spread))
    kernel, bias = jnp.asarray(params["ffn"]["kernel"]), params["ffn"].get("bias")
    reach = attention_domain(model.attention, params["attention"], domain, tight=tight)
    norms = [
        NormSpec("center", params[name]["scale"], params[name]["bias"]) for name in ("norm1", "norm2")
    ]
    domain = normalised_domain(norms[0], residual(domain, reach))
    factor = slope * spectral_norm(kernel)
    moved = Domain(
        radius=factor * domain.radius + (0.0 if bias is None else slope * safe_norm(bias)),
        spread=factor * domain.spread,
    )
    return normalised_domain(norms[1], residual(domain, moved)).spread


def _keys(variables):
    return f"keys {list(variables)}" if isinstance(variables, Mapping) else repr(variables)


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
        raise ValueError(
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
    zero = jnp.any(jnp.stack(factors) == 0)

    def product(*numbers):
        # Of numbers that are not zero it is not either, however small.
        found = functools.reduce(jnp.multiply, numbers)
        return jnp.where(zero, found, jnp.maximum(found, jnp.finfo(dtype).tiny))

    reads, first, second, seen, through = factors
    # Small with large ones first: a partial product may leave the range of numbers.
    lipschitz = round_up(product(product(first, seen), product(second, through), reads))
    logs = jnp.stack([jnp.log(jnp.where(zero, 1, factor)) for factor in factors])
    rounding = 64 * jnp.finfo(dtype).eps * (1 + jnp.sum(jnp.abs(logs)))
    return Bound(
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
