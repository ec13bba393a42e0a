"""Multi-head self-attention of any kind, as one Linen module."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float, Int

from poolax._checks import (
    broadcast_mask,
    check_count,
    check_divides,
    check_finite,
    check_flag,
    check_flag_or_names,
    check_floating,
    check_instance,
    check_number,
    check_result,
    check_tokens,
)
from poolax._norms import RMSNorm, RMSNormFromOne, inner_norm
from poolax._numerics import (
    accumulation_dtype,
    softmax_numerator,
    with_leading_axes,
    zero_masked,
)
from poolax._typing import AnyArray
from poolax.attention._head_norms import plain_scales, query_gain
from poolax.attention._kinds import L2, Cosine, DotProduct, Kind, check_kind
from poolax.attention._masks import attention_mask
from poolax.attention._patch_rotary import PatchRotary
from poolax.attention._positions import QueryGrowth, first_real, masked_before_last
from poolax.attention._rotary import Rotary

_PROJECTIONS = ("query", "key", "value", "out")


def normalize_rows(x: Float[Array, "*batch d"], eps: float) -> Float[Array, "*batch d"]:
    """Divide rows by ``sqrt(|row|^2 + eps)``, a map with Lipschitz constant ``eps^(-1/2)``."""
    x = x.astype(accumulation_dtype(x))
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + eps)


def _logits(kind: Kind, query, key):
    """Logits (*batch, H_kv, m, n) from query (*batch, H_kv, m, d_h) and key (*batch, H_kv, n, d_h)."""
    dtype = accumulation_dtype(query, key)
    if isinstance(kind, Cosine):
        return _scaled_product(kind.tau, query, key)
    if isinstance(kind, DotProduct):
        return _scaled_product(kind.logit_scale(query.shape[-1]), query, key)
    # Distances do not see a common shift, but their squares lose digits to it.
    centre = jax.lax.stop_gradient(jnp.mean(key, axis=-2, keepdims=True, dtype=dtype))
    query, key = query - centre, key - centre
    # |q_i - k_j|^2 without |q_i|^2, which the softmax over j does not see.
    key_norms = jnp.sum(jnp.square(key.astype(dtype)), axis=-1)[..., None, :]
    return (_scaled_product(2.0, query, key) - key_norms) / math.sqrt(query.shape[-1])


def _scaled_product(scale, query, key):
    """Scaled inner products of rows, in at least float32."""
    dtype = accumulation_dtype(query, key)
    # Queries are fewer numbers than logits; in half precision they would be rounded once more.
    scale_first = query.dtype == dtype
    query = scale * query if scale_first else query
    product = jnp.einsum("...id,...jd->...ij", query, key, preferred_element_type=dtype)
    return product if scale_first else scale * product


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
        num_heads: Number of query heads ``H``.
        kind: :class:`DotProduct`, :class:`L2` or :class:`Cosine`.
        num_kv_heads: Number of key and value heads ``H_kv``; divides ``H``; ``None`` takes ``H``.
            Query heads ``h`` with equal ``h // (H / H_kv)`` share a key and value head.
        causal: Each query sees only itself and what stands before it.
        window: Each query sees at most this many neighbours; see :func:`attention_mask`.
        rotary: :class:`Rotary` positions, those of patches (:class:`PatchRotary`), or ``None``. For
            dot-product and cosine attention.
        use_bias: Biases on all projections, or names of those that have one, such as ``("query",)``.
        use_out_bias: Bias on the output projection; ``None`` takes ``use_bias``.
        head_dim: Width ``d_h`` of a head; ``None`` takes ``d / H``, and ``H`` then divides ``d``.
        query_key_eps: Normalise each head's queries and keys by an RMSNorm with a learned scale,
            before they turn: what it adds to the mean square; ``None`` for no norm. For dot-product
            attention.
        soft_cap: Logits ``l`` become ``soft_cap * tanh(l / soft_cap)`` before a bias is added; ``None``
            leaves them. For dot-product attention.
        dtype: Dtype of the computation; ``None`` promotes input and parameters. Softmax and norms
            run in at least float32 whatever it is.
        param_dtype: Dtype of the parameters.
        query_key_from_one: Keep the scales of these norms less one, as Gemma does.
        query_key_turned: Normalise queries and keys once they have turned, and multiply each feature of
            the queries with ``softplus(query_scale) / softplus(0)``, as TimesFM does. Positions then
            count by themselves, not by differences alone: from the first real token on, where masked
            ones between real ones move all of them.
        query_growth: :class:`QueryGrowth` of queries by their positions, or ``None``. For dot-product
            attention.
        inner_norm_eps: A LayerNorm of the heads side by side before the output projection, as EVA-02's
            CLIP has it: what it adds to the variance; ``None`` for none.

    Parameters: ``query (d, H, d_h)``, ``key``, ``value (d, H_kv, d_h)``, ``out (H, d_h, d)``, each
    with ``kernel`` and, if asked for, ``bias``; no ``key`` for L2. With ``query_key_eps`` also
    ``query_norm`` and ``key_norm``, with ``scale (d_h,)`` each; with ``query_key_turned`` also
    ``query_scale (d_h,)``; with ``inner_norm_eps`` also ``inner_norm``, with scale and bias
    ``(H d_h,)``.

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
    rotary: Rotary | PatchRotary | None = None
    use_bias: bool | tuple[str, ...] = False
    use_out_bias: bool | None = None
    head_dim: int | None = None
    query_key_eps: float | None = None
    soft_cap: float | None = None
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    query_key_from_one: bool = False
    query_key_turned: bool = False
    query_growth: QueryGrowth | None = None
    inner_norm_eps: float | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[AnyArray, "*batch n d"],
        mask: Bool[AnyArray, "*#batch n"] | None = None,
        bias: Float[AnyArray, "*#batch H n n"] | None = None,
        return_weights: bool = False,
        segments: Int[AnyArray, "*#batch n"] | None = None,
        weights: Float[AnyArray, "*#batch H n n"] | None = None,
    ) -> Any:
        """Attend.

        Args:
            x: Tokens, shape ``(*batch, n, d)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.
                Masked tokens are not seen, and what comes out in their place is zero.
            bias: Added to the logits, broadcastable to ``(*batch, H, n, n)``.
            return_weights: Also return the attention, shape ``(*batch, H, n, n)``.
            segments: Tokens see only tokens with the same number, broadcastable to ``(*batch, n)``;
                ``None`` if all are one segment.
            weights: Attention to mix the values by instead of its own, such as that of a pass before,
                broadcastable to ``(*batch, H, n, n)``; ``None`` for its own.

        Returns:
            Shape ``(*batch, n, d)``, and the attention if asked for.

        Raises:
            ValueError: if heads do not divide the width, for an option that the kind does not
                have, or for a wrong shape, dtype or mask, ``n = 0``, or non-finite values.
        """
        check_tokens("x", x)
        num_tokens, width = x.shape[-2:]
        head_dim, num_kv_heads = self._check_configuration(width)
        mask = broadcast_mask(mask, x.shape[:-1])
        check_finite("x", x, mask)
        if segments is not None:
            segments = jnp.broadcast_to(segments, x.shape[:-1])
        group = self.num_heads // num_kv_heads

        def projection(name, shape, num_inputs=1):
            use_bias = self.use_bias if isinstance(self.use_bias, bool) else name in self.use_bias
            if name == "out" and self.use_out_bias is not None:
                use_bias = self.use_out_bias
            return _Projection(shape, num_inputs, use_bias, self.param_dtype, name=name)()

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

        query, key, value = self._project(x, kernels, mask)
        # Heads ahead of tokens, for which the products below are plain batched matrix products; rows
        # of query heads that share a key and value head below one another: (*batch, H_kv, G n, d_h).
        query, key, value = (jnp.moveaxis(rows, -2, -3) for rows in (query, key, value))
        by_head = query.shape
        query = query.reshape(*key.shape[:-2], group * num_tokens, head_dim)
        if weights is None:
            numerator, total = self._attention(query, key, mask, bias, segments)
        else:
            numerator, total = self._by_head("weights", weights, query), jnp.ones((), dtype)
        # Divided after the sum over keys: n by d_h divisions instead of n by n.
        heads = jnp.einsum(
            "...ij,...jd->...id",
            numerator.astype(dtype),
            value.astype(dtype),
            preferred_element_type=accumulation_dtype(dtype),
        )
        heads = (heads / total).astype(dtype).reshape(by_head)
        kernel, out_bias = kernels["out"]
        # One row for each token, its heads side by side: a product over two axes turns the kernel.
        rows = jnp.moveaxis(heads, -3, -2).reshape(*x.shape[:-1], self.num_heads * head_dim)
        if self.inner_norm_eps is not None:
            rows = inner_norm(self.inner_norm_eps, self.param_dtype)(rows).astype(dtype)
        out = rows @ kernel.reshape(self.num_heads * head_dim, width)
        out = out if out_bias is None else out + with_leading_axes(out_bias, out.ndim)
        out = zero_masked(out, mask)
        check_result("x", out, "attention")
        if not return_weights:
            return out
        shares = numerator / total
        return out, shares.reshape(*by_head[:-1], num_tokens)

    def _attention(self, query, key, mask, bias, segments):
        """The softmax over keys: what is divided, (*batch, H_kv, G n, n), and by what."""
        logits = _logits(self.kind, query, key)
        if self.soft_cap is not None:
            logits = self.soft_cap * jnp.tanh(logits / self.soft_cap)
        if bias is not None:
            logits = logits + self._by_head("bias", bias, query)
        num_tokens = key.shape[-2]
        seen = attention_mask(
            num_tokens, mask, causal=self.causal, window=self.window, segments=segments
        )
        if seen is not None:
            group = query.shape[-2] // num_tokens
            seen = jnp.concatenate([seen] * group, axis=-2)[..., None, :, :]
        return softmax_numerator(logits, seen)

    def plain_scales(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Its parameters with scales of queries and keys as normalised rows are multiplied with them.

        Args:
            params: The parameters.

        Returns:
            The same, with ``query_norm`` and ``key_norm`` of an RMSNorm whatever they were kept as.
        """
        return plain_scales(self, params)

    def _check_configuration(self, width: int) -> tuple[int, int]:
        check_kind(self.kind)
        check_flag("causal", self.causal)
        check_flag_or_names("use_bias", self.use_bias, _PROJECTIONS)
        check_count("num_heads", self.num_heads)
        if self.head_dim is None:
            check_divides("num_heads", self.num_heads, "d", width)
        head_dim = width // self.num_heads if self.head_dim is None else self.head_dim
        check_count("head_dim", head_dim)
        num_kv_heads = self.num_heads if self.num_kv_heads is None else self.num_kv_heads
        check_count("num_kv_heads", num_kv_heads)
        check_divides("num_kv_heads", num_kv_heads, "num_heads", self.num_heads)
        for name in ("query_key_eps", "soft_cap"):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value, above=0.0)
                self._check_dot_product(name)
        for name in ("query_key_from_one", "query_key_turned"):
            check_flag(name, getattr(self, name))
            if getattr(self, name) and self.query_key_eps is None:
                raise ValueError(f"{name}: expected False without query_key_eps, got True")
        if self.query_key_turned and not isinstance(self.rotary, Rotary):
            raise ValueError("query_key_turned: expected False unless rotary is a Rotary, got True")
        check_instance("query_growth", self.query_growth, QueryGrowth | None, "a QueryGrowth or None")
        if self.query_growth is not None:
            self._check_dot_product("query_growth")
        if isinstance(self.kind, L2):
            if num_kv_heads != self.num_heads:
                raise ValueError(
                    "num_kv_heads: expected num_heads for L2 attention, whose keys are its "
                    f"queries, got {num_kv_heads}"
                )
            if self.rotary is not None:
                raise ValueError(f"rotary: expected None for L2 attention, got {self.rotary}")
        if self.rotary is not None and head_dim % 2:
            raise ValueError(f"rotary: expected an even head width, got d_h = {head_dim}")
        return head_dim, num_kv_heads

    def _check_dot_product(self, name):
        if not isinstance(self.kind, DotProduct):
            raise ValueError(f"{name}: expected None for {type(self.kind).__name__} attention")

    def _project(self, x, kernels, mask):
        def project(name):
            kernel, bias = kernels[name]
            out = jnp.einsum("...nd,dhk->...nhk", x, kernel)
            return out if bias is None else out + with_leading_axes(bias, out.ndim)

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
        if self.query_key_eps is not None and not self.query_key_turned:
            query, key = self._normalize(query, key, self.query_key_eps)
        if self.rotary is not None:
            lengths = None if mask is None else jnp.sum(mask, axis=-1)
            offset = {}
            if self.query_key_turned:
                offset = {"offset": None if mask is None else masked_before_last(mask)}
            query, key = (self.rotary(rows, lengths, **offset) for rows in (query, key))
        if self.query_key_eps is not None and self.query_key_turned:
            query, key = self._normalize(query, key, self.query_key_eps)
            scale = self.param("query_scale", nn.initializers.zeros, query.shape[-1:], self.param_dtype)
            gain = with_leading_axes(query_gain(scale), query.ndim)
            query = (query * gain).astype(query.dtype)
        if self.query_growth is not None:
            query = self._grow(query, mask, self.query_growth)
        return query, key, value

    def _normalize(self, query, key, eps):
        norm = RMSNormFromOne if self.query_key_from_one else RMSNorm
        options = {"dtype": query.dtype, "param_dtype": self.param_dtype}
        return tuple(
            norm(eps, name=f"{name}_norm", **options)(rows)
            for name, rows in (("query", query), ("key", key))
        )

    def _grow(self, query, mask, growth):
        positions = jnp.arange(query.shape[-3])
        if mask is not None:
            positions = with_leading_axes(positions, mask.ndim) - first_real(mask)[..., None]
        factors = growth(positions)[..., None, None]
        return (query * with_leading_axes(factors, query.ndim)).astype(query.dtype)

    def _values_through_metric(self, x, kernels):
        """Values ``x A_h W_V^h + b_V``, with ``A_h`` never formed: it is d by d of rank d_h."""
        query_kernel, _ = kernels["query"]
        value_kernel, value_bias = kernels["value"]
        metric = jnp.einsum("dhk,dhe->hke", query_kernel, value_kernel)
        metric = metric / math.sqrt(query_kernel.shape[-1])
        value = jnp.einsum("...nd,dhk,hke->...nhe", x, query_kernel, metric)
        return value if value_bias is None else value + with_leading_axes(value_bias, value.ndim)

    def _by_head(self, name, given, query):
        """Something for each head, query and key: (*#batch, H, n, n) to (*batch, H_kv, G n, n)."""
        check_floating(name, given)
        *batch, num_kv_heads, num_rows, _ = query.shape
        num_tokens = num_kv_heads * num_rows // self.num_heads
        shape = (*batch, self.num_heads, num_tokens, num_tokens)
        try:
            whole = jnp.broadcast_to(given, shape)
        except ValueError:
            raise ValueError(
                f"{name}: expected a shape that broadcasts to {shape}, got {jnp.shape(given)}"
            ) from None
        check_finite(name, whole)
        return whole.reshape(*query.shape[:-1], num_tokens)
