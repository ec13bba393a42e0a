"""Bounds of an attention layer from its heads: combined one by one, and taken together.

Theory, section 4.2; tight 8.3, 8.7 and 8.18.
"""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._numerics import safe_norm, safe_sqrt
from poolax.bounds._combine import Balanced, Combination, inverse, stacked_norm
from poolax.bounds._heads import Heads, Reading, Setting, Slope, whole_sequence
from poolax.bounds._linalg import round_up, spectral_norm
from poolax.records import AttentionBound


def assemble(heads: Heads, combine: Combination, setting: Setting) -> AttentionBound:
    """All bounds of a layer from the constants of its heads."""

    def combined(name, balanced=None):
        bound = combine(getattr(heads, name), balanced)
        if heads.with_outputs is None:
            return bound
        return jnp.minimum(bound, jnp.sum(combine.factor_norm * getattr(heads.with_outputs, name)))

    # Every bound of the heads gives one of the layer, and so do the layer's own two parts.
    sequence, per_token = combined("sequence"), combined("per_token")
    if not setting.tight:
        own, mixing = combined("own"), combined("mixing")
        mixing_total, entries = mixing, None
    else:
        balanced = combine.balanced(heads.own)
        own = jnp.minimum(combined("own", balanced), _joint_own(heads, combine, balanced, setting))
        mixing, mixing_total = _mixing(heads, combine, combined, setting)
        entries = round_up(_entries(heads, combine, setting))
        rows = jnp.minimum(combined("rows"), jnp.sqrt(setting.most) * mixing_total)
        sequence = jnp.minimum(sequence, rows + own)
        if setting.pattern != "any":
            sequence = jnp.minimum(sequence, whole_sequence(setting.most, mixing, own))
        per_token = jnp.minimum(per_token, mixing_total + own)
    method = "tight" if setting.tight else "sharp"
    return AttentionBound(
        sequence=round_up(sequence),
        per_token=round_up(per_token),
        mixing=round_up(mixing_total),
        own=round_up(own),
        mixing_largest=round_up(mixing),
        method=method,
        source=f"poolax, {method} attention bound",
        pattern=setting.pattern,
        mixing_entries=entries,
    )


def _joint_own(
    heads: Heads, combine: Combination, balanced: Balanced, setting: Setting
) -> Float[Array, ""]:
    r"""What all heads together do with a change of the query's token.

    If head ``h`` adds at most ``r_h |G_h dx_i|``, it is ``|[F_h / alpha_h]| |[alpha_h r_h G_h]|`` for
    any ``alpha_h``, both matrices stacked over heads. If it adds ``Cov_h G_h dx_i``, whose covariance
    is ``rho^2 / 2`` times the identity and what has at most this norm, it is

        ``rho^2 / 2 (|[F_h / alpha_h]| |[alpha_h G_h]| + |sum_h G_h^T F_h|)``.
    """
    outer, weights = balanced.outer, balanced.weights  # a number, and alpha_h^2 of shape (H,)
    forms = []
    if heads.reading is not None:
        # r_h, the constant for one unit of |G_h dx_i|.
        per_norm = heads.own / jnp.where(heads.reading.norm > 0, heads.reading.norm, 1)
        forms.append(outer * _stacked(heads.reading, weights * jnp.square(per_norm)))
    if heads.covariance is not None:
        variance = jnp.where(setting.most > 1, jnp.square(setting.spread), 0)
        apart = outer * _stacked(heads.covariance, weights)
        forms.append(variance / 2 * (apart + _summed(heads.covariance, combine)))
    return jnp.min(jnp.stack(forms))


def _mixing(heads: Heads, combine: Combination, combined, setting: Setting):
    """The mixing parts against the largest and against all changes."""

    def part(name, constant):
        constants = getattr(heads, name)
        balanced = combine.balanced(constants)
        bound = combined(name, balanced)
        if heads.slope is None or constants.shape[0] == 1:
            return bound
        inner = _together(heads.slope, balanced.weights, constant, constants, setting.radius)
        together = balanced.outer * inner
        # Squares of the largest slopes leave the range of floats.
        return jnp.where(together < bound, together, bound)

    mixing = part("mixing", 1.0)
    if heads.mixing_total is heads.mixing:
        return mixing, mixing
    return mixing, jnp.minimum(mixing, part("mixing_total", jnp.sqrt(heads.share)))


def _entries(heads: Heads, combine: Combination, setting: Setting) -> Float[Array, ""]:
    """Mixing parts of all entries of the output, each at a token of its own.

    An entry moves by at most ``sum_h L_h |F_h e|``, or by ``|[F_h e / alpha_h]|`` times what all heads
    have together; squares of these norms add up to those of Frobenius norms.
    """
    size = combine.factor_sizes()
    forms = []
    for name, constant in (("mixing", 1.0), ("mixing_total", jnp.sqrt(heads.share))):
        constants = getattr(heads, name)
        apart = jnp.sum(size * constants)
        forms.append(apart)
        if heads.slope is not None and constants.shape[0] > 1:
            weights = size * inverse(constants)
            inner = _together(heads.slope, weights, constant, constants, setting.radius)
            together = safe_sqrt(apart) * inner
            # Squares of the largest slopes leave the range of floats.
            forms.append(jnp.where(together < apart, together, apart))
    return functools.reduce(jnp.minimum, forms)


def _together(slope: Slope, weights, constant, total, radius) -> Float[Array, ""]:
    """Root of ``sum_h weights_h mixing_h^2``, each mixing ``total_h`` where its slope is largest.

    In between, the square as a function of the slope's square (or, without ``hypot``, the constant as
    a function of the slope) is convex, so that it lies below its chord.
    """
    reading = slope.reading
    largest = slope.rate * (reading.norm * radius + slope.shift)  # (H,)
    safe = jnp.where(largest > 0, largest, 1)
    if slope.hypot:
        gain = jnp.maximum(jnp.square(total) - jnp.square(constant), 0) / jnp.square(safe)
    else:
        gain = jnp.square((total - constant) / safe)
    moving = weights * gain * jnp.square(slope.rate)
    moved = radius * _stacked(reading, moving) + safe_norm(safe_sqrt(moving) * slope.shift)
    still = safe_norm(safe_sqrt(weights) * constant)
    return safe_norm(jnp.stack([still, moved])) if slope.hypot else still + moved


def _stacked(reading: Reading, weights) -> Float[Array, ""]:
    """``|[sqrt(weights_h) G_h]_h|``."""
    transposed = jnp.swapaxes(reading.query, -1, -2)
    return reading.scale * stacked_norm(reading.key, transposed, weights)


def _summed(reading: Reading, combine: Combination) -> Float[Array, ""]:
    """``|sum_h G_h^T F_h|``."""
    # From the inside out, so that no product of a head is d by d.
    inner = jnp.einsum("hdk,hde->hke", reading.key, combine.values)  # (H, d_h, d_v)
    inner = jnp.einsum("hke,hef->hkf", inner, combine.out)  # (H, d_h, d)
    return reading.scale * spectral_norm(jnp.einsum("hdk,hkf->df", reading.query, inner))
