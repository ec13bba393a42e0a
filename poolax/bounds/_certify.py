"""Certified radii of heads: how far the token states of an input may move before its class can change.

Theory, sections 9.2 to 9.4.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int

from poolax._checks import (
    broadcast_mask,
    check_all_finite,
    check_choice,
    check_finite,
    check_instance,
    check_tokens,
    is_concrete,
)
from poolax._numerics import accumulation_dtype, at_highest_precision, safe_norm, zero_masked
from poolax._threads import on_one_thread
from poolax.bounds._certify_max import max_radius
from poolax.bounds._certify_query import lowest_score
from poolax.bounds._domain import domain_of
from poolax.bounds._pooling import pooler as pooler_bound
from poolax.bounds._reach import GEOMETRIES
from poolax.pooling import (
    AveragePool,
    ConcatPool,
    FirstPool,
    HybridPool,
    LastPool,
    LayerMixPool,
    MaxPool,
    Pooler,
    PositionPool,
    ProjectedPool,
    QueryAttentionPool,
    SkipPool,
    SqrtPool,
    SumPool,
    WeightedAveragePool,
    parts_of,
)
from poolax.records import Certificate

_LINEAR = (
    FirstPool,
    LastPool,
    AveragePool,
    SumPool,
    SqrtPool,
    PositionPool,
    WeightedAveragePool,
)
# Linear where what they are made of is.
_LINEAR_AROUND = (HybridPool, ConcatPool, SkipPool, LayerMixPool)
# Radii from 2^-40 to 2^40 of a scale, to six digits.
_OCTAVES, _HALVINGS = 40.0, 28


@on_one_thread
@at_highest_precision
def certify(
    model: Pooler,
    variables: Mapping[str, Any],
    x: Float[ArrayLike, "*batch n d"],
    labels: Int[ArrayLike, "*batch"],
    *,
    mask: Bool[ArrayLike, "*#batch n"] | None = None,
    geometry: str = "frobenius",
) -> Certificate:
    r"""How far token states may move before the class that a head gives them can change.

    The head is a pooler and a linear layer, ``logits = pooler(x) W + b``. For a label ``y`` and each
    other class ``j`` the difference of logits is ``u . pooler(x)`` plus a constant, ``u`` the
    difference of two columns of ``W``; the radius is the largest that keeps all of them positive, or
    less:

    - linear poolers: margin over the dual norm of the difference's gradient, exactly;
    - max: what lowering or raising maxima costs, exactly in the Frobenius norm, and at most a little
      less than the largest radius for ``"tokens"``;
    - query attention: the lowest quotient of sums over tokens, each term at its least, nearly exactly
      for ``"tokens"`` with one query of one head; slices are taken apart;
    - all others: the radius at which ``|u|`` times the bound of :func:`pooler` uses the margin up.

    Args:
        model: The pooler.
        variables: Parameters ``"output"``, a ``kernel (d_out, k)`` and, if it has one, a ``bias (k,)``,
            and ``"pooler"`` where the pooler has any, as trained heads have them.
        x: Token states, shape ``(*batch, n, d)``.
        labels: Classes from 0 to ``k - 1``, shape ``(*batch,)``.
        mask: True at real tokens, which alone move, broadcastable to ``(*batch, n)``; ``None`` if all
            are real.
        geometry: What is measured of a change: ``"frobenius"`` its norm, ``"tokens"`` the largest norm
            of a token's change.

    Returns:
        The certificate: every change of norm below ``radius`` leaves the label's logit the largest. 0
        where it is not the largest at ``x``. Rounding in the logits is subtracted from the margin.

    Raises:
        NoBoundError: for a pooler without a bound.
        ValueError: for missing variables, wrong shapes, dtypes or masks, labels out of range, or values
            that are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> variables = {"params": {"output": {"kernel": jnp.array([[1.0, -1.0]])}}}
        >>> states = jnp.array([[[3.0], [1.0]]])
        >>> labels = jnp.array([0])
        >>> print(certify(AveragePool(), variables, states, labels).radius.round(3))
        [2.828]
        >>> print(certify(AveragePool(), variables, states, labels, geometry="tokens").radius.round(3))
        [2.]

    Reference:
        Theory, sections 9.2 to 9.4; this library's own. The box of logits that a query's bound sharpens
        is that of Rezazadeh and Davoodi (2026).
    """
    check_instance("model", model, Pooler, "a Pooler")
    check_choice("geometry", geometry, GEOMETRIES)
    check_tokens("x", x)
    x = jnp.asarray(x)
    mask = broadcast_mask(mask, x.shape[:-1])
    check_finite("x", x, mask)
    params = variables.get("params", {}) if isinstance(variables, Mapping) else {}
    if "output" not in params:
        raise ValueError('variables: expected parameters "output" of a linear layer behind the pooler')
    check_all_finite("variables", params)
    labels = jnp.asarray(labels)
    classes = jnp.shape(params["output"]["kernel"])[-1]
    _check_labels(labels, x.shape[:-2], classes)
    dtype = accumulation_dtype(x)
    real = jnp.ones(x.shape[:-1], bool) if mask is None else mask
    radius = _radii(
        model,
        geometry,
        jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), dict(params)),
        zero_masked(x, mask).astype(dtype).reshape(-1, *x.shape[-2:]),
        real.reshape(-1, x.shape[-2]),
        labels.reshape(-1),
    )
    return Certificate(radius=radius.reshape(labels.shape), labels=labels, geometry=geometry)


def _check_labels(labels, shape, classes):
    if labels.shape != shape:
        raise ValueError(f"labels: expected shape {shape}, got {labels.shape}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels: expected an integer dtype, got {labels.dtype}")
    if is_concrete(labels):
        numbers = np.asarray(labels)
        bad = numbers[(numbers < 0) | (numbers >= classes)]
        if bad.size:
            raise ValueError(f"labels: expected classes from 0 to {classes - 1}, got {bad.flat[0]}")


@functools.partial(jax.jit, static_argnums=(0, 1))
def _radii(pooler, geometry, params, x, real, labels):
    kernel, bias = params["output"]["kernel"], params["output"].get("bias", 0.0)
    inner = {"params": params.get("pooler", {})}
    rounding = 64 * jnp.finfo(x.dtype).eps

    def of_one(one):
        z, real, label = one
        pooled = pooler.apply(inner, z, real)
        terms = pooled[:, None] * kernel
        logits = jnp.sum(terms, axis=0) + bias
        # What sums of this size may have lost.
        lost = rounding * (jnp.max(jnp.sum(jnp.abs(terms), axis=0)) + jnp.max(jnp.abs(logits)))
        margins = logits[label] - logits - lost
        directions = (kernel[:, label][:, None] - kernel).T  # (k, d_out)
        radii = jax.vmap(functools.partial(_radius, pooler, inner, geometry, z, real))(
            directions, jnp.maximum(margins, jnp.finfo(z.dtype).tiny)
        )
        others = jnp.arange(logits.shape[0]) != label
        radii = jnp.where(margins > 0, jnp.where(jnp.isnan(radii), 0, radii), 0)
        return jnp.min(radii, initial=jnp.inf, where=others) * (1 - rounding)

    return jax.lax.map(of_one, (x, real, labels))


def _radius(pooler, variables, geometry, z, real, direction, margin):
    """How far tokens may move before ``direction @ pooler(z)`` can fall by ``margin``."""
    if is_linear(pooler):
        gradient = jax.grad(lambda z: direction @ pooler.apply(variables, z, real))(z)
        by_token = safe_norm(gradient, axis=-1)
        dual = safe_norm(by_token) if geometry == "frobenius" else jnp.sum(by_token)
        return jnp.where(dual > 0, margin / jnp.where(dual > 0, dual, 1), jnp.inf)
    if isinstance(pooler, MaxPool):
        return max_radius(z, real, direction, margin, geometry)
    if isinstance(pooler, QueryAttentionPool) and not pooler.full:
        falls = _query_falls(variables["params"], z, real, direction, geometry)
    else:
        falls = _bounded_falls(pooler, variables, z, real, direction, geometry)
    return _largest(lambda epsilon: falls(epsilon) < margin, margin, direction)


def is_linear(pooler: Pooler) -> bool:
    """Whether what is pooled is a fixed linear function of the tokens, up to a constant."""
    if isinstance(pooler, _LINEAR):
        return True
    around = isinstance(pooler, _LINEAR_AROUND)
    if isinstance(pooler, ProjectedPool):
        around = pooler.activation is None
    return around and all(map(is_linear, parts_of(pooler)))


def _largest(is_safe, margin, direction):
    """The largest radius that is found to be safe, over 80 octaves."""
    size = safe_norm(direction)
    scale = margin / jnp.where(size > 0, size, 1)

    def halve(_, ends):
        low, high, found = ends
        middle = (low + high) / 2
        epsilon = scale * jnp.exp2(middle)
        safe = is_safe(epsilon)
        found = jnp.where(safe, jnp.maximum(found, epsilon), found)
        return jnp.where(safe, middle, low), jnp.where(safe, high, middle), found

    ends = jnp.asarray(-_OCTAVES, margin.dtype), jnp.asarray(_OCTAVES, margin.dtype)
    found = jax.lax.fori_loop(0, _HALVINGS, halve, (*ends, jnp.zeros_like(margin)))[2]
    return jnp.where(size > 0, found, jnp.inf)


def _query_falls(params, z, real, direction, geometry):
    """How much a score of query attention may fall at a radius: the falls of its slices together."""
    query, key, value = (params[name] for name in ("query", "key", "value"))
    width, slices = z.shape[-1], query.shape[0] * query.shape[1]
    along_logits = jnp.einsum("dhk,qhk->qhd", key, query) / jnp.sqrt(query.shape[-1])
    along_logits = along_logits.reshape(slices, width)
    parts = direction.reshape(slices, -1)
    along_values = jnp.einsum("dsv,sv->sd", value.reshape(width, slices, -1), parts)
    logits = jnp.where(real[None], along_logits @ z.T, -jnp.inf)  # (S, n)
    weights = jnp.where(real[None], jax.nn.softmax(logits, axis=-1), 0)
    values = along_values @ z.T
    start = jnp.sum(weights * values, axis=-1)

    def falls(epsilon):
        lowest = jax.vmap(lambda p, v, a, f: lowest_score(p, v, a, f, epsilon, geometry))(
            weights, values, along_logits, along_values
        )
        return jnp.sum(start - lowest)

    return falls


def _bounded_falls(pooler, variables, z, real, direction, geometry):
    """How much any score may fall at a radius, by the pooler's bound on the ball."""
    domain, count = domain_of(z, real), jnp.sum(real).astype(z.dtype)
    size = safe_norm(direction)
    # Two tokens move by at most sqrt(2) of the whole, or by twice what each does.
    wider = 1.0 if geometry == "tokens" else 2**-0.5

    def falls(epsilon):
        sizes = {"num_tokens": jnp.maximum(count, 1), "dim": z.shape[-1], "method": "tight"}
        bound = pooler_bound(pooler, variables, spread=domain.spread + wider * epsilon, **sizes)
        return size * epsilon * (bound.l1 if geometry == "tokens" else bound.l2)

    return falls
