"""Layers of backbones at a given input: what they give, and the norms of their Jacobians' blocks there.

Theory, sections 5.3 and 5.4.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax._layer_specs import AttentionSpec, DictionarySpec, FeedForwardSpec, LayerSpec
from poolax._numerics import zero_masked
from poolax.attention import L2, Kind
from poolax.bounds._ball_dictionary import dictionary_at
from poolax.bounds._kernels import Kernels, read_kernels
from poolax.bounds._linalg import spectral_norm
from poolax.bounds._local_blocks import attention_blocks, blocks_of_row
from poolax.bounds._local_norms import NormAt, norm_at
from poolax.bounds._no_bound import NoBoundError
from poolax.bounds._rebuilt import attention_layer, feed_forward_layer, with_biases


@dataclasses.dataclass(frozen=True)
class Around:
    """What stands around a layer's branch at given tokens, as parts that share it read it.

    Attributes:
        inner: What enters the branch.
        before: The norm before it.
        scale: What the branch is multiplied with.
        kept: What the residual connection keeps: one or nothing.
    """

    inner: Float[Array, "n d"]
    before: NormAt
    scale: Any
    kept: float

    @classmethod
    def of(cls, spec: LayerSpec, x: Float[Array, "n d"], real: Bool[Array, " n"]) -> "Around":
        """Of a layer at ``x``."""
        inner, before = norm_at(spec.norm_before, x)
        scale = 1.0 if spec.residual_scale is None else jnp.asarray(spec.residual_scale, x.dtype)
        kept = 1.0 if spec.residual and spec.branch is not None else 0.0
        return cls(zero_masked(inner, real), before, scale, kept)

    def summed(self, x, out):
        """What comes out of the branch, with the residual connection."""
        return x + out if self.kept else out

    def block(self, index, block):
        """A branch's block on the diagonal, with the norm before it and the residual connection."""
        kept = self.kept * jnp.eye(block.shape[-1], dtype=block.dtype)
        return kept + self.before.matrix(index) @ block


def layer_at(spec: LayerSpec, x, attention, real, with_branch):
    """The layer's output at ``x``, its block norms, and logarithms of its parts' own constants."""
    around = Around.of(spec, x, real)
    if isinstance(spec.branch, AttentionSpec):
        branch = attention_at(spec, around, attention, real)
        out, blocks_of = branch.out, branch.blocks
    else:
        out, blocks_of = _token_layer(spec.branch, around.inner, real, around.scale)
    result, after = norm_at(spec.norm_after, around.summed(x, out))

    def whole(index, block):
        # Rows are changed by the norm before, the branch and the residual, then the norm behind.
        return around.block(index, block) @ after.matrix(index)

    # Off the diagonal there is no residual, and the norms count by their slopes: (n, n).
    steepest = around.before.slopes[None, :] * after.slopes[:, None]
    matrix = blocks_of(whole)
    matrix = jnp.where(jnp.eye(x.shape[0], dtype=bool), matrix, steepest * matrix)
    branch = jnp.full((), jnp.nan, x.dtype)
    if with_branch:
        branch = spectral_norm(blocks_of(None) * (real[:, None] & real[None, :]))
    norm = jnp.max(jnp.where(real, around.before.slopes * after.slopes, 0))
    return result, matrix, jnp.log(branch), jnp.log(norm)


@dataclasses.dataclass(frozen=True)
class AttentionAt:
    """An attention layer at given tokens.

    Attributes:
        kind: Kind of attention.
        kernels: Kernels, the output's with the branch's scale.
        seen: The same, the output's as a norm behind sees it, which may see nothing of means.
        inner: Tokens.
        weights: Attention there.
        options: What else :func:`attention_blocks` takes.
        out: What comes out.
    """

    kind: Kind
    kernels: Kernels
    seen: Kernels
    inner: Float[Array, "n d"]
    weights: Float[Array, "H n n"]
    options: dict[str, Any]
    out: Float[Array, "n d"]

    def blocks(self, after) -> Float[Array, "n n"]:
        """Norms of blocks, on the diagonal of what ``after`` makes of them."""
        kernels = self.kernels if after is None else self.seen
        return attention_blocks(
            self.kind, kernels, self.inner, self.weights, after=after, **self.options
        )

    def rows(self) -> Callable[[Any], Float[Array, "n d d"]]:
        """The blocks of one output token, by its index, as a norm behind sees them."""
        return blocks_of_row(self.kind, self.seen, self.inner, self.weights, **self.options)


def attention_at(spec: LayerSpec, around: Around, attention, real) -> AttentionAt:
    """An attention layer with the attention that a backbone has there."""
    branch: Any = spec.branch
    kind, params, scale = branch.kind, branch.params, around.scale
    kernels = read_kernels(params, has_key=not isinstance(kind, L2))
    # The layer itself, but with the maps of the backbone, whose logits may have had more added to them.
    use_out_bias = params["out"].get("bias") is not None
    layer = attention_layer(kind, params, use_out_bias=use_out_bias)
    filled = with_biases(params, bare=() if use_out_bias else ("out",))
    out: Any = layer.apply({"params": filled}, around.inner, weights=attention)  # (n, d)
    scaled = seen = kernels.out * scale
    if spec.norm_after is not None and spec.norm_after.kind in ("layer", "center"):
        # The norm behind sees nothing of the mean of what comes out.
        seen = scaled - jnp.mean(scaled, axis=-1, keepdims=True)
    turn = None
    if branch.positions is not None:
        count = jnp.sum(real)
        turn = functools.partial(branch.positions, lengths=count)
    return AttentionAt(
        kind=kind,
        kernels=dataclasses.replace(kernels, out=scaled),
        seen=dataclasses.replace(kernels, out=seen),
        inner=around.inner,
        weights=attention,
        options={"value_bias": kernels.by_head(params["value"].get("bias")), "turn": turn},
        out=zero_masked(out * scale, real),
    )


def _token_layer(branch, x, real, scale):
    """Output of a layer that maps each token alone, and a function that gives its block norms."""
    out, jacobian, _ = tokens_at(branch, x)

    def blocks_of(after):
        def norm(index):
            block = jacobian(index) * scale
            return spectral_norm(block if after is None else after(index, block))

        return jnp.diag(jax.lax.map(norm, jnp.arange(x.shape[0])))

    return zero_masked(scale * out, real), blocks_of


def tokens_at(branch, x):
    """Output of a layer that maps each token alone, its Jacobian at a token, and its hidden units."""
    if branch is None:
        identity = jnp.eye(x.shape[-1], dtype=x.dtype)
        return x, lambda index: identity, {}
    if isinstance(branch, DictionarySpec):
        return dictionary_at(branch, x)
    if not isinstance(branch, FeedForwardSpec):
        raise NoBoundError(
            f"layers: expected attention or feed-forward layers, got {type(branch).__name__}"
        )
    kernels = {name: jnp.asarray(part["kernel"]) for name, part in branch.params.items()}
    layer = feed_forward_layer(branch.activation, kernels)
    applied: Any = layer.apply(
        {"params": with_biases(branch.params)},
        x,
        capture_intermediates=lambda part, _: part.name in ("gate", "hidden"),
        mutable="intermediates",
    )
    out, between = applied
    middle = {name: calls["__call__"][0] for name, calls in between["intermediates"].items()}  # (n, m)
    pre = middle["gate" if "gate" in middle else "hidden"]
    active, slopes = jax.jvp(branch.activation, (pre,), (jnp.ones_like(pre),))  # (n, m) each

    def jacobian(index):
        # W_1 diag(act') W_2, hidden units as columns: (d, m) by (m, d).
        return (kernels["hidden"] * slopes[index][None]) @ kernels["out"]

    def gated_jacobian(index):
        # The product rule for act(x W_g) * (x W_h).
        through_gate = kernels["gate"] * (slopes * middle["hidden"])[index][None]
        through_hidden = kernels["hidden"] * active[index][None]
        return (through_gate + through_hidden) @ kernels["out"]

    return out, gated_jacobian if "gate" in middle else jacobian, middle
