"""The whole of an attention pooling head: a learned query, attention, and a feed-forward layer."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from poolax._activations import activation_from_name
from poolax._checks import check_count, check_divides, check_number
from poolax._norms import LayerNorm
from poolax._numerics import accumulation_dtype, with_leading_axes, zero_masked
from poolax.pooling._scores import averages_by_scores, scores_along


class QueryHead(nn.Module):
    r"""Attention of one learned query with all its linear maps, then ``u + MLP(LayerNorm(u))``.

    With ``q_h = probe W_Q^h + b_Q^h``, ``p^h = softmax(Z W_K^h q_h / sqrt(d_h))`` over the real tokens
    and ``u = sum_h (sum_k p_k^h z_k W_V^h + b_V^h) W_O^h + b_O``. A bias of the keys would add the same
    to all logits, and so there is none.

    Attributes:
        num_heads: Number of heads ``H``; divides ``d``.
        mlp_dim: Width of the MLP; ``None`` takes ``4 d``.
        activation: Name of its activation.
        norm_eps: What LayerNorm adds to the variance.

    Parameters: ``probe (d,)``, ``query``, ``key``, ``value (d, H, d_h)``, ``out (H, d_h, d)``, each
    with ``kernel`` and, but for the keys, ``bias``; ``norm``, ``mlp_in`` and ``mlp_out``.
    """

    num_heads: int
    mlp_dim: int | None
    activation: str
    norm_eps: float

    @nn.compact
    def __call__(self, z, mask):
        """Pooled vectors ``(*batch, d)`` of checked tokens, and the attention ``(*batch, 1, H, n)``."""
        width, dtype = z.shape[-1], accumulation_dtype(z)
        check_divides("num_heads", self.num_heads, "d", width)
        check_number("norm_eps", self.norm_eps, above=0.0)
        mlp_dim = 4 * width if self.mlp_dim is None else self.mlp_dim
        check_count("mlp_dim", mlp_dim)
        heads = (self.num_heads, width // self.num_heads)
        probe = self.param("probe", nn.initializers.normal(1.0), (width,), jnp.float32)
        query, key, value = (
            _Heads((width, *heads), use_bias=name != "key", name=name)()
            for name in ("query", "key", "value")
        )
        out, out_bias = _Heads((*heads, width), num_inputs=2, name="out")()
        tokens = zero_masked(z, mask).astype(dtype)
        asked = jnp.einsum("d,dhk->hk", probe, query[0]) + query[1]
        scores = jnp.einsum("dhk,hk->dh", key[0], asked) / jnp.sqrt(heads[1])
        weights, averages = averages_by_scores(tokens, scores_along(tokens, scores), mask)
        read = jnp.einsum("...hd,dhk->...hk", averages, value[0].astype(dtype))
        read = read + with_leading_axes(value[1].astype(dtype), read.ndim)
        pooled = jnp.einsum("...hk,hke->...e", read, out.astype(dtype))
        pooled = pooled + with_leading_axes(out_bias.astype(dtype), pooled.ndim)
        inner = LayerNorm(self.norm_eps, use_fast_variance=False, name="norm")(pooled)
        hidden = activation_from_name(self.activation)(nn.Dense(mlp_dim, name="mlp_in")(inner))
        pooled = pooled + nn.Dense(width, name="mlp_out")(hidden)
        return pooled, weights[..., None, :, :]


class _Heads(nn.Module):
    """A kernel of heads and, if asked for, a bias."""

    shape: tuple[int, ...]
    num_inputs: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self) -> Any:
        inputs, outputs = (
            tuple(range(*ends)) for ends in ((self.num_inputs,), (self.num_inputs, len(self.shape)))
        )
        init = nn.initializers.variance_scaling(
            1.0, "fan_in", "truncated_normal", in_axis=inputs, out_axis=outputs
        )
        kernel = self.param("kernel", init, self.shape, jnp.float32)
        if not self.use_bias:
            return kernel, None
        bias_shape = self.shape[self.num_inputs :]
        return kernel, self.param("bias", nn.initializers.zeros, bias_shape, jnp.float32)
