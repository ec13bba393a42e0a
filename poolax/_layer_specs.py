"""Descriptions of a backbone's layers, which backbones give of themselves and bounds read."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import struct
from jaxtyping import Array, Float


@struct.dataclass
class NormSpec:
    """A norm of the token width.

    Attributes:
        kind: ``"layer"``, ``"rms"``, ``"center"``, or ``"affine"`` where tokens are scaled and
            shifted alone, as by batch norm at inference.
        scale: Scale, shape ``(d,)``.
        bias: Shift, shape ``(d,)``, or ``None``.
        eps: What is added to the variance, or to the mean square; 0 for CenterNorm and affine maps.
    """

    kind: str = struct.field(pytree_node=False)
    scale: Float[Array, " d"]
    bias: Float[Array, " d"] | None = None
    eps: float = struct.field(pytree_node=False, default=0.0)


@struct.dataclass
class AttentionSpec:
    """An attention layer.

    Attributes:
        kind: ``attention.DotProduct``, ``L2`` or ``Cosine``.
        params: Parameters as :class:`poolax.attention.MultiHeadAttention` holds them.
        rotary: Whether positions are rotary.
        rotary_scale: Factor of turned queries and of turned keys.
        positions: Turns the heads' features ``(n, H, d_h)`` by their positions; ``None`` unless rotary.
        causal: Whether a token sees only what stands before it.
        window: Number of keys that a query sees in a sliding window; ``None`` if it sees all.
        partition: Number of tokens of the windows into which the tokens are cut; ``None`` if they
            are not.
        padded: Whether zero tokens, which lie outside the hull of the others, are seen as well.
        query_key_eps: Of the norms of queries and keys, whose scales are among ``params``; ``None``
            without.
        query_key_turned: Whether they are normalised once they have turned.
        query_growth: Growth of queries by their positions; ``None`` if they do not grow.
        soft_cap: What the logits are capped at by ``tanh``; ``None`` if they are not.
        inner_norm_eps: Of the LayerNorm of all heads side by side before the output projection, whose
            scale and bias are among ``params``; ``None`` without.
    """

    kind: Any = struct.field(pytree_node=False)
    params: Mapping[str, Any]
    rotary: bool = struct.field(pytree_node=False, default=False)
    rotary_scale: float = struct.field(pytree_node=False, default=1.0)
    positions: Any = struct.field(pytree_node=False, default=None)
    causal: bool = struct.field(pytree_node=False, default=False)
    window: int | None = struct.field(pytree_node=False, default=None)
    partition: int | None = struct.field(pytree_node=False, default=None)
    padded: bool = struct.field(pytree_node=False, default=False)
    query_key_eps: float | None = struct.field(pytree_node=False, default=None)
    query_key_turned: bool = struct.field(pytree_node=False, default=False)
    query_growth: Any = struct.field(pytree_node=False, default=None)
    soft_cap: float | None = struct.field(pytree_node=False, default=None)
    inner_norm_eps: float | None = struct.field(pytree_node=False, default=None)


@struct.dataclass
class FeedForwardSpec:
    """A feed-forward layer with a hidden layer.

    Attributes:
        params: Parameters as :class:`poolax.blocks.FeedForward` holds them, or
            :class:`poolax.blocks.GatedFeedForward` where there is a ``gate``.
        activation: The activation.
        inner_norm_eps: Of the LayerNorm before the last linear map, whose scale and bias are among
            ``params``; ``None`` without.
    """

    params: Mapping[str, Any]
    activation: Callable[[Array], Array] = struct.field(pytree_node=False)
    inner_norm_eps: float | None = struct.field(pytree_node=False, default=None)


@struct.dataclass
class DictionarySpec:
    """Attention of each token alone on a dictionary, as latent attention has it.

    Attributes:
        keys: What the logits change by with a token, shape ``(H, m, d)``.
        values: What is read, behind the output projection, shape ``(H, m, d)``.
    """

    keys: Float[Array, "H m d"]
    values: Float[Array, "H m d"]


@struct.dataclass
class ConvolutionSpec:
    """A depth-wise convolution with an activation and, in some, a linear map with another.

    Attributes:
        params: ``depthwise`` with a ``kernel (k, k, d)`` and ``bias``; ``pointwise`` with a ``kernel
            (d, d)`` and ``bias`` or absent.
        activation: The activation.
    """

    params: Mapping[str, Any]
    activation: Callable[[Array], Array] = struct.field(pytree_node=False)


@struct.dataclass
class MergeSpec:
    """Neighbouring tokens side by side, and their linear map to one token.

    Attributes:
        params: ``kernel (k d, d')``; the norm before it acts on the width ``k d``.
        num_merged: Number ``k`` of tokens that become one.
        padded: Whether zero tokens are among them.
    """

    params: Mapping[str, Any]
    num_merged: int = struct.field(pytree_node=False)
    padded: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class LayerSpec:
    """One layer of a backbone, as the bounds read it, in the order in which the layers act.

    ``x`` becomes ``norm_after(x + residual_scale * norm_branch(branch(norm_before(x))))``, without the
    ``x +`` where there is no residual connection, and without what is ``None``.

    Attributes:
        name: Where the layer stands, such as ``"block_0/attention"``.
        branch: What the layer does between its norms; ``None`` for a norm alone.
        norm_before: Norm of what enters the branch.
        norm_after: Norm of the sum.
        norm_branch: Norm of what comes out of the branch.
        residual: Whether there is a residual connection.
        residual_scale: What the branch is multiplied with, shape ``(d,)``; ``None`` for one.
    """

    name: str = struct.field(pytree_node=False)
    branch: AttentionSpec | FeedForwardSpec | DictionarySpec | ConvolutionSpec | MergeSpec | None = None
    norm_before: NormSpec | None = None
    norm_after: NormSpec | None = None
    norm_branch: NormSpec | None = None
    residual: bool = struct.field(pytree_node=False, default=True)
    residual_scale: Float[Array, " d"] | None = None
