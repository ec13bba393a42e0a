"""Local bounds of dot-product attention from the rows of its attention map.

Theory, sections 5.1 and 5.2.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax._numerics import safe_norm
from poolax.attention import DotProduct
from poolax.bounds._combine import combination
from poolax.bounds._kernels import Kernels
from poolax.bounds._linalg import product_norm, spectral_norm


def row_form(
    kind: DotProduct, kernels: Kernels, x: Float[Array, "n d"], weights: Float[Array, "H n n"]
) -> Float[Array, ""]:
    r"""``sqrt(max_k sum_i P_ik (1 + |a_i|^2 |Cov_i|)) + max_i |Cov_i A^T|`` for each head, combined."""
    scale = kind.logit_scale(kernels.query.shape[-1])
    slopes = safe_norm(logit_gradients(kernels, x, scale), axis=-1)  # (H, n)

    def row(index):
        attention = weights[:, index]  # (H, n)
        centred = x[None] - jnp.einsum("hk,kd->hd", attention, x)[:, None]  # (H, n, d)
        spread = jnp.sqrt(attention)[..., None] * centred  # Cov_i = spread^T spread
        keys = jnp.einsum("hkd,hde->hke", spread, kernels.key)  # (H, n, d_h)
        through_keys = jnp.einsum("hkd,hke->hde", spread, keys)  # Cov_i W_K, (H, d, d_h)
        # |Cov_i|, and |Cov_i A^T| without the logits' scale.
        return jnp.square(spectral_norm(spread)), product_norm(through_keys, kernels.query)

    covariance, own = jax.lax.map(row, jnp.arange(x.shape[0]))  # (n, H)
    rate = 1 + jnp.square(slopes) * covariance.T  # (H, n)
    # By key: the largest column of P with the rows' rates.
    mixing = jnp.sqrt(jnp.max(jnp.einsum("hik,hi->hk", weights, rate), axis=-1))
    return combination(kernels, kind, tight=True)(mixing + scale * jnp.max(own, axis=0))


def centred_form(
    kind: DotProduct,
    kernels: Kernels,
    x: Float[Array, "n d"],
    weights: Float[Array, "H n n"],
    real: Bool[Array, " n"],
) -> Float[Array, ""]:
    r"""``|P| + |X_c| (|A X_c^T| + |X A + 1 c^T|) max_i g(P_i)`` for each head, combined."""
    scale = kind.logit_scale(kernels.query.shape[-1])
    count = jnp.maximum(jnp.sum(real), 1)
    kept = real[:, None]
    mean = jnp.sum(jnp.where(kept, x, 0), axis=0, keepdims=True) / count
    centred = jnp.where(kept, x - mean, 0)
    gradients = jnp.where(kept, logit_gradients(kernels, x, scale), 0)
    keys = jnp.einsum("nd,hde->hne", centred, kernels.key)  # (H, n, d_h)
    through = scale * product_norm(keys, kernels.query)
    # g(p) = p_(1) (1 - p_(1) + p_(2)) of each row of the map, (H, n).
    by_size = jnp.sort(weights, axis=-1, descending=True)
    # One minus the largest, summed from the others: peaked rows would cancel.
    rest = jnp.sum(by_size[..., 1:], axis=-1)
    second = by_size[..., 1] if weights.shape[-1] > 1 else 0
    peak = jnp.max(by_size[..., 0] * (rest + second), axis=-1)
    reach = spectral_norm(centred) * (through + spectral_norm(gradients))
    return combination(kernels, kind, tight=True)(spectral_norm(weights) + reach * peak)


def logit_gradients(kernels: Kernels, x: Float[Array, "n d"], scale: float) -> Float[Array, "H n d"]:
    """``a_i = A^T x_i + c``, what the logits of query ``i`` change with a key's token."""
    query = jnp.einsum("nd,hdk->hnk", x, kernels.query)
    if kernels.query_bias is not None:
        query = query + kernels.query_bias[:, None]
    return scale * jnp.einsum("hnk,hdk->hnd", query, kernels.key)
