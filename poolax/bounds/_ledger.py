"""Lipschitz bounds of whole backbones, layer by layer.

Theory, sections 7.1, 7.6 and 7.7.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from poolax._checks import check_choice, check_finite, check_instance
from poolax._geometry import GEOMETRIES
from poolax._layer_specs import (
    AttentionSpec,
    ConvolutionSpec,
    FeedForwardSpec,
    LayerSpec,
    MergeSpec,
    NormSpec,
)
from poolax._numerics import accumulation_dtype, at_highest_precision, safe_norm
from poolax._threads import on_one_thread
from poolax.attention import L2
from poolax.bounds._activations import activation_lipschitz
from poolax.bounds._attention_kernels import attention_of_kernels
from poolax.bounds._combine import combination
from poolax.bounds._domain import check_domain, token_range
from poolax.bounds._ffn import gated_lipschitz, two_layer_lipschitz
from poolax.bounds._kernels import read_normalised_kernels
from poolax.bounds._linalg import spectral_norm
from poolax.bounds._methods import PROVED
from poolax.bounds._modules import largest_growth
from poolax.bounds._no_bound import NoBoundError
from poolax.bounds._norms import norm_lipschitz, normalised_domain
from poolax.bounds._overflow import or_infinite
from poolax.bounds._propagation import attention_domain, residual
from poolax.records import Domain, Ledger, LedgerRow, TokenRange


@on_one_thread
@at_highest_precision
def ledger(
    layers: Iterable[LayerSpec],
    *,
    num_tokens: float | Array | TokenRange,
    radius: Float[ArrayLike, ""],
    spread: Float[ArrayLike, ""] | None = None,
    method: str = "sharp",
    geometry: str = "frobenius",
) -> Ledger:
    r"""Lipschitz bound of a backbone, from embeddings to token states, layer by layer.

    A layer ``norm_after(x + s * norm_branch(branch(norm_before(x))))`` has the constant

        ``c_after (1 + max|s| c_branch L_branch c_before)``,

    ``L_branch`` on the domain of what enters the branch, and the product over layers is taken in
    logarithms. The domain is propagated: attention gives averages of tokens, feed-forward layers change
    tokens by at most their constant, LayerNorm and RMSNorm give tokens of norm ``max|scale|
    sqrt(d)`` at most, whatever comes in. LayerNorm and RMSNorm have the constant ``max|scale| /
    sqrt(eps)``, which a token without variance attains; with the ``eps`` of pretrained models this
    dominates everything, which is why a ledger at given inputs (:func:`local_ledger`) stands beside
    this one.

    The tight method folds scale and shift of the norm before a layer into the layer's own matrices, so
    that large single scales do not count everywhere, and takes tight bounds of attention and
    feed-forward layers. At a fresh initialisation, whose scales are all equal, the bound has a kink:
    ``grad`` is finite there, and one of several slopes.

    Args:
        layers: Descriptions of the layers, as ``backbone.layer_specs(params)`` gives them. A generator
            is read one layer at a time, so that the parameters of one layer are held at once.
        num_tokens: Number of tokens, or a :class:`TokenRange`.
        radius: Largest norm of an embedding.
        spread: Half of the largest distance between two embeddings; ``None`` takes ``radius``.
        method: ``"sharp"`` or ``"tight"``.
        geometry: Norm of changes, of embeddings and of token states: ``"frobenius"``, or ``"tokens"``
            for the largest norm of a token's change.

    Returns:
        The ledger.

    Raises:
        NoBoundError: for a layer, activation or combination without a bound.
        ValueError: for no layers, parameters that are not finite, or numbers out of range.

    Example:
        >>> import jax
        >>> from poolax import backbones
        >>> config = backbones.ViTConfig(8, 4, 3, width=16, num_layers=2, num_heads=2, mlp_dim=24)
        >>> vit = backbones.ViT.init(config, jax.random.key(0))
        >>> table = ledger(vit.layer_specs(vit.params), num_tokens=5, radius=4.0)
        >>> [row.name for row in table.rows][:2]
        ['block_0/attention', 'block_0/ffn']
        >>> bool(table.log_lipschitz > 0)
        True

    Reference:
        Theory, sections 4.7, 4.9 and 7; this library's own.
    """
    check_choice("method", method, PROVED)
    check_choice("geometry", geometry, GEOMETRIES)
    check_domain(radius, spread, needed=True)
    tokens = token_range(num_tokens)
    dtype = jnp.result_type(float)
    domain = Domain(
        radius=jnp.asarray(radius, dtype),
        spread=jnp.asarray(jnp.minimum(radius, radius if spread is None else spread), dtype),
    )
    state = _State(domain=domain, tokens=tokens, scale=None, bias=None)
    rows, tight = [], method == "tight"
    for spec in layers:
        check_instance("layers", spec, LayerSpec, "LayerSpec records")
        row, state = _add_layer(spec, state, tight, geometry)
        rows.append(row)
    if not rows:
        raise ValueError("layers: expected at least one layer, got none")
    if state.scale is not None:
        # The last norm's scale has no layer behind it that it could be folded into.
        largest = jnp.log(jnp.max(jnp.abs(state.scale)))
        rows[-1] = rows[-1].replace(
            log_norm=rows[-1].log_norm + largest, log_factor=rows[-1].log_factor + largest
        )
    total = functools.reduce(jnp.add, [row.log_factor for row in rows])
    rounding = 64 * jnp.finfo(total.dtype).eps
    # A layer that gives zeros makes the product zero, whose logarithm no rounding changes.
    sizes = [jnp.where(jnp.isneginf(row.log_factor), 0, jnp.abs(row.log_factor)) for row in rows]
    rounding = rounding * (len(rows) + sum(sizes))
    table = Ledger(
        rows=tuple(rows),
        log_lipschitz=total + rounding,
        domain=state.outer_domain,
        method=method,
    )
    return or_infinite(table)


@dataclasses.dataclass(frozen=True)
class _State:
    """Tokens ``y * scale + bias`` with ``y`` in ``domain``; ``y`` themselves without a scale."""

    domain: Domain
    tokens: TokenRange
    scale: Float[Array, " d"] | None
    bias: Float[Array, " d"] | None

    @property
    def outer_domain(self) -> Domain:
        """The domain of the tokens themselves."""
        if self.scale is None:
            return self.domain
        largest = jnp.max(jnp.abs(self.scale))
        radius = largest * self.domain.radius + (0.0 if self.bias is None else safe_norm(self.bias))
        return Domain(radius=radius, spread=jnp.minimum(largest * self.domain.spread, radius))

    @property
    def largest_scale(self):
        """What changes of ``y`` are multiplied with at most."""
        return jnp.ones(()) if self.scale is None else jnp.max(jnp.abs(self.scale))


def _add_layer(spec: LayerSpec, state: _State, tight: bool, geometry: str):
    before, after = spec.norm_before, spec.norm_after
    inner, entering = jnp.ones(()), state
    if before is not None:
        if isinstance(spec.branch, MergeSpec):
            # The norm acts on the tokens side by side.
            merged = _side_by_side(state.outer_domain, spec.branch)
            entering = dataclasses.replace(state, domain=merged, scale=None, bias=None)
            outer = jnp.ones(())
        else:
            outer = state.largest_scale
        inner, entering = _normalise(before, entering, tight)
        inner = outer * inner
    lipschitz, branch_domain = jnp.ones(()), Domain(radius=jnp.zeros(()), spread=jnp.zeros(()))
    tokens = state.tokens
    if spec.branch is not None:
        lipschitz, branch_domain = _branch(
            spec.branch, entering, tight, geometry, has_norm=before is not None
        )
        if isinstance(spec.branch, MergeSpec):
            tokens = _merge_tokens(tokens, spec.branch.num_merged)
    if spec.norm_branch is not None:
        scale = _floating(spec.norm_branch.scale)
        inner = inner * norm_lipschitz(spec.norm_branch.kind, scale, spec.norm_branch.eps)
        branch_domain = normalised_domain(spec.norm_branch, branch_domain)
    through = lipschitz * inner
    if spec.residual_scale is not None:
        size = jnp.max(jnp.abs(spec.residual_scale))
        through = size * through
        branch_domain = Domain(size * branch_domain.radius, size * branch_domain.spread)
    if spec.branch is None:
        factor, domain = state.largest_scale, state.outer_domain
    elif spec.residual:
        factor = state.largest_scale + through
        domain = residual(state.outer_domain, branch_domain)
    else:
        factor, domain = through, branch_domain
    leaving = _State(domain=domain, tokens=tokens, scale=None, bias=None)
    norm = inner
    if after is not None:
        outer, leaving = _normalise(after, leaving, tight)
        norm, factor = norm * outer, factor * outer
    coming, going = state.outer_domain, leaving.outer_domain
    row = LedgerRow(
        name=spec.name,
        log_branch=jnp.log(lipschitz),
        log_norm=jnp.log(norm),
        log_factor=jnp.log(factor),
        radius_in=coming.radius,
        spread_in=coming.spread,
        radius_out=going.radius,
        spread_out=going.spread,
        num_tokens=state.tokens.high,
    )
    return row, leaving


def _normalise(norm: NormSpec, state: _State, tight: bool):
    """Constant of a norm and the tokens behind it; folded, the scale is left to the next layer."""
    check_finite("norm scale", norm.scale)
    scale = jnp.asarray(norm.scale, accumulation_dtype(norm.scale))
    bias = None if norm.bias is None else jnp.asarray(norm.bias, scale.dtype)
    unit = dataclasses.replace(norm, scale=jnp.ones_like(scale), bias=None)
    if not tight:
        domain = normalised_domain(
            dataclasses.replace(norm, scale=scale, bias=bias), state.outer_domain
        )
        factor = norm_lipschitz(norm.kind, scale, norm.eps)
        return factor, dataclasses.replace(state, domain=domain, scale=None, bias=None)
    domain = normalised_domain(unit, state.outer_domain)
    factor = norm_lipschitz(norm.kind, unit.scale, norm.eps)
    return factor, dataclasses.replace(state, domain=domain, scale=scale, bias=bias)


def _branch(branch, state: _State, tight: bool, geometry: str, *, has_norm: bool):
    """Lipschitz constant of a branch with respect to ``y`` of ``state``, and its output's domain."""
    eps = getattr(branch, "inner_norm_eps", None)
    if eps is not None:
        return _inner_normalised(branch, eps, state, tight, geometry)
    if isinstance(branch, AttentionSpec):
        return _attention(branch, state, tight, geometry)
    if isinstance(branch, FeedForwardSpec):
        return _feed_forward(branch, state, tight)
    if isinstance(branch, ConvolutionSpec):
        return _convolution(branch, state, geometry)
    if not isinstance(branch, MergeSpec):
        raise NoBoundError(f"branch: expected one whose bound is known, got {type(branch).__name__}")
    kernel = _floating(branch.params["kernel"])
    if state.scale is not None:
        kernel = state.scale[:, None] * kernel
    factor = spectral_norm(kernel)
    domain = state.domain if has_norm else _side_by_side(state.domain, branch)
    shift = 0.0 if state.bias is None else safe_norm(state.bias @ _floating(branch.params["kernel"]))
    # Tokens side by side change by the root of their number where each of them changes alike.
    together = 1.0 if geometry == "frobenius" else math.sqrt(branch.num_merged)
    domain = Domain(factor * domain.radius + shift, factor * domain.spread)
    return together * factor, domain


def _inner_normalised(
    branch: AttentionSpec | FeedForwardSpec, eps: float, state: _State, tight: bool, geometry: str
):
    """A layer up to its norm, with the identity as its last map; then the norm and the last map."""
    params = dict(branch.params)
    norm, last = params.pop("inner_norm"), params.pop("out")
    kernel = _floating(last["kernel"])
    rows = kernel.reshape(-1, kernel.shape[-1])  # (m, d)
    params["out"] = {"kernel": jnp.eye(len(rows), dtype=rows.dtype).reshape(*kernel.shape[:-1], -1)}
    before = dataclasses.replace(branch, params=params, inner_norm_eps=None)
    factor, domain = _branch(before, state, tight, geometry, has_norm=True)
    spec = NormSpec("layer", _floating(norm["scale"]), _floating(norm["bias"]), eps)
    check_finite("norm scale", spec.scale)
    domain, size = normalised_domain(spec, domain), spectral_norm(rows)
    factor = size * norm_lipschitz("layer", spec.scale, spec.eps) * factor
    return factor, Domain(size * domain.radius + safe_norm(_bias(last)), size * domain.spread)


def _attention(branch: AttentionSpec, state: _State, tight: bool, geometry: str):
    kind, params = branch.kind, branch.params
    metric_values = isinstance(kind, L2) and not kind.plain_values
    outer = jnp.ones(())
    kernels = read_normalised_kernels(
        params,
        has_key=not isinstance(kind, L2),
        eps=branch.query_key_eps,
        turned=branch.query_key_turned,
    )
    kernels = kernels.scaled_logits(branch.rotary_scale)
    growth = largest_growth(branch.query_growth, state.tokens)
    if growth is not None:
        kernels = kernels.scaled_queries(growth)
    domain, value_bias = state.domain, None
    if state.scale is not None:
        if metric_values or branch.padded:
            # Values that pass through the metric do not commute with a scale of the tokens, and zero
            # tokens are not zero before it.
            outer, domain = state.largest_scale, state.outer_domain
        else:
            kernels = kernels.folded(state.scale, state.bias)
            value_bias = state.bias
    if branch.padded:
        # Zero tokens are seen as well, as keys and in averages.
        domain = Domain(domain.radius, jnp.maximum(domain.spread, domain.radius / 2))
    low, high, pattern = state.tokens.low, state.tokens.high, "sequence"
    if branch.window is not None:
        high = jnp.minimum(jnp.asarray(high), branch.window)
        low, pattern = jnp.minimum(jnp.asarray(low), high), "any"
    if branch.partition is not None:
        high = jnp.asarray(branch.partition) if branch.padded else jnp.minimum(high, branch.partition)
        low = jnp.minimum(jnp.asarray(low), high)
    # Norms of large matrices are most of the work: once for the bound and for the domain.
    combine = combination(kernels, kind, tight=tight)
    bound = attention_of_kernels(
        kind,
        kernels,
        TokenRange(low, high),
        domain.radius,
        domain.spread,
        "tight" if tight else "sharp",
        pattern,
        rotary=branch.rotary,
        capped=branch.soft_cap is not None,
        grows=growth is not None,
        combine=combine,
    )
    reach = attention_domain(
        kind, params, domain, tight=tight, kernels=kernels, token_bias=value_bias, combine=combine
    )
    whole: Any = bound.sequence if geometry == "frobenius" else bound.each_token
    return outer * whole, reach


def _feed_forward(branch: FeedForwardSpec, state: _State, tight: bool):
    slope = activation_lipschitz(branch.activation)
    params = branch.params
    layers = {name: _floating(params[name]["kernel"]) for name in params}
    biases = {name: _bias(params[name]) for name in params}
    origin = jnp.zeros(layers["hidden"].shape[0], layers["hidden"].dtype)
    if state.bias is not None:
        origin = state.bias
    entering = ["hidden", "gate"] if "gate" in params else ["hidden"]
    for name in entering:
        biases[name] = biases[name] + origin @ layers[name]  # (m,)
        if state.scale is not None:
            layers[name] = state.scale[:, None] * layers[name]
    if "gate" in params:
        factor = gated_lipschitz(
            layers["gate"],
            layers["hidden"],
            layers["out"],
            slope,
            state.domain.radius,
            biases["gate"],
            biases["hidden"],
        )
        middle = branch.activation(biases["gate"]) * biases["hidden"]
    else:
        factor = two_layer_lipschitz(layers["hidden"], layers["out"], slope, tight=tight)
        middle = branch.activation(biases["hidden"])
    # What comes out for y = 0, from which the rest is as far as the constant allows: (m,) to (d,).
    shift = safe_norm(middle @ layers["out"] + biases["out"])
    domain = state.domain
    return factor, Domain(factor * domain.radius + shift, factor * domain.spread)


def _convolution(branch: ConvolutionSpec, state: _State, geometry: str):
    """Depth-wise convolution, activation and, in some, a linear map and another activation.

    By Young's inequality a channel's convolution is bounded by the sum of its absolute weights, and one
    output token by the sum over taps of the largest weight. Zeros stand beyond the edge, so that
    nothing is known of the spread but the radius.
    """
    slope = activation_lipschitz(branch.activation)
    depthwise = branch.params["depthwise"]
    kernel = _floating(depthwise["kernel"])
    factor = slope * jnp.max(jnp.sum(jnp.abs(kernel), axis=(0, 1)))
    reach = slope * jnp.sum(jnp.max(jnp.abs(kernel), axis=2)) * state.largest_scale
    domain = state.domain
    shift = slope * safe_norm(_bias(depthwise))
    if state.bias is not None:
        shift = shift + slope * jnp.sum(jnp.max(jnp.abs(kernel), axis=2)) * safe_norm(state.bias)
    factor = factor * state.largest_scale if geometry == "frobenius" else reach
    radius = reach * domain.radius + shift
    if "pointwise" in branch.params:
        pointwise = branch.params["pointwise"]
        size = slope * spectral_norm(_floating(pointwise["kernel"]))
        factor, radius = factor * size, radius * size + slope * safe_norm(_bias(pointwise))
    return factor, Domain(radius, radius)


def _side_by_side(domain: Domain, branch: MergeSpec) -> Domain:
    root = math.sqrt(branch.num_merged)
    spread = jnp.maximum(domain.spread, domain.radius / 2) if branch.padded else domain.spread
    return Domain(root * domain.radius, root * spread)


def _merge_tokens(tokens: TokenRange, count: int) -> TokenRange:
    # A side that does not divide is padded, with up to twice as many tokens for a strip of width one.
    low, high = jnp.asarray(tokens.low), jnp.asarray(tokens.high)
    return TokenRange(jnp.maximum(low / count, 1), jnp.maximum(jnp.ceil(high / 2), 1))


def _floating(array) -> Array:
    check_finite("parameters", array)
    return jnp.asarray(array, accumulation_dtype(array))


def _bias(layer: Mapping[str, Any]) -> Array:
    kernel = layer["kernel"]
    bias = layer.get("bias")
    return jnp.zeros(kernel.shape[-1], accumulation_dtype(kernel)) if bias is None else _floating(bias)
