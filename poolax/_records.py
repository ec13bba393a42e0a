"""Records of results: frozen pytrees whose numbers are leaves and whose names are static."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from poolax._checks import check_values


@struct.dataclass
class Domain:
    """Where a bound holds: tokens with ``|x_i| <= radius`` and ``|x_i - x_j| <= 2 spread``.

    Attributes:
        radius: Largest token norm.
        spread: Half of the largest distance between two tokens of one sequence.
    """

    radius: Float[Array, ""] | float
    spread: Float[Array, ""] | float


@struct.dataclass
class TokenRange:
    """All numbers of valid tokens from ``low`` to ``high``, both included.

    A padded batch holds sequences of several lengths. A bound taken at the longest does not hold
    for the shorter ones, whose average moves more; a bound for a range holds for every length in
    it.

    Attributes:
        low: Fewest valid tokens, at least one.
        high: Most valid tokens.
    """

    low: Int[ArrayLike, ""]
    high: Int[ArrayLike, ""]


@struct.dataclass
class ExpressivityBound:
    """Bound of the probability that an output moves by more than ``sigma``.

    Attributes:
        gamma: ``L epsilon / sigma`` (Markov), which may exceed 1 and is then vacuous.
        upper: ``min(1, gamma)``.
        certified_zero: Whether ``L epsilon <= sigma``, in which case the probability is exactly 0.
    """

    gamma: Float[Array, "*batch"]
    upper: Float[Array, "*batch"]
    certified_zero: Bool[Array, "*batch"]


@struct.dataclass
class AttentionBound:
    """Lipschitz bounds of one multi-head attention layer.

    Attributes:
        sequence: Of the whole map from tokens to tokens.
        per_token: Of one output token; ``None`` where nothing was published.
        mixing: The part that acts through the other tokens, ``S`` in ``|d out_i| <= S |dX| + B
            |dx_i|``; ``None`` where nothing was published.
        own: The part ``B`` that acts through the token itself; ``None`` likewise.
        method: ``"published"``, ``"sharp"`` or ``"tight"``.
        source: Where the formula comes from.
        mixing_largest: ``T`` in ``|d out_i| <= T max_k |dx_k| + B |dx_i|``; ``None`` where it is not
            known.
        pattern: What is known of which tokens see each other; see :func:`poolax.bounds.attention`.
    """

    sequence: Float[Array, ""]
    per_token: Float[Array, ""] | None
    mixing: Float[Array, ""] | None
    own: Float[Array, ""] | None
    method: str = struct.field(pytree_node=False)
    source: str = struct.field(pytree_node=False)
    mixing_largest: Float[Array, ""] | None = None
    pattern: str = struct.field(pytree_node=False, default="any")


@struct.dataclass
class PoolerBound:
    """How much a pooler lets its output move, for changes of the tokens of either kind.

    ``|d out| <= l2 |dZ|`` (Frobenius norm), ``|d out| <= l1 max_i |dz_i|``, and for a change that is a
    sum of two, ``|dz_i| <= s + t_i``: ``|d out| <= l1 s + l2 |t|``.

    Attributes:
        l2: Lipschitz constant, Euclidean norm of the output against Frobenius norm of the tokens.
        l1: How much of a change that is common to all rows arrives: if ``|dz_i| <= s`` for every row,
            then ``|d out| <= l1 s``.
        reads_one_token: Whether the output is one token as it is.
        linf: Largest ``c_i`` where ``|d out| <= sum_i c_i |dz_i|`` with ``|c|_2 <= l2`` and ``|c|_1 <=
            l1``; ``None`` where there are no such coefficients, as for max.
        selects: Whether each entry of the output is that entry of a token, of ``l1^2`` tokens at most.
    """

    l2: Float[ArrayLike, ""]
    l1: Float[ArrayLike, ""]
    reads_one_token: bool = struct.field(pytree_node=False, default=False)
    linf: Float[ArrayLike, ""] | None = None
    selects: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class Bound:
    """Lipschitz bound of a pooled block, with what it is made of.

    ``lipschitz = pooling_factor * norm_factor * c1 * c2``.

    Attributes:
        lipschitz: The bound.
        log_lipschitz: Its natural logarithm, which does not overflow.
        attention: Lipschitz bound of the attention as the pooler sees it.
        c1: ``1 + attention``.
        c2: ``1 +`` Lipschitz bound of the feed-forward layer.
        norm_factor: Product of the norms' Lipschitz constants.
        pooling_factor: Factor of the pooler.
        method: ``"published"``, ``"sharp"``, ``"tight"`` or ``"local"``.
        source: Where the formula comes from.
    """

    lipschitz: Float[Array, ""]
    log_lipschitz: Float[Array, ""]
    attention: Float[Array, ""]
    c1: Float[Array, ""]
    c2: Float[Array, ""]
    norm_factor: Float[Array, ""]
    pooling_factor: Float[Array, ""]
    method: str = struct.field(pytree_node=False)
    source: str = struct.field(pytree_node=False)

    def gamma(
        self, epsilon: Float[ArrayLike, "*batch"], sigma: Float[ArrayLike, "*batch"]
    ) -> ExpressivityBound:
        """Bound the expressivity: how often a change of size ``epsilon`` moves the output far.

        ``E = P(|f(X) - f(X')| > sigma)`` for a neighbour with ``|X - X'| <= epsilon`` (Frobenius
        norm) satisfies ``E <= L epsilon / sigma`` by Markov's inequality, and ``E = 0`` where
        ``L epsilon <= sigma``. So a value below one always comes with certainty: a bound from one
        global constant is either vacuous or exact.

        Both ``X`` and ``X'`` have to lie in the domain that the bound was taken on. If only ``X`` is
        known to lie in ``(radius, spread)``, take the bound on ``(radius + epsilon, spread + epsilon /
        sqrt(2))``.

        Args:
            epsilon: Size of the change, at least 0.
            sigma: Distance of the outputs that counts as a move, above 0.

        Returns:
            ``gamma``, ``upper`` and ``certified_zero``.

        Raises:
            ValueError: if a concrete ``epsilon`` is negative or not finite, or a concrete ``sigma``
                not positive and finite.

        Reference:
            "Pool Me Wisely" (Ennadir et al., NeurIPS 2025), Definition 4.1 and Theorem 4.2.
        """
        check_values("epsilon", epsilon, at_least=0.0)
        check_values("sigma", sigma, above=0.0)
        # An infinite constant times no change is no move.
        moved = jnp.where(jnp.asarray(epsilon) == 0, 0, self.lipschitz * epsilon)
        gamma = moved / sigma
        return ExpressivityBound(gamma, jnp.minimum(gamma, 1.0), moved <= sigma)


@struct.dataclass
class NormEstimate:
    """Estimate of a Jacobian's spectral norm; a lower bound of it up to rounding.

    Attributes:
        value: The estimate.
        steps: Steps taken, each one product with the Jacobian and one with its transpose.
        converged: Whether the residual fell below the tolerance. A zero Jacobian has converged.
        residual: ``|J^T J v - value^2 v| / value^2`` at the last direction ``v``.
    """

    value: Float[Array, ""]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]
    residual: Float[Array, ""]


@struct.dataclass
class SearchResult:
    """Largest local Jacobian norm that a search found; a lower bound of the Lipschitz constant.

    Attributes:
        value: The largest norm; with a bound, the norm where the ratio is largest.
        x: The input where it was found.
        per_restart: The largest norm, or with a bound the largest ratio, that each restart found, shape
            ``(num_restarts,)``.
        variables: The variables where it was found; ``None`` if there are none to search over.
        ratio: ``value / bound(variables)``; ``None`` without a bound.
    """

    value: Float[Array, ""]
    x: Float[Array, "..."]
    per_restart: Float[Array, " restarts"]
    variables: Any = None
    ratio: Float[Array, ""] | None = None


@struct.dataclass
class ExpressivityEstimate:
    """Monte Carlo estimate of ``P(|f(X) - f(X')| > sigma)`` with a confidence interval.

    Attributes:
        probability: The estimate.
        low: Lower end of the interval.
        high: Upper end of the interval.
        mean_distance: Mean of ``|f(X) - f(X')|``.
        num_inputs: Number of inputs, which are the sampling unit of the interval.
    """

    probability: float
    low: float
    high: float
    mean_distance: float
    num_inputs: int = struct.field(pytree_node=False)


@struct.dataclass
class NoiseCurve:
    """Mean distance of outputs against the size of Gaussian noise on the input.

    Attributes:
        epsilon: Root mean square norm of the noise, shape ``(k,)``.
        mean: Mean of ``|f(X) - f(X')|`` over inputs and perturbations, shape ``(k,)``.
        low: Lower end of the mean's confidence interval over inputs, shape ``(k,)``.
        high: Upper end, shape ``(k,)``.
    """

    epsilon: Float[Array, " k"]
    mean: Float[Array, " k"]
    low: Float[Array, " k"]
    high: Float[Array, " k"]


@struct.dataclass
class TokenStates:
    """What a backbone makes of a batch of inputs.

    Attributes:
        states: Token states, shape ``(*batch, n, d)``.
        mask: True at real tokens, shape ``(*batch, n)``; ``None`` if all are real.
        num_prefix: Number of tokens in front that stand for no part of the input (CLS, registers).
        weights: Attention of each layer, shape ``(*batch, H, n, n)`` each, or by window
            ``(*batch, windows, H, m, m)``; ``None`` unless asked for.
    """

    states: Float[Array, "*batch n d"]
    mask: Bool[Array, "*batch n"] | None
    num_prefix: int = struct.field(pytree_node=False)
    weights: tuple[Float[Array, "*batch H n n"], ...] | None = None


@struct.dataclass
class NormSpec:
    """A norm of the token width.

    Attributes:
        kind: ``"layer"``, ``"rms"`` or ``"center"``.
        scale: Scale, shape ``(d,)``.
        bias: Shift, shape ``(d,)``, or ``None``.
        eps: What is added to the variance, or to the mean square; 0 for CenterNorm.
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


@struct.dataclass
class FeedForwardSpec:
    """A feed-forward layer with a hidden layer.

    Attributes:
        params: Parameters as :class:`poolax.blocks.FeedForward` holds them, or
            :class:`poolax.blocks.GatedFeedForward` where there is a ``gate``.
        activation: The activation.
    """

    params: Mapping[str, Any]
    activation: Callable[[Array], Array] = struct.field(pytree_node=False)


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

    ``x`` becomes ``norm_after(x + residual_scale * branch(norm_before(x)))``, without the ``x +`` where
    there is no residual connection, and without what is ``None``.

    Attributes:
        name: Where the layer stands, such as ``"block_0/attention"``.
        branch: What the layer does between its norms; ``None`` for a norm alone.
        norm_before: Norm of what enters the branch.
        norm_after: Norm of the sum.
        residual: Whether there is a residual connection.
        residual_scale: What the branch is multiplied with, shape ``(d,)``; ``None`` for one.
    """

    name: str = struct.field(pytree_node=False)
    branch: AttentionSpec | FeedForwardSpec | ConvolutionSpec | MergeSpec | None = None
    norm_before: NormSpec | None = None
    norm_after: NormSpec | None = None
    residual: bool = struct.field(pytree_node=False, default=True)
    residual_scale: Float[Array, " d"] | None = None


@struct.dataclass
class LedgerRow:
    """What one layer does to changes and to the domain.

    Attributes:
        name: Where the layer stands.
        log_branch: Logarithm of the Lipschitz constant of the attention, feed-forward or other layer
            between its norms; 0 where there is none.
        log_norm: Logarithm of the Lipschitz constant of its norms.
        log_factor: Logarithm of the Lipschitz constant of the whole layer, residual included.
        radius_in: Largest norm of a token that comes in.
        spread_in: Half of the largest distance of two tokens that come in.
        radius_out: Largest norm of a token that comes out.
        spread_out: Half of the largest distance of two tokens that come out.
        num_tokens: Largest number of tokens that come in.
    """

    name: str = struct.field(pytree_node=False)
    log_branch: Float[Array, ""]
    log_norm: Float[Array, ""]
    log_factor: Float[Array, ""]
    radius_in: Float[ArrayLike, ""]
    spread_in: Float[ArrayLike, ""]
    radius_out: Float[ArrayLike, ""]
    spread_out: Float[ArrayLike, ""]
    num_tokens: Float[ArrayLike, ""]


@struct.dataclass
class Ledger:
    """Lipschitz bound of a backbone, from its embeddings to its token states, layer by layer.

    Attributes:
        rows: One row for each layer, in the order in which they act; the pooler's last if there is one.
        log_lipschitz: Logarithm of the bound of the whole, which does not overflow: the product of all
            factors, or for a local ledger less.
        domain: Domain of the token states.
        method: ``"sharp"``, ``"tight"`` or ``"local"``.
        states: Token states, for a local ledger.
    """

    rows: tuple[LedgerRow, ...]
    log_lipschitz: Float[Array, ""]
    domain: Domain
    method: str = struct.field(pytree_node=False)
    states: Float[Array, "n d"] | None = None

    @property
    def lipschitz(self) -> Float[Array, ""]:
        """The product; infinite where it exceeds the range of its dtype."""
        return jnp.exp(self.log_lipschitz)
