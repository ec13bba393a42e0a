"""Certified radii: how far an input may move before its class can change."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from poolax._checks import check_finite, check_floating, check_values, is_concrete
from poolax._numerics import accumulation_dtype, with_leading_axes


def certified_radius(
    logits: Float[ArrayLike, "*batch k"],
    labels: Int[ArrayLike, "*batch"],
    lipschitz: Float[ArrayLike, "*#batch"],
) -> Float[Array, "*batch"]:
    r"""Radius of the ball in which no change of the input changes the class.

    With ``L`` a Lipschitz constant of the map from inputs to logits and ``y`` the label,

        ``radius = (logit_y - max_{j != y} logit_j) / (sqrt(2) L)``,

    and 0 where the margin is not positive. Every change of norm *below* the radius leaves ``logit_y``
    the largest.

    *Proof.* ``logit_y - logit_j`` is the inner product of the logits with ``e_y - e_j``, a vector of
    norm ``sqrt(2)``, so that it is ``sqrt(2) L`` Lipschitz: a change of norm ``r`` lowers it by at most
    ``sqrt(2) L r``, which is less than the margin for every ``j`` if ``r`` is below the radius. It is
    attained by logits ``(x, -x) / sqrt(2)`` of one number, whose constant is 1.

    ``L`` has to hold on a convex set that contains the input and whatever it may become. A bound taken
    on a domain certifies against changes that stay in it; one taken on a domain enlarged by ``r``, to
    ``(radius + r, spread + r / sqrt(2))``, certifies the smaller of the result and ``r`` for every
    input of the domain before.

    Args:
        logits: Outputs of the classifier, shape ``(*batch, k)`` with ``k >= 2``.
        labels: True classes from 0 to ``k - 1``, shape ``(*batch,)``.
        lipschitz: ``L``, at least 0: one number, or one for each input. 0 is a constant classifier: its
            correct classes have an infinite radius.

    Returns:
        The radius in the norm of ``L``, rounded down, shape ``(*batch,)``. Rounding in the logits
        themselves is not covered. A label out of range gives NaN, and a constant that is negative or
        NaN gives 0, where they cannot be refused.

    Raises:
        ValueError: for shapes that do not fit, labels that are no integers or out of range, logits
            that are not floating or not finite, or a constant that is negative or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> logits = jnp.array([[3.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
        >>> print(certified_radius(logits, jnp.array([0, 2]), 2.0).round(3))
        [0.707 0.   ]

    Reference:
        Tsuzuku, Sato and Sugiyama, "Lipschitz-Margin Training" (NeurIPS 2018), Proposition 1; Theory,
        section 9.
    """
    _check(logits, labels, lipschitz)
    dtype = accumulation_dtype(logits)
    limits = jnp.finfo(dtype)
    # In double precision where that can be seen.
    known = np.asarray(lipschitz) if is_concrete(lipschitz) else jnp.asarray(lipschitz)
    positive, zero = jnp.asarray(known > 0), jnp.asarray(known == 0)
    logits, lipschitz = jnp.asarray(logits, dtype), jnp.asarray(lipschitz, dtype)
    # A constant that the dtype would round to zero is not one of zero.
    lipschitz = jnp.where(positive, jnp.maximum(lipschitz, limits.tiny), lipschitz)
    labels = jnp.asarray(labels)[..., None]
    others = with_leading_axes(jnp.arange(logits.shape[-1]), labels.ndim) != labels
    own = jnp.take_along_axis(logits, labels, axis=-1, mode="fill")[..., 0]
    # Of halves, for a difference of large logits overflows.
    largest = jnp.max(logits, axis=-1, initial=-jnp.inf, where=others)
    margin = jnp.maximum(own / 2 - largest / 2, 0)
    radius = math.sqrt(2) * (margin / jnp.where(positive, lipschitz, 1))
    # No more is certified than there are numbers for.
    radius = jnp.minimum(radius * (1 - 8 * limits.eps), limits.max)
    radius = jnp.where(zero & (margin > 0), jnp.inf, radius)
    # Nothing is certified by what is no constant.
    return jnp.where(positive | zero | jnp.isnan(margin), radius, 0)


def _check(logits, labels, lipschitz):
    shape = np.shape(logits)
    if len(shape) < 1 or shape[-1] < 2:
        raise ValueError(f"logits: expected shape (*batch, k) with k >= 2, got {shape}")
    check_floating("logits", logits)
    check_finite("logits", logits)
    if np.shape(labels) != shape[:-1]:
        raise ValueError(f"labels: expected shape {shape[:-1]}, got {np.shape(labels)}")
    dtype = jnp.result_type(labels)
    if not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(f"labels: expected an integer dtype, got {dtype}")
    if is_concrete(labels):
        with jax.ensure_compile_time_eval():
            numbers = np.asarray(labels)
        bad = numbers[(numbers < 0) | (numbers >= shape[-1])]
        if bad.size:
            raise ValueError(f"labels: expected classes from 0 to {shape[-1] - 1}, got {bad.flat[0]}")
    try:
        fits = np.broadcast_shapes(np.shape(lipschitz), shape[:-1]) == shape[:-1]
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"lipschitz: expected a shape that broadcasts to {shape[:-1]}, got {np.shape(lipschitz)}"
        )
    check_values("lipschitz", lipschitz, at_least=0.0)
