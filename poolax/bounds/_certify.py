"""Certified radii of heads: how far the token states of an input may move before its class can change.

Theory, sections 9.2 to 9.4.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
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
from poolax._geometry import GEOMETRIES
from poolax._layer_specs import LayerSpec
from poolax._numerics import accumulation_dtype, at_highest_precision, zero_masked
from poolax._threads import on_one_thread
from poolax.blocks import TBM
from poolax.bounds._ball_tbm import attention_of, layers_of
from poolax.bounds._certify_heads import head_radius
from poolax.bounds._certify_layers import Head, layered_radius
from poolax.bounds._layer_inputs import checked_maps
from poolax.bounds._local_whole import formed_count
from poolax.pooling import Pooler
from poolax.records import Certificate


@on_one_thread
@at_highest_precision
def certify(
    model: Pooler | TBM,
    variables: Mapping[str, Any],
    x: Float[ArrayLike, "*batch n d"],
    labels: Int[ArrayLike, "*batch"],
    *,
    mask: Bool[ArrayLike, "*#batch n"] | None = None,
    geometry: str = "frobenius",
    layers: Iterable[LayerSpec] | None = None,
    weights: Sequence[Float[ArrayLike, "*batch H n n"]] | None = None,
) -> Certificate:
    r"""How far inputs of a head, a one-block model or a backbone may move before the class can change.

    The head is a pooler and a linear layer, ``logits = pooler(x) W + b``. For a label ``y`` and each
    other class ``j`` the difference of logits is ``u . pooler(x)`` plus a constant, ``u`` the
    difference of two columns of ``W``; the radius is the largest that keeps all of them positive, or
    less:

    - linear poolers: margin over the dual norm of the difference's gradient, exactly;
    - max: what lowering or raising maxima costs, exactly in the Frobenius norm, and at most a little
      less than the largest radius for ``"tokens"``;
    - query attention: the lowest quotient of sums over tokens, each term at its least, nearly exactly
      with one query of one head; several slices share the margin;
    - several slices, latent attention and mixtures: as below without layers, by their gradient and what
      it may change by, if that is more;
    - all others: the radius at which ``|u|`` times the bound of :func:`pooler` uses the margin up.

    With layers before the pooler, those of a :class:`poolax.blocks.TBM` or of a backbone, the lead over
    class ``j`` has at ``x`` a gradient ``g``, and on the ball of radius ``r`` none larger than

        ``L(r) = | |g_k| + sum_l (e_l(r) M_l(r))_k |``,

    ``e_l`` what layer ``l``'s derivative changes by on the ball, as the gradient behind it sees it, and
    ``M_l`` bounds of the blocks of the layers before it there. The lead falls by at most the integral
    of ``L``, and the radius is where that uses the margin up; or where the states may move as far as
    the head's radius, if that is larger. Norms of changes are of the tokens that enter the layers. Of
    inputs of up to 4,096 numbers products of layers are formed at ``x``, which gives far smaller
    ``M_l`` where there are several layers of attention: more work, and larger radii. Hidden units of a
    feed-forward layer right behind a first layer of attention are followed one by one, if tokens have
    128 numbers or fewer.

    Args:
        model: The pooler, or a one-block model.
        variables: Parameters ``"output"``, a ``kernel (d_out, k)`` and, if it has one, a ``bias (k,)``,
            and ``"pooler"`` where the pooler has any, as trained heads have them; beside them those of
            the block of a one-block model.
        x: Token states, shape ``(*batch, n, d)``; what enters the layers, where there are any.
        labels: Classes from 0 to ``k - 1``, shape ``(*batch,)``.
        mask: True at real tokens, which alone move, broadcastable to ``(*batch, n)``; ``None`` if all
            are real.
        geometry: What is measured of a change: ``"frobenius"`` its norm, ``"tokens"`` the largest norm
            of a token's change.
        layers: Descriptions of the layers before the pooler, as ``backbone.layer_specs(params)`` gives
            them; ``None`` for none.
        weights: Attention of every layer at ``x``, shape ``(*batch, H, n, n)`` each, as for
            :func:`local_ledger`.

    Returns:
        The certificate: every change of norm below ``radius`` leaves the label's logit the largest. 0
        where it is not the largest at ``x``. Rounding in the logits is subtracted from the margin.

    Raises:
        NoBoundError: for a pooler, activation or layer without a bound.
        ValueError: for layers beside a one-block model or that do not fit their attention, missing
            variables, wrong shapes, dtypes or masks, labels out of range, or values that are not
            finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from poolax.pooling import AveragePool
        >>> variables = {"params": {"output": {"kernel": jnp.array([[1.0, -1.0]])}}}
        >>> states = jnp.array([[[3.0], [1.0]]])
        >>> labels = jnp.array([0])
        >>> print(certify(AveragePool(), variables, states, labels).radius.round(3))
        [2.828]
        >>> print(certify(AveragePool(), variables, states, labels, geometry="tokens").radius.round(3))
        [2.]

    Reference:
        Theory, sections 9.2 to 9.5; this library's own. The box of logits that a query's bound sharpens
        is that of Rezazadeh and Davoodi (2026).
    """
    check_instance("model", model, Pooler | TBM, "a Pooler or a TBM")
    check_choice("geometry", geometry, GEOMETRIES)
    check_tokens("x", x)
    x = jnp.asarray(x)
    mask = broadcast_mask(mask, x.shape[:-1])
    check_finite("x", x, mask)
    params = variables.get("params", {}) if isinstance(variables, Mapping) else {}
    classes = _num_classes(params.get("output"))
    check_all_finite("variables", params)
    labels = jnp.asarray(labels)
    _check_labels(labels, x.shape[:-2], classes)
    dtype = accumulation_dtype(x)
    real = jnp.ones(x.shape[:-1], bool) if mask is None else mask
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), dict(params))
    flat = (
        zero_masked(x, mask).astype(dtype).reshape(-1, *x.shape[-2:]),
        real.reshape(-1, x.shape[-2]),
        labels.reshape(-1),
    )
    if isinstance(model, TBM):
        if layers is not None or weights is not None:
            raise ValueError("layers: expected None beside a TBM, which has its own")
        if not {"attention", "ffn", "norm1", "norm2"} <= set(params):
            raise ValueError("variables: expected parameters of a block, as TBM.init returns them")
        radius = _tbm_radii(model, geometry, params, *flat)
    elif layers is None:
        if weights is not None:
            raise ValueError("weights: expected None without layers, got attention maps")
        radius = _radii(model, geometry, params, *flat)
    else:
        maps = checked_maps(layers := list(layers), weights or (), x.shape)
        maps = [None if one is None else one.reshape(-1, *one.shape[-3:]) for one in maps]
        found = []
        for number, (tokens, kept, label) in enumerate(zip(*flat, strict=True)):
            count = formed_count(tokens, kept)
            kept = kept[:count]
            head_of = functools.partial(_leads_at, model, len(layers), params, kept, label)
            at = [None if of_layer is None else of_layer[number] for of_layer in maps]
            at = [None if of_layer is None else of_layer[:, :count, :count] for of_layer in at]
            found.append(layered_radius(layers, at, tokens[:count], kept, head_of, geometry))
        radius = jnp.stack(found) if found else jnp.zeros(0, dtype)
    return Certificate(radius=radius.reshape(labels.shape), labels=labels, geometry=geometry)


def _num_classes(output):
    kernel = output.get("kernel") if isinstance(output, Mapping) else None
    if kernel is None:
        raise ValueError('variables: expected parameters "output" of a linear layer behind the pooler')
    if isinstance(kernel, Mapping) or jnp.ndim(kernel) != 2:
        got = "parameters by name" if isinstance(kernel, Mapping) else f"shape {jnp.shape(kernel)}"
        raise ValueError(f"variables: expected an output kernel of shape (d_out, k), got {got}")
    return jnp.shape(kernel)[1]


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
    rounding = 64 * jnp.finfo(x.dtype).eps

    def of_one(one):
        z, real, label = one
        head = _leads(pooler, 0, params, real, label, z)
        radii = jax.vmap(functools.partial(head_radius, pooler, head.variables, geometry, z, real))(
            head.directions, jnp.maximum(head.margins, jnp.finfo(z.dtype).tiny)
        )
        radii = jnp.where(head.margins > 0, jnp.where(jnp.isnan(radii), 0, radii), 0)
        return jnp.min(radii, initial=jnp.inf, where=head.others) * (1 - rounding)

    return jax.lax.map(of_one, (x, real, labels))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _tbm_radii(model, geometry, params, x, real, labels):
    layers = layers_of(model, params, x.dtype)

    def of_one(one):
        tokens, real, label = one
        maps = [attention_of(model, params, tokens, real), None]
        head_of = functools.partial(_leads, model.pooler, len(layers), params, real, label)
        return layered_radius(layers, maps, tokens, real, head_of, geometry)

    return jax.lax.map(of_one, (x, real, labels))


def _leads(pooler, depth, params, real, label, z) -> Head:
    """By how much a label leads at token states, behind as many layers."""
    kernel, bias = params["output"]["kernel"], params["output"].get("bias", 0.0)
    inner = {"params": params.get("pooler", {})}
    pooled = pooler.apply(inner, z, real)
    terms = pooled[:, None] * kernel
    logits = jnp.sum(terms, axis=0) + bias
    # The classes behind the label, around; of one alone itself.
    count = logits.shape[0]
    others = (label + jnp.arange(1, max(count, 2))) % count
    # What sums of this size may have lost.
    rounding = 64 * (depth + 1) * jnp.finfo(z.dtype).eps
    lost = rounding * (jnp.max(jnp.sum(jnp.abs(terms), axis=0)) + jnp.max(jnp.abs(logits)))
    return Head(
        variables=inner,
        directions=(kernel[:, label][:, None] - kernel[:, others]).T,  # (k - 1, d_out)
        margins=logits[label] - logits[others] - lost,
        others=others != label,
        pooler=pooler,
    )


_leads_at = jax.jit(_leads, static_argnums=(0, 1))
