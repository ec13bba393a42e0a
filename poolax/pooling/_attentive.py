"""Attention pooling: tokens that query a learned dictionary, and learned queries over tokens."""

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, final

import flax.linen as nn
import jax.export
import jax.numpy as jnp
from jaxtyping import Array

from poolax import codec
from poolax._checks import check_count, check_divides, check_flag, check_learned_width
from poolax._norms import LayerNorm
from poolax._numerics import accumulation_dtype, masked_softmax, zero_masked
from poolax.pooling._base import Pooler, check_input, check_pooled
from poolax.pooling._query_head import QueryHead
from poolax.pooling._reduce import average_pool, zero_empty
from poolax.pooling._scores import averages_by_scores, scores_along

# Kernels (d, H, d_h) and (m, H, d_h) are products with the first axis alone.
_projection_init = nn.initializers.variance_scaling(
    1.0, "fan_in", "truncated_normal", in_axis=0, out_axis=(1, 2)
)
_merge_init = nn.initializers.variance_scaling(
    1.0, "fan_in", "truncated_normal", in_axis=(0, 1), out_axis=2
)


@final
class LatentAttentionPool(Pooler):
    r"""Latent attention pooling (the paper's "Attn"): tokens query a learned dictionary.

    With latents ``E`` of shape ``(m, d)``, keys ``K_h = E W_K^h`` and values ``V_h = E W_V^h``,

        ``u_i = z_i + sum_h softmax(z_i W_Q^h K_h^T / sqrt(d_h)) V_h W_O^h``
        ``v_i = u_i + W_2 gelu(W_1 u_i + b_1) + b_2``
        ``out = mean of v_i over the real tokens``

    The dictionary does not grow with the sequence and every token is mapped alone, so the map is
    globally Lipschitz unless ``use_norm`` puts LayerNorm in front of both steps.

    Attributes:
        num_latents: Size ``m`` of the dictionary.
        num_heads: Number of attention heads ``H``; divides ``d``.
        mlp_dim: Width of the MLP; ``None`` takes ``d``.
        use_norm: LayerNorm before the attention and before the MLP, as NV-Embed has it.

    Parameters: ``latents (m, d)``, ``query``, ``key``, ``value (d, H, d_h)``, ``out (H, d_h, d)``,
    ``mlp_in``, ``mlp_out`` and, if asked for, ``norm1`` and ``norm2``.

    Relative to the paper: it does not give the size of its dictionary; the defaults are this
    library's choice.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> pooler = LatentAttentionPool(num_latents=8, num_heads=2)
        >>> z = jnp.ones((3, 5, 4))
        >>> pooler.apply(pooler.init(jax.random.key(0), z), z).shape
        (3, 4)

    Reference:
        Lee et al., "NV-Embed" (2024), section on the latent attention layer; "Pool Me Wisely"
        (Ennadir et al., NeurIPS 2025).
    """

    num_latents: int = 64
    num_heads: int = 4
    mlp_dim: int | None = None
    use_norm: bool = False

    # Of its LayerNorms. The bounds read it; it is no option, and so not part of a configuration.
    epsilon: ClassVar[float] = 1e-6

    @property
    def activation(self) -> Callable[[Array], Array]:
        """The MLP's, exact GELU, whose largest slope the bounds read."""
        return functools.partial(nn.gelu, approximate=False)

    @nn.compact
    def __call__(self, z, mask=None, *, return_weights: bool = False) -> Any:
        """Pool ``z``.

        Args:
            z: Tokens, shape ``(*batch, n, d)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.
            return_weights: Also return each token's attention on the latents, shape
                ``(*batch, H, n, m)``, zero for masked tokens.

        Returns:
            Pooled vectors, shape ``(*batch, d)``, and the attention if asked for.

        Raises:
            ValueError: if ``num_heads`` does not divide ``d``, if a size is below one, or for a
                wrong shape, dtype or mask, or non-finite real tokens.
        """
        check_count("num_latents", self.num_latents)
        check_count("num_heads", self.num_heads)
        z, mask = check_input(z, mask)
        width = z.shape[-1]
        check_divides("num_heads", self.num_heads, "d", width)
        if self.mlp_dim is not None:
            check_count("mlp_dim", self.mlp_dim)
        check_learned_width(self, "latents", 1, width)
        kernel_shape = (width, self.num_heads, width // self.num_heads)
        latents = self.param(
            "latents", nn.initializers.normal(1.0), (self.num_latents, width), jnp.float32
        )
        query_kernel = self.param("query", _projection_init, kernel_shape, jnp.float32)
        key_kernel = self.param("key", _projection_init, kernel_shape, jnp.float32)
        value_kernel = self.param("value", _projection_init, kernel_shape, jnp.float32)
        out_kernel = self.param("out", _merge_init, (*kernel_shape[1:], width), jnp.float32)

        dtype = accumulation_dtype(z)
        tokens = zero_masked(z, mask).astype(dtype)
        inner = LayerNorm(self.epsilon, name="norm1")(tokens) if self.use_norm else tokens
        fold = _is_folding_cheaper(math.prod(z.shape[:-1]), width, self.num_heads, self.num_latents)
        kernels = (query_kernel, key_kernel, value_kernel, out_kernel)
        weights, read = _attend_to_latents(inner, latents, kernels, fold=fold)
        tokens = tokens + read

        inner = LayerNorm(self.epsilon, name="norm2")(tokens) if self.use_norm else tokens
        hidden = nn.Dense(width if self.mlp_dim is None else self.mlp_dim, name="mlp_in")(inner)
        hidden = average_pool(self.activation(hidden), mask)
        # W_2 is linear: it maps the mean over tokens instead of every token.
        pooled = average_pool(tokens, mask) + nn.Dense(width, name="mlp_out")(hidden)
        pooled = pooled.astype(z.dtype)
        if mask is not None:
            pooled = zero_empty(pooled, mask)  # its bias, where there is no token
            weights = jnp.where(mask[..., None, None], weights, 0)
        check_pooled(pooled)
        return (pooled, jnp.moveaxis(weights, -2, -3)) if return_weights else pooled


def _is_folding_cheaper(num_tokens, width, num_heads, num_latents) -> bool:
    """Whether products of kernels and dictionary save more on all tokens than they cost.

    Of a symbolic number of tokens nothing is known: there are many.
    """
    if jax.export.is_symbolic_dim(num_tokens):
        return num_heads * num_latents < width + num_latents
    of_kernels = num_latents * width**2
    folded = num_tokens * num_heads * num_latents * width + of_kernels
    return folded < num_tokens * (width**2 + num_latents * width)


def _attend_to_latents(tokens, latents, kernels, *, fold):
    """Weights ``(*batch, n, H, m)`` and what each token reads by them, ``(*batch, n, d)``.

    Folded, W_Q is multiplied into the keys and W_O into the values, so that each token costs two
    products of ``H m d``. In this order of axes all products of tokens are of two matrices.
    """
    query_kernel, key_kernel, value_kernel, out_kernel = kernels
    dtype = tokens.dtype
    keys = jnp.einsum("md,dhk->hmk", latents, key_kernel) / jnp.sqrt(key_kernel.shape[-1])
    values = jnp.einsum("md,dhk->hmk", latents, value_kernel)
    if fold:
        keys = jnp.einsum("dhk,hmk->dhm", query_kernel, keys).astype(dtype)
        values = jnp.einsum("hmk,hke->hme", values, out_kernel).astype(dtype)
        weights = masked_softmax(jnp.einsum("...nd,dhm->...nhm", tokens, keys))
        return weights, jnp.einsum("...nhm,hme->...ne", weights, values)
    queries = jnp.einsum("...nd,dhk->...nhk", tokens, query_kernel.astype(dtype))
    weights = masked_softmax(jnp.einsum("...nhk,hmk->...nhm", queries, keys.astype(dtype)))
    read = jnp.einsum("...nhm,hmk->...nhk", weights, values.astype(dtype))
    return weights, jnp.einsum("...nhk,hke->...ne", read, out_kernel.astype(dtype))


@final
class QueryAttentionPool(Pooler):
    r"""Query attention pooling (MAP): learned queries attend over the tokens.

    Query ``q`` and head ``h`` give ``p = softmax(Z W_K^h q_h / sqrt(d_h))`` over the real tokens
    and the slice ``sum_k p_k z_k W_V^{q,h}`` of the output; the slices, ``d / (Q H)`` wide each,
    stand side by side, so that more queries cost no width.

    The full form is the head of the reference, with which SigLIP is trained: one query with biases and
    an output projection, and behind them ``u + MLP(LayerNorm(u))``.

    Attributes:
        num_queries: Number of learned queries ``Q``; 1 in the full form.
        num_heads: Number of heads ``H`` of each query; ``Q H`` divides ``d``.
        full: Whether it is the full form.
        mlp_dim: Width of its MLP; ``None`` takes ``4 d``.
        activation: Name of the MLP's activation.
        norm_eps: What its LayerNorm adds to the variance.

    Parameters: ``query (Q, H, d_h)``, ``key (d, H, d_h)``, ``value (d, Q, H, d / (Q H))``; in the full
    form ``head`` with ``probe (d,)``, ``query``, ``key``, ``value`` and ``out`` as
    :class:`poolax.attention.MultiHeadAttention` has them, without a bias of the keys, which would
    change nothing, ``norm``, ``mlp_in`` and ``mlp_out``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> pooler = QueryAttentionPool(num_queries=2)
        >>> z = jnp.ones((3, 5, 4))
        >>> pooled, weights = pooler.apply(
        ...     pooler.init(jax.random.key(0), z), z, return_weights=True
        ... )
        >>> pooled.shape, weights.shape
        ((3, 4), (3, 2, 1, 5))

    Reference:
        Zhai et al., "Scaling Vision Transformers" (2022), multihead attention pooling; Lee et al.,
        "Set Transformer" (2019), pooling by multihead attention.
    """

    num_queries: int = 1
    num_heads: int = 1
    full: bool = codec.added(False)
    mlp_dim: int | None = codec.added(None)
    activation: str = codec.added("gelu")
    norm_eps: float = codec.added(1e-6)

    reads_spread: ClassVar[bool] = True

    @nn.compact
    def __call__(self, z, mask=None, *, return_weights: bool = False) -> Any:
        """Pool ``z``.

        Args:
            z: Tokens, shape ``(*batch, n, d)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.
            return_weights: Also return the attention, shape ``(*batch, Q, H, n)``.

        Returns:
            Pooled vectors, shape ``(*batch, d)``, and the attention if asked for.

        Raises:
            ValueError: if ``num_queries * num_heads`` does not divide ``d``, if one is below one, for
                several queries in the full form, or for a wrong shape, dtype or mask, or non-finite
                real tokens.
        """
        check_count("num_queries", self.num_queries)
        check_count("num_heads", self.num_heads)
        check_flag("full", self.full)
        z, mask = check_input(z, mask)
        if self.full:
            if self.num_queries != 1:
                raise ValueError(f"num_queries: expected 1 in the full form, got {self.num_queries}")
            head = QueryHead(self.num_heads, self.mlp_dim, self.activation, self.norm_eps, name="head")
            pooled, weights = head(z, mask)
            pooled = pooled.astype(z.dtype)
            pooled = check_pooled(pooled if mask is None else zero_empty(pooled, mask))
            return (pooled, weights) if return_weights else pooled
        width = z.shape[-1]
        check_learned_width(self, "key", 0, width)
        num_slices = self.num_queries * self.num_heads
        check_divides("num_queries * num_heads", num_slices, "d", width)
        head_dim = width // self.num_heads
        query_shape = (self.num_queries, self.num_heads, head_dim)
        query = self.param("query", nn.initializers.normal(1.0), query_shape, jnp.float32)
        key = self.param("key", _projection_init, (width, *query_shape[1:]), jnp.float32)
        value = self.param(
            "value",
            nn.initializers.variance_scaling(
                1.0, "fan_in", "truncated_normal", in_axis=0, out_axis=(1, 2, 3)
            ),
            (width, self.num_queries, self.num_heads, width // num_slices),
            jnp.float32,
        )
        dtype = accumulation_dtype(z)
        tokens = zero_masked(z, mask).astype(dtype)
        scores = jnp.einsum("dhk,qhk->dqh", key, query) / jnp.sqrt(head_dim)
        logits = scores_along(tokens, scores.reshape(width, num_slices))
        weights, averages = averages_by_scores(tokens, logits, mask)
        value = value.reshape(width, num_slices, width // num_slices)
        slices = jnp.einsum("...kd,dkv->...kv", averages, value.astype(dtype))
        pooled = slices.reshape(*z.shape[:-2], width).astype(z.dtype)
        pooled = check_pooled(pooled if mask is None else zero_empty(pooled, mask))
        weights = weights.reshape(*z.shape[:-2], *query_shape[:2], z.shape[-2])
        return (pooled, weights) if return_weights else pooled
