"""Poolers of probes on frozen models: scores without keys, gated, with positions, and hard maxima."""

from typing import Any, ClassVar, final

import flax.linen as nn
import jax.numpy as jnp

from poolax._checks import check_count, check_divides, check_learned_width
from poolax._numerics import accumulation_dtype, with_leading_axes, zero_masked
from poolax.pooling._base import Pooler, check_input, check_pooled
from poolax.pooling._reduce import masked_max, zero_empty
from poolax.pooling._scores import averages_by_scores, scores_along

_query_init = nn.initializers.normal(0.02)
_value_init = nn.initializers.variance_scaling(
    1.0, "fan_in", "truncated_normal", in_axis=0, out_axis=(1, 2)
)


@final
class EfficientProbingPool(Pooler):
    r"""Efficient probing: queries attend over the tokens themselves, without a projection of keys.

    Query ``q_m`` gives ``p_m = softmax(Z q_m / sqrt(d))`` over the real tokens and the slice ``sum_i
    p_mi z_i W_V^m`` of the output; the slices, ``d / M`` wide each, stand side by side.

    Attributes:
        num_queries: Number of learned queries ``M``; divides ``d``.

    Parameters: ``query (M, d)`` and ``value (d, M, d / M)``.

    Relative to the reference: its implementation can also narrow the output; that is left to
    :class:`ProjectedPool`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> pooler = EfficientProbingPool(num_queries=2)
        >>> z = jnp.ones((3, 5, 4))
        >>> pooled, weights = pooler.apply(
        ...     pooler.init(jax.random.key(0), z), z, return_weights=True
        ... )
        >>> pooled.shape, weights.shape
        ((3, 4), (3, 2, 5))

    Reference:
        Psomas et al., "Attention, Please! Revisiting Attentive Probing Through the Lens of Efficiency"
        (2025), section on efficient probing, with its 32 queries; Theory, section 6.10.
    """

    num_queries: int = 32

    reads_spread: ClassVar[bool] = True

    @nn.compact
    def __call__(self, z, mask=None, *, return_weights: bool = False) -> Any:
        """Pool ``z``.

        Args:
            z: Tokens, shape ``(*batch, n, d)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.
            return_weights: Also return the attention, shape ``(*batch, M, n)``.

        Returns:
            Pooled vectors, shape ``(*batch, d)``, and the attention if asked for.

        Raises:
            ValueError: if ``num_queries`` is below one or does not divide ``d``, or for a wrong shape,
                dtype or mask, or non-finite real tokens.
        """
        check_count("num_queries", self.num_queries)
        z, mask = check_input(z, mask)
        width = z.shape[-1]
        check_divides("num_queries", self.num_queries, "d", width)
        check_learned_width(self, "query", 1, width)
        query = self.param("query", _query_init, (self.num_queries, width), jnp.float32)
        value = _value_of(self, self.num_queries, width)
        tokens = zero_masked(z, mask).astype(accumulation_dtype(z))
        scores = scores_along(tokens, query.T / jnp.sqrt(width))
        return _slices(z, mask, tokens, scores, value, return_weights)


@final
class PositionAttentionPool(Pooler):
    r"""Attention with a learned position bias: what a token is and where it stands add up to its score.

    Head ``h`` gives ``p_h = softmax(Z q_h / sqrt(d) + b_h k)`` over the real tokens, ``k`` their number
    from 0 on, and the slice ``sum_k p_hk z_k W_V^h`` of the output; the slices stand side by side. A
    positive slope ``b_h`` prefers late tokens, a negative one early ones, at any length; it does not
    depend on which real token counts as the first.

    Attributes:
        num_heads: Number of heads ``H``; divides ``d``.

    Parameters: ``query (H, d)``, ``slope (H,)``, which starts at zero, and ``value (d, H, d / H)``.

    Relative to the reference: slices of the output stand side by side, where a probe adds up its heads'
    outputs.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> pooler = PositionAttentionPool()
        >>> params = {"query": jnp.zeros((1, 1)), "slope": jnp.log(jnp.array([3.0]))}
        >>> params["value"] = jnp.ones((1, 1, 1))
        >>> pooled = pooler.apply({"params": params}, jnp.array([[0.0], [4.0]]))
        >>> print(f"{pooled[0]:.3f}")
        3.000

    Reference:
        "Attention Probes" (EleutherAI, 2025), whose bias of positions is that of Press et al., "Train
        Short, Test Long" (2022), with a slope that is learned; Theory, section 6.10.
    """

    num_heads: int = 1

    reads_spread: ClassVar[bool] = True

    @nn.compact
    def __call__(self, z, mask=None, *, return_weights: bool = False) -> Any:
        """Pool ``z``.

        Args:
            z: Tokens, shape ``(*batch, n, d)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.
            return_weights: Also return the attention, shape ``(*batch, H, n)``.

        Returns:
            Pooled vectors, shape ``(*batch, d)``, and the attention if asked for.

        Raises:
            ValueError: if ``num_heads`` is below one or does not divide ``d``, or for a wrong shape,
                dtype or mask, or non-finite real tokens.
        """
        check_count("num_heads", self.num_heads)
        z, mask = check_input(z, mask)
        width = z.shape[-1]
        check_divides("num_heads", self.num_heads, "d", width)
        check_learned_width(self, "query", 1, width)
        query = self.param("query", _query_init, (self.num_heads, width), jnp.float32)
        slope = self.param("slope", nn.initializers.zeros, (self.num_heads,), jnp.float32)
        value = _value_of(self, self.num_heads, width)
        dtype = accumulation_dtype(z)
        tokens = zero_masked(z, mask).astype(dtype)
        real = jnp.ones((1,) * (z.ndim - 2) + z.shape[-2:-1], bool) if mask is None else mask
        # Masked tokens between real ones are passed over; from the last one backwards.
        counted = jnp.cumsum(real, axis=-1, dtype=dtype)
        positions = counted - counted[..., -1:]
        bias = jnp.einsum("...n,h->...hn", positions, slope.astype(dtype))
        scores = scores_along(tokens, query.T / jnp.sqrt(width)) + bias
        return _slices(z, mask, tokens, scores, value, return_weights)


def _value_of(module, num_slices, width):
    """The projection of each slice, ``(d, k, d / k)``."""
    shape = (width, num_slices, width // num_slices)
    return module.param("value", _value_init, shape, jnp.float32)


def _slices(z, mask, tokens, scores, value, return_weights):
    """What attention with scores ``(*batch, k, n)`` reads, projected slice by slice."""
    weights, averages = averages_by_scores(tokens, scores, mask)
    slices = jnp.einsum("...kd,dkv->...kv", averages, value.astype(tokens.dtype))
    pooled = slices.reshape(*z.shape[:-2], z.shape[-1]).astype(z.dtype)
    pooled = check_pooled(pooled if mask is None else zero_empty(pooled, mask))
    return (pooled, weights) if return_weights else pooled


@final
class GatedAttentionPool(Pooler):
    r"""Gated attention of multiple-instance learning: a small network scores each token by itself.

    ``sum_i p_i z_i`` with ``p = softmax(s)`` over the real tokens and ``s_i = w . (tanh(z_i V + b) *
    sigmoid(z_i U + c))``. Scores lie between plus and minus the sum of all ``|w_l|``, so that no
    token takes all attention.

    Attributes:
        hidden_dim: Width ``L`` of the network.

    Parameters: ``hidden (d, L)``, ``gate (d, L)``, their biases ``hidden_bias`` and ``gate_bias``, and
    ``score (L,)``: ``V``, ``U``, ``b``, ``c`` and ``w``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> pooler = GatedAttentionPool(hidden_dim=3)
        >>> z = jnp.ones((2, 5, 4))
        >>> pooled, weights = pooler.apply(
        ...     pooler.init(jax.random.key(0), z), z, return_weights=True
        ... )
        >>> pooled.shape, weights.shape
        ((2, 4), (2, 5))

    Reference:
        Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning" (ICML 2018),
        section 2.4; biases and width as in its authors' implementation. Theory, section 6.11.
    """

    hidden_dim: int = 128

    reads_spread: ClassVar[bool] = True

    @nn.compact
    def __call__(self, z, mask=None, *, return_weights: bool = False) -> Any:
        """Pool ``z``.

        Args:
            z: Tokens, shape ``(*batch, n, d)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.
            return_weights: Also return the weights ``p``, shape ``(*batch, n)``.

        Returns:
            Pooled vectors, shape ``(*batch, d)``, and the weights if asked for.

        Raises:
            ValueError: for a ``hidden_dim`` below one, or for a wrong shape, dtype or mask, or
                non-finite real tokens.
        """
        check_count("hidden_dim", self.hidden_dim)
        z, mask = check_input(z, mask)
        width = z.shape[-1]
        dtype = accumulation_dtype(z)
        tokens = zero_masked(z, mask).astype(dtype)
        check_learned_width(self, "hidden", 0, width)

        def layer(name):
            kernel_shape = (width, self.hidden_dim)
            kernel = self.param(name, nn.initializers.lecun_normal(), kernel_shape, jnp.float32)
            bias = self.param(f"{name}_bias", nn.initializers.zeros, kernel_shape[1:], jnp.float32)
            bias = with_leading_axes(bias.astype(dtype), z.ndim)
            return jnp.einsum("...nd,dl->...nl", tokens, kernel.astype(dtype)) + bias

        gated = nn.tanh(layer("hidden")) * nn.sigmoid(layer("gate"))
        score_init = nn.initializers.normal(self.hidden_dim**-0.5)
        score = self.param("score", score_init, (self.hidden_dim,), jnp.float32)
        scores = scores_along(gated, score[:, None])
        weights, averages = averages_by_scores(tokens, scores, mask)
        pooled = averages[..., 0, :].astype(z.dtype)
        pooled = pooled if mask is None else zero_empty(pooled, mask)
        return (pooled, weights[..., 0, :]) if return_weights else pooled


@final
class MultiMaxPool(Pooler):
    r"""Maxima over the tokens along learned directions, ``max_i u_h . z_i`` for each head ``h``.

    One token in a long sequence decides, which no softmax over thousands of others dilutes.

    Attributes:
        num_heads: Number of heads ``H``, which is the width of the output; ``None`` takes ``d``.

    Its one parameter is ``directions``, shape ``(d, H)``. Where several tokens attain a maximum they
    share its gradient.

    Relative to the reference: a probe with ten heads, behind an MLP on each token, whose maxima are
    added up; here the linear layer behind the pooler weighs them.

    Example:
        >>> import jax.numpy as jnp
        >>> variables = {"params": {"directions": jnp.array([[1.0, -1.0], [0.0, 1.0]])}}
        >>> MultiMaxPool().apply(variables, jnp.array([[3.0, 0.0], [0.0, 2.0]]))
        Array([3., 2.], dtype=float32)

    Reference:
        Kramár et al., "Building Production-Ready Probes For Gemini" (2026), section 3.2.1; Theory,
        section 6.12.
    """

    num_heads: int | None = None

    @nn.compact
    def __call__(self, z, mask=None) -> Any:
        """Pool ``z``.

        Args:
            z: Tokens, shape ``(*batch, n, d)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

        Returns:
            Pooled vectors, shape ``(*batch, H)``; zeros for a sequence without real tokens.

        Raises:
            ValueError: for ``num_heads`` below one, a wrong shape, dtype or mask, ``n = 0``, or
                non-finite real tokens.
        """
        if self.num_heads is not None:
            check_count("num_heads", self.num_heads)
        z, mask = check_input(z, mask)
        width = z.shape[-1]
        check_learned_width(self, "directions", 0, width)
        directions = self.param(
            "directions",
            nn.initializers.lecun_normal(),
            (width, width if self.num_heads is None else self.num_heads),
            jnp.float32,
        )
        tokens = zero_masked(z, mask).astype(accumulation_dtype(z))
        values = jnp.einsum("...nd,dh->...nh", tokens, directions.astype(tokens.dtype))
        return check_pooled(masked_max(values, mask).astype(z.dtype))
