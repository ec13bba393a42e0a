"""Attention: dot-product, L2 and scaled cosine, behind one Linen module.

The kinds are frozen, hashable configurations. What they share (masks, windows, additive logit
bias, rotary positions, grouped key and value heads, softmax in at least float32) is written once.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float

from poolax._checks import (
    broadcast_mask,
    check_count,
    check_divides,
    check_finite,
    check_floating,
    check_instance,
    check_number,
    check_tokens,
)
from poolax._numerics import accumulation_dtype, masked_softmax, zero_masked


@dataclasses.dataclass(frozen=True)
class DotProduct:
    """Dot-product attention: logits ``q_i . k_j / sqrt(d_h)``, values ``x_j W_V``.

    Reference:
        Vaswani et al., "Attention Is All You Need" (2017).
    """


@dataclasses.dataclass(frozen=True)
class L2:
    """L2 attention: logits ``-|q_i - k_j|^2 / sqrt(d_h)`` with one kernel for query and key.

    With ``A_h = W_Q^h W_Q^{hT} / sqrt(d_h)``, head ``h`` averages ``x_j A_h W_V^h``, which makes it
    Lipschitz on all of space. A query bias, which the key shares, cancels.

    Attributes:
        plain_values: Average ``x_j W_V^h`` instead, as GPT-style code writes it. That has no global
            Lipschitz constant.

    Reference:
        Kim, Papamakarios and Mnih, "The Lipschitz Constant of Self-Attention" (ICML 2021).
    """

    plain_values: bool = False


@dataclasses.dataclass(frozen=True)
class Cosine:
    """Scaled cosine attention: logits ``tau q_i . k_j`` and values ``nu v_j`` of normalised rows.

    Rows of queries, keys and values are divided by ``sqrt(|row|^2 + eps)``.

    Attributes:
        tau: Scale of the logits, positive.
        nu: Scale of the output, positive.
        eps: What keeps the normalisation Lipschitz (the nabla of the paper), positive.
        plain_values: Do not normalise the values, as the released LipsFormer code has it.

    Reference:
        Qi et al., "LipsFormer" (ICLR 2023).
    """

    tau: float = 10.0
    nu: float = 1.0
    eps: float = 1e-6
    plain_values: bool = False

    def __post_init__(self):
        """Refuse scales that are not positive."""
        for name in ("tau", "nu", "eps"):
            check_number(name, getattr(self, name), above=0.0)


Kind = DotProduct | L2 | Cosine


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Rotary positions: each half-split pair of query and key features turns with its position.

    Feature ``j`` of a head is paired with ``j + d_h / 2`` and turns by ``position *
    theta^(-2j / d_h)``. Positions count from the first token of the array; logits depend on
    differences alone, so padding on either side changes nothing.

    Attributes:
        theta: Base of the geometric frequencies, positive.

    Reference:
        Su et al., "RoFormer" (2021), in the half-split layout of Llama.
    """

    theta: float = 10_000.0

    def __post_init__(self):
        """Refuse a base that is not positive."""
        check_number("theta", self.theta, above=0.0)

    def __call__(self, x: Float[Array, "*batch n H d_h"]) -> Float[Array, "*batch n H d_h"]:
        """Turn the heads' features ``x`` by their positions."""
        num_tokens, half = x.shape[-3], x.shape[-1] // 2
        dtype = accumulation_dtype(x)
        frequencies = self.theta ** (-jnp.arange(half, dtype=dtype) / half)
        angles = jnp.arange(num_tokens, dtype=dtype)[:, None, None] * frequencies
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        left, right = jnp.split(x.astype(dtype), 2, axis=-1)
        turned = jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
        return turned.astype(x.dtype)


def attention_mask(
    num_tokens: int,
    mask: Bool[Array, "*batch n"] | None = None,
    *,
    causal: bool = False,
    window: int | None = None,
) -> Bool[Array, "*batch n n"] | None:
    """Which key each query sees: real tokens only, not the future, not beyond the window.

    Args:
        num_tokens: Number of tokens ``n``.
        mask: True at real tokens, shape ``(*batch, n)``; ``None`` if all are real.
        causal: Query ``i`` sees keys ``j <= i`` only.
        window: Each query sees at most this many neighbouring keys: ``i - window < j <= i`` if
            ``causal``, else ``-(window - 1) // 2 <= j - i <= window // 2``; so each key is seen by
            at most as many queries.

    Returns:
        True where query ``i`` (second to last axis) sees key ``j`` (last axis); rows of masked
        queries are False. ``None`` if everything is seen.

    Example:
        >>> attention_mask(3, causal=True, window=2).astype(int)
        Array([[1, 0, 0],
               [1, 1, 0],
               [0, 1, 1]], dtype=int32)
    """
    check_count("num_tokens", num_tokens)
    seen = None
    if causal or window is not None:
        steps = jnp.arange(num_tokens) - jnp.arange(num_tokens)[:, None]
        behind, ahead = num_tokens, 0 if causal else num_tokens
        if window is not None:
            check_count("window", window)
            behind = window - 1 if causal else (window - 1) // 2
            ahead = 0 if causal else window // 2
        seen = (steps >= -behind) & (steps <= ahead)
    if mask is None:
        return seen
    real = mask[..., :, None] & mask[..., None, :]
    return real if seen is None else real & seen


def normalize_rows(x: Float[Array, "*batch d"], eps: float) -> Float[Array, "*batch d"]:
    """Divide rows by ``sqrt(|row|^2 + eps)``, a map with Lipschitz constant ``eps^(-1/2)``."""
    x = x.astype(accumulation_dtype(x))
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + eps)


def _logits(kind: Kind, query, key):
    """Logits (*batch, K, G, n, n) from query (*batch, n, K, G, d_h) and key (*batch, n, K, d_h)."""
    dtype = accumulation_dtype(query, key)
    if isinstance(kind, L2):
        # Distances do not see a common shift, but their squares lose digits to it.
        centre = jax.lax.stop_gradient(jnp.mean(key, axis=-3, keepdims=True, dtype=dtype))
        query, key = query - centre[..., None, :], key - centre
    product = jnp.einsum("...ikgd,...jkd->...kgij", query, key, preferred_element_type=dtype)
    if isinstance(kind, Cosine):
        return kind.tau * product
    scale = 1.0 / math.sqrt(query.shape[-1])
    if isinstance(kind, DotProduct):
        return scale * product
    # |q_i - k_j|^2 without |q_i|^2, which the softmax over j does not see.
    key_norms = jnp.sum(jnp.square(key.astype(dtype)), axis=-1)
    key_norms = jnp.moveaxis(key_norms, -1, -2)[..., :, None, None, :]
    return scale * (2 * product - key_norms)


class _Projection(nn.Module):
    """A kernel of the given shape and, if asked for, a bias; reading them is left to the caller."""

    shape: tuple[int, ...]
    num_inputs: int
    use_bias: bool
    param_dtype: Dtype

    @nn.compact
    def __call__(self):
        inputs = tuple(range(self.num_inputs))
        outputs = tuple(range(self.num_inputs, len(self.shape)))
        init = nn.initializers.variance_scaling(
            1.0, "fan_avg", "uniform", in_axis=inputs, out_axis=outputs
        )
        kernel = self.param("kernel", init, self.shape, self.param_dtype)
        if not self.use_bias:
            return kernel, None
        bias_shape = self.shape[self.num_inputs :]
        return kernel, self.param("bias", nn.initializers.zeros, bias_shape, self.param_dtype)


class MultiHeadAttention(nn.Module):
    r"""Multi-head self-attention of any kind.

    Head ``h`` with weights ``P^h`` (softmax of the kind's logits over the keys that are seen) and
    values ``V^h``: ``out_i = sum_h (sum_j P^h_ij V^h_j) W_O^h``. See :class:`DotProduct`,
    :class:`L2` and :class:`Cosine` for logits and values.

    Attributes:
        num_heads: Number of query heads ``H``; divides the width ``d``; ``d_h = d / H``.
        kind: :class:`DotProduct`, :class:`L2` or :class:`Cosine`.
        num_kv_heads: Number of key and value heads ``H_kv``; divides ``H``; ``None`` takes ``H``.
            Query heads ``h`` with equal ``h // (H / H_kv)`` share a key and value head.
        causal: Each query sees only itself and what stands before it.
        window: Each query sees at most this many neighbours; see :func:`attention_mask`.
        rotary: :class:`Rotary` positions, or ``None``. For dot-product and cosine attention.
        use_bias: Biases on all projections.
        dtype: Dtype of the computation; ``None`` promotes input and parameters. Softmax and norms
            run in at least float32 whatever it is.
        param_dtype: Dtype of the parameters.

    Parameters: ``query (d, H, d_h)``, ``key``, ``value (d, H_kv, d_h)``, ``out (H, d_h, d)``, each
    with ``kernel`` and, if asked for, ``bias``; no ``key`` for L2.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> attention = MultiHeadAttention(num_heads=2, kind=L2())
        >>> x = jnp.ones((3, 5, 4))
        >>> variables = attention.init(jax.random.key(0), x)
        >>> attention.apply(variables, x).shape
        (3, 5, 4)
    """

    num_heads: int
    kind: Kind = DotProduct()
    num_kv_heads: int | None = None
    causal: bool = False
    window: int | None = None
    rotary: Rotary | None = None
    use_bias: bool = False
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch n d"],
        mask: Bool[Array, "*#batch n"] | None = None,
        bias: Float[Array, "*#batch H n n"] | None = None,
        return_weights: bool = False,
    ) -> Any:
        """Attend.

        Args:
            x: Tokens, shape ``(*batch, n, d)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.
                Masked tokens are not seen, and what comes out in their place is zero.
            bias: Added to the logits, broadcastable to ``(*batch, H, n, n)``.
            return_weights: Also return the attention, shape ``(*batch, H, n, n)``.

        Returns:
            Shape ``(*batch, n, d)``, and the attention if asked for.

        Raises:
            ValueError: if heads do not divide the width, for an option that the kind does not
                have, or for a wrong shape, dtype or mask, ``n = 0``, or non-finite values.
        """
        check_tokens("x", x)
        num_tokens, width = x.shape[-2:]
        num_kv_heads = self._check_configuration(width)
        mask = broadcast_mask(mask, x.shape[:-1])
        check_finite("x", x, mask)
        head_dim = width // self.num_heads
        group = self.num_heads // num_kv_heads

        def projection(name, shape, num_inputs=1):
            return _Projection(shape, num_inputs, self.use_bias, self.param_dtype, name=name)()

        kernels = {
            "query": projection("query", (width, self.num_heads, head_dim)),
            "value": projection("value", (width, num_kv_heads, head_dim)),
            "out": projection("out", (self.num_heads, head_dim, width), num_inputs=2),
        }
        if not isinstance(self.kind, L2):
            kernels["key"] = projection("key", (width, num_kv_heads, head_dim))
        dtype = self.dtype
        if dtype is None:
            dtype = jnp.result_type(x, *jax.tree.leaves(kernels))
        kernels = jax.tree.map(lambda leaf: leaf.astype(dtype), kernels)
        x = zero_masked(jnp.asarray(x), mask).astype(dtype)

        query, key, value = self._project(x, kernels)
        # Query heads that share a key and value head stand together: (*batch, n, H_kv, G, d_h).
        query = query.reshape(*query.shape[:-2], num_kv_heads, group, head_dim)
        logits = _logits(self.kind, query, key)
        logits = logits.reshape(*logits.shape[:-4], self.num_heads, num_tokens, num_tokens)
        logits = self._add_bias(logits, bias)
        seen = attention_mask(num_tokens, mask, causal=self.causal, window=self.window)
        weights = masked_softmax(logits, None if seen is None else seen[..., None, :, :])
        grouped = weights.reshape(*weights.shape[:-3], num_kv_heads, group, num_tokens, num_tokens)
        heads = jnp.einsum("...kgij,...jkd->...ikgd", grouped.astype(dtype), value.astype(dtype))
        heads = heads.reshape(*heads.shape[:-3], self.num_heads, head_dim)
        kernel, out_bias = kernels["out"]
        out = jnp.einsum("...nhd,hde->...ne", heads, kernel)
        out = out if out_bias is None else out + out_bias
        out = zero_masked(out, mask)
        return (out, weights) if return_weights else out

    def _check_configuration(self, width: int) -> int:
        check_instance("kind", self.kind, Kind, "DotProduct, L2 or Cosine")
        check_count("num_heads", self.num_heads)
        check_divides("num_heads", self.num_heads, "d", width)
        num_kv_heads = self.num_heads if self.num_kv_heads is None else self.num_kv_heads
        check_count("num_kv_heads", num_kv_heads)
        check_divides("num_kv_heads", num_kv_heads, "num_heads", self.num_heads)
        if isinstance(self.kind, L2):
            if num_kv_heads != self.num_heads:
                raise ValueError(
                    "num_kv_heads: expected num_heads for L2 attention, whose keys are its "
                    f"queries, got {num_kv_heads}"
                )
            if self.rotary is not None:
                raise ValueError(f"rotary: expected None for L2 attention, got {self.rotary}")
        if self.rotary is not None and (width // self.num_heads) % 2:
            raise ValueError(
                f"rotary: expected an even head width, got d_h = {width // self.num_heads}"
            )
        return num_kv_heads

    def _project(self, x, kernels):
        def project(name):
            kernel, bias = kernels[name]
            out = jnp.einsum("...nd,dhk->...nhk", x, kernel)
            return out if bias is None else out + bias

        query, value = project("query"), project("value")
        if isinstance(self.kind, L2):
            if not self.kind.plain_values:
                value = self._values_through_metric(x, kernels)
            return query, query, value
        key = project("key")
        if isinstance(self.kind, Cosine):
            query, key = (normalize_rows(rows, self.kind.eps) for rows in (query, key))
            if not self.kind.plain_values:
                value = normalize_rows(value, self.kind.eps)
            value = self.kind.nu * value
        if self.rotary is not None:
            query, key = self.rotary(query), self.rotary(key)
        return query, key, value

    def _values_through_metric(self, x, kernels):
        """Values ``x A_h W_V^h + b_V``, with ``A_h`` never formed: it is d by d of rank d_h."""
        query_kernel, _ = kernels["query"]
        value_kernel, value_bias = kernels["value"]
        metric = jnp.einsum("dhk,dhe->hke", query_kernel, value_kernel)
        metric = metric / math.sqrt(query_kernel.shape[-1])
        value = jnp.einsum("...nd,dhk,hke->...nhe", x, query_kernel, metric)
        return value if value_bias is None else value + value_bias

    def _add_bias(self, logits, bias):
        if bias is None:
            return logits
        check_floating("bias", bias)
        try:
            bias = jnp.broadcast_to(bias, logits.shape)
        except ValueError:
            raise ValueError(
                f"bias: expected a shape that broadcasts to {logits.shape}, got {jnp.shape(bias)}"
            ) from None
        check_finite("bias", bias)
        return logits + bias
