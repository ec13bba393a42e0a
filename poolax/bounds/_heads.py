"""What single attention heads are bounded by, for each kind of attention.

The Jacobian of head ``h`` at token ``i`` splits into what acts through the tokens that are averaged and
through the query's own token:

    ``|d h_i| <= mixing max_k |dx_k| + own |dx_i|``,
    ``|d h_i| <= mixing_total |dX| + own |dx_i|``  and  ``|d h_i| <= per_token |dX|``.

Values are not part of it, except where the kind normalises them or sends them through its metric.

Theory, sections 4.1 and 4.3 to 4.5; tight 8.1, 8.3 to 8.6, 8.13, 8.15, 8.16 and 8.19. All arrays of
constants have one entry for each head, shape ``(H,)``.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._numerics import safe_norm, safe_sqrt, with_leading_axes
from poolax.attention import L2, Cosine, DotProduct
from poolax.bounds._gaussian_rows import rows_together
from poolax.bounds._kernels import Kernels
from poolax.bounds._linalg import lambert_w, product_norm, spectral_norm

PATTERNS = ("any", "sequence", "full")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a bound holds for.

    Attributes:
        fewest: Fewest tokens.
        most: Most tokens.
        radius: Largest token norm, or ``None`` for all of space.
        spread: Half of the largest distance between two tokens, or ``None``.
        pattern: Which tokens see each other; see :func:`poolax.bounds.attention`.
        tight: Whether to use what is proved beyond the sharp forms.
    """

    fewest: Float[Array, ""]
    most: Float[Array, ""]
    radius: Any
    spread: Any
    pattern: str
    tight: bool

    @property
    def is_full(self) -> bool:
        """Whether the tight form knows that every query sees every token."""
        return self.tight and self.pattern == "full"


@dataclasses.dataclass(frozen=True)
class Reading:
    """Linear maps ``G_h = scale key_h query_h^T`` of the query's token, one for each head.

    Attributes:
        query: ``W_Q^h``.
        key: ``W_K^h``, or ``None`` for the identity.
        scale: A number.
        norm: ``|G_h|``.
    """

    query: Float[Array, "H d d_h"]
    key: Float[Array, "H d d_h"] | None
    scale: float
    norm: Float[Array, " H"]


@dataclasses.dataclass(frozen=True)
class Slope:
    """How the mixing part grows with the query's token: by ``rate_h (|G_h x_i| + shift_h)``.

    Attributes:
        reading: ``G_h``.
        rate: One number, or one for each head.
        shift: Norms of what biases add.
        hypot: Whether squares of constant and slope are added, or they themselves.
    """

    reading: Reading
    rate: Float[Array, "*#H"]
    shift: Float[Array, "*#H"]
    hypot: bool


@dataclasses.dataclass(frozen=True)
class Heads:
    """Constants of all heads; the module says what they mean.

    Attributes:
        mixing: Against the largest change of a token.
        own: Against the change of the query's own token.
        mixing_total: As ``mixing``, against the change of all tokens; the same array where it is no
            smaller.
        rows: Mixing parts of all rows together, against the change of all tokens.
        per_token: Of one row of the output.
        sequence: Of the whole output.
        share: Largest attention of one key.
        reading: ``G_h`` if the own part is at most ``own_h |G_h dx_i| / |G_h|``.
        covariance: ``G_h`` if the own part is a covariance of the tokens times ``G_h dx_i``.
        slope: How the mixing part grows with the query's token.
        with_outputs: Constants that count in ``sum_h |F_h| L_h`` alone, if they may be smaller there.
    """

    mixing: Float[Array, " H"]
    own: Float[Array, " H"]
    mixing_total: Float[Array, " H"]
    rows: Float[Array, " H"]
    per_token: Float[Array, " H"]
    sequence: Float[Array, " H"]
    share: Any
    reading: Reading | None = None
    covariance: Reading | None = None
    slope: Slope | None = None
    with_outputs: "Heads | None" = None


def _heads(
    setting,
    mixing,
    own,
    *,
    share: Any = 1.0,
    column_sum: Any = None,
    mixing_total: Any = None,
    rows: Any = None,
    per_token: Any = None,
    **reads: Any,
) -> Heads:
    """Constants of heads whose ``mixing`` is against the attention-weighted change.

    Then ``sqrt(share) mixing`` is against the change of all tokens, since ``sum_k (P_ik c_k)^2 <= share
    sum_k P_ik c_k^2``, and the columns' sum bounds the rows together. What is known better is given.
    """
    if setting.tight:
        own = _not_lost(setting, mixing, own)
    if mixing_total is None:
        mixing_total = jnp.sqrt(share) * mixing if setting.is_full else mixing
    known = mixing_total + own
    per_token = known if per_token is None else jnp.minimum(known, per_token)
    if rows is None:
        rows = jnp.sqrt(setting.most if column_sum is None else column_sum) * mixing
    if setting.tight:
        rows = jnp.minimum(rows, jnp.sqrt(setting.most) * mixing_total)
    sequence = rows + own
    if setting.tight:
        # A token, which sees itself, is among the tokens that at most so many rows depend on.
        sequence = jnp.minimum(sequence, jnp.sqrt(setting.most) * per_token)
        if setting.pattern != "any":
            sequence = jnp.minimum(sequence, whole_sequence(setting.most, mixing, own))
    return Heads(mixing, own, mixing_total, rows, per_token, sequence, share, **reads)


@jax.jit
def whole_sequence(num_rows, mixing, own):
    r"""Norm of ``num_rows`` rows of which each is at most ``mixing max_k |dx_k| + own |dx_i|``.

    ``(sqrt(n) B + sqrt(n B^2 + 4 D (B + D))) / 2``: the largest of ``sum_i (B m + D |dx_i|)^2`` with
    ``m = max_k |dx_k|`` and ``|dX| = 1`` is the top eigenvalue of a form in ``m`` and the other
    ``|dx_i|``.
    """
    root = jnp.sqrt(num_rows) * mixing
    return (root + safe_sqrt(jnp.square(root) + 4 * own * (mixing + own))) / 2


def _not_lost(setting: Setting, mixing, own):
    """The own part, no smaller than what is lost beside the mixing: its inverses stay in range."""
    least = jnp.square(jnp.finfo(mixing.dtype).eps) * mixing
    attends = setting.most > 1
    if setting.spread is not None:
        attends = attends & (setting.spread > 0)
    return jnp.where(attends, jnp.maximum(own, least), own)


def _shares(setting: Setting, logit_range):
    """Largest attention of one key, and largest sum of the attention that one key receives.

    Where all ``n`` keys are seen and logits differ by at most ``r``, ``P_ik <= 1 / (1 + (n - 1)
    e^{-r})``; column sums are ``n`` of these, which grows with ``n``.
    """
    if not setting.is_full:
        return jnp.ones(()), setting.most
    rest = jnp.exp(-logit_range)
    share = 1 / (1 + (setting.fewest - 1) * rest)
    return share, setting.most / (1 + (setting.most - 1) * rest)


@jax.jit
def kappa(t: Float[Array, "*batch"], share: Float[Array, "*batch"] | float = 1.0):
    """Largest ``sqrt(p (1 + v t^2))``, ``v`` a variance on ``[-1, 1]`` with an atom ``p <= share``.

    An atom of ``p >= 1/2`` leaves ``v <= 4 p (1 - p)``; the maximum is then at ``p = (1 + sqrt(1 + 3 /
    (4 t^2))) / 3``, or at 1 for ``t <= 1/2``.
    """
    large = t > 0.5
    inner = jnp.where(large, t, 1)
    best = jnp.where(large, (1 + jnp.sqrt(1 + 0.75 / jnp.square(inner))) / 3, 1)
    p = jnp.minimum(best, share)
    variance = jnp.where(p > 0.5, 4 * p * (1 - p), 1)
    return jnp.sqrt(p) * jnp.hypot(1.0, jnp.sqrt(variance) * t)


def dot_product_heads(kernels: Kernels, kind: DotProduct, setting: Setting) -> Heads:
    """Heads of dot-product attention."""
    scale = kind.logit_scale(kernels.query.shape[-1])
    logit_norm = product_norm(kernels.query, kernels.key) * scale
    shift = jnp.zeros(())
    if kernels.query_bias is not None:
        # |c_h| with c_h = W_K^h b_Q^h / sqrt(d_h), (H, d): what every query adds to the logits' slope.
        shift = safe_norm(jnp.einsum("hdk,hk->hd", kernels.key, kernels.query_bias), axis=-1) * scale
    spread = jnp.where(setting.most > 1, setting.spread, 0)
    # |a_i| rho: half of the range of one query's logits.
    slope = (logit_norm * setting.radius + shift) * spread
    # |Cov_i A^T|, and sqrt(1 + |a_i|^2 |Cov_i|), for |Cov_i| <= rho^2.
    own = logit_norm * jnp.square(spread)
    mixing = jnp.hypot(1.0, slope)
    if not setting.tight:
        return _heads(setting, mixing, own)
    share, column_sum = _shares(setting, 2 * slope)
    logits = Reading(kernels.query, kernels.key, scale, logit_norm)
    return _heads(
        setting,
        mixing,
        own,
        share=share,
        mixing_total=kappa(slope, share),
        column_sum=column_sum,
        covariance=logits,
        slope=Slope(logits, spread, shift, hypot=True),
    )


def rotary_heads(kernels: Kernels, kind: DotProduct, setting: Setting) -> Heads:
    """Heads of dot-product attention of whose queries and keys norms are known, whatever turns them.

    Queries and keys may be normalised, and logits capped: a cap makes every logit's slope smaller.
    """
    scale = kind.logit_scale(kernels.query.shape[-1])
    query_norm, key_norm = spectral_norm(kernels.query), spectral_norm(kernels.key_or_query)

    query_shift, key_shift = (
        jnp.zeros(()) if bias is None else safe_norm(bias, axis=-1)
        for bias in (kernels.query_bias, kernels.key_bias)
    )
    # The product of both kernels turns with the positions: only norms of the factors stay.
    longest_query = query_norm * setting.radius + query_shift
    longest_key = key_norm * setting.radius + key_shift
    query_slope, key_slope = query_norm, key_norm
    norms = kernels.head_norms
    if norms is not None:
        query_slope, key_slope = norms.query_slope * query_norm, norms.key_slope * key_norm
        longest_query = jnp.minimum(norms.query_reach, norms.query_slope * longest_query)
        longest_key = jnp.minimum(norms.key_reach, norms.key_slope * longest_key)
    spread = jnp.where(setting.most > 1, setting.spread, 0)
    rate = scale * key_slope * spread
    mixing = 1 + rate * longest_query
    own = scale * longest_key * query_slope * spread
    share, column_sum = _shares(setting, 2 * scale * longest_query * longest_key)
    queries = Reading(kernels.query, None, 1.0, query_norm)
    return _heads(
        setting,
        mixing,
        own,
        share=share,
        column_sum=column_sum,
        reading=queries,
        # A normalised query does not grow with the token.
        slope=None if norms is not None else Slope(queries, rate, query_shift, hypot=False),
    )


def l2_heads(kernels: Kernels, kind: L2, setting: Setting) -> Heads:
    """Heads of L2 attention, value matrices left out where values are plain."""
    root = math.sqrt(kernels.query.shape[-1])
    query_norm = spectral_norm(kernels.query)
    metric = jnp.square(query_norm) / root  # |A_h|
    # Largest mean of |q_i - q_k|^2 / sqrt(d_h) under the attention of query i, on all of space.
    w = lambert_w((setting.most - 1) / jnp.e)
    if not setting.tight:
        if kind.plain_values:
            moved = metric * jnp.square(jnp.where(setting.most > 1, setting.spread, 0))
            return _heads(setting, 1 + 4 * moved, 2 * moved)
        factor = metric * spectral_norm(kernels.value)
        return _heads(setting, factor * (1 + 2 * w), factor * 2 * w)
    # Values that pass through the metric are those of its root, behind which `W_Q^T W_V` stands.
    factor = jnp.ones(()) if kind.plain_values else query_norm / root
    reads = {"reading": Reading(kernels.query, None, 1.0, query_norm)}
    if setting.spread is None:
        mixing, own, moved = 1 + 2 * w, 2 * w, None
        total, rows = mixing, jnp.sqrt(setting.most) * mixing
    else:
        moved = metric * jnp.square(jnp.where(setting.most > 1, setting.spread, 0))
        # 2 sqrt(|A_h|) rho: the largest distance between two tokens in the metric.
        step = 2 * safe_sqrt(moved)
        if kind.plain_values:
            reads["covariance"] = Reading(kernels.query, kernels.query, 2 / root, 2 * metric)
            mixing = 1 + step * jnp.minimum(safe_sqrt(w), step)
            own = step * jnp.minimum(safe_sqrt(w), step / 2)
        else:
            mixing, own = 1 + jnp.minimum(2 * w, 4 * moved), jnp.minimum(2 * w, 2 * moved)
        # What the self-attention leaves is against the largest change alone, this one against the
        # attention-weighted change.
        on_domain = 1 + 4 * moved
        share, column_sum = _shares(setting, 4 * moved)
        total = jnp.minimum(mixing, jnp.sqrt(share) * on_domain)
        rows = jnp.minimum(jnp.sqrt(setting.most) * mixing, jnp.sqrt(column_sum) * on_domain)
    if setting.is_full:
        together = rows_together(setting.most, moved, through_metric=not kind.plain_values)
        # Numbers of tokens beyond the range of floats have no such rows.
        rows = jnp.where(together < rows, together, rows)
    return _heads(
        setting,
        factor * mixing,
        factor * own,
        mixing_total=factor * total,
        rows=factor * rows,
        per_token=factor * jnp.sqrt(jnp.square(mixing) + jnp.square(own)),
        **reads,
    )


# Parts of the range of a key's length, on each of which an upper bound of the maximum is taken.
_LENGTHS = 64


def _cosine_totals(setting: Setting, tau, parts):
    """The mixing part against all changes, and its share of the whole sequence.

    It is a sum of parts; ``part(c)`` is against the weighted changes where the keys' normalisers have
    at most ``c`` times their largest constant. A key of length ``s`` has ``c = sqrt(1 - s^2)``, and a
    weight of at most ``1 / (1 + (n - 1) exp(-tau (1 + s)))`` where all tokens are seen.
    """
    if not setting.is_full:
        mixing = sum(part(1.0) for part in parts)
        return mixing, jnp.sqrt(setting.most) * mixing
    # On each interval of lengths s: the constant at its lower end, the weight at its upper end.
    low, high = jnp.arange(_LENGTHS) / _LENGTHS, jnp.arange(1, _LENGTHS + 1) / _LENGTHS
    lengths = jnp.sqrt(1 - jnp.square(low)).astype(setting.most.dtype)
    squares = [jnp.square(jax.vmap(part, out_axes=-1)(lengths)) for part in parts]  # (H, _LENGTHS)

    def total(num_tokens):
        weight = 1 / (1 + (num_tokens - 1) * jnp.exp(-tau * (1 + high)))
        return sum(
            safe_sqrt(jnp.max(with_leading_axes(weight.astype(s.dtype), s.ndim) * s, axis=-1))
            for s in squares
        )

    return total(setting.fewest), jnp.sqrt(setting.most) * total(setting.most)


def cosine_heads(kernels: Kernels, kind: Cosine, setting: Setting) -> Heads:
    """Heads of scaled cosine attention, value matrices left out where values are plain."""
    query_norm, key_norm = spectral_norm(kernels.query), spectral_norm(kernels.key_or_query)
    tau = jnp.asarray(kind.tau)
    # The output's scale, the logits' slope tau and the normaliser's largest constant.
    rate = kind.nu * jnp.where(setting.most > 1, tau, 0) / jnp.sqrt(kind.eps)
    per_value = kind.nu / jnp.sqrt(kind.eps)
    value_norm = spectral_norm(kernels.value)
    if kind.plain_values:
        rate = rate * setting.spread
    own = rate * query_norm
    # Plain values are left to the combination of heads; normalised ones belong to the head.
    if not setting.tight:
        constant = kind.nu if kind.plain_values else per_value * value_norm
        return _heads(setting, constant + rate * key_norm, own)

    def heads_of(value_part):
        def joined(norm):
            if kind.plain_values:
                return value_part + rate * norm
            return safe_sqrt(jnp.square(value_part) + jnp.square(rate * norm))

        parts = [lambda c: joined(c * key_norm)]
        if kind.plain_values:
            parts = [lambda c: value_part, lambda c: rate * c * key_norm]
        row = joined(jnp.maximum(key_norm, query_norm))
        total, together = _cosine_totals(setting, tau, parts)
        heads = _heads(
            setting,
            joined(key_norm),
            own,
            mixing_total=total,
            rows=together,
            per_token=row,
            reading=Reading(kernels.query, None, 1.0, query_norm),
        )
        # A row is bounded against the largest change of what it sees, its own token included.
        by_row = jnp.sqrt(setting.most) * row
        return dataclasses.replace(heads, sequence=jnp.minimum(heads.sequence, by_row))

    if kind.plain_values:
        return heads_of(kind.nu * jnp.ones_like(key_norm))
    # The normaliser's Jacobian is half its largest constant times the identity, and what has that norm.
    out_norm = spectral_norm(kernels.out)
    through = product_norm(kernels.value, jnp.swapaxes(kernels.out, -1, -2))
    seen = (through / jnp.where(out_norm > 0, out_norm, 1) + value_norm) / 2
    return dataclasses.replace(
        heads_of(per_value * value_norm), with_outputs=heads_of(per_value * seen)
    )
