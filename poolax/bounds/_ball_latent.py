"""Latent attention pooling on balls around given tokens: layers that map each token alone, averaged.

Theory, section 5.6.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax._activations import gelu
from poolax._layer_specs import DictionarySpec, FeedForwardSpec, LayerSpec, NormSpec
from poolax._numerics import safe_norm
from poolax.bounds._ball_layers import LayerBall
from poolax.bounds._layer_maps import layer_map
from poolax.bounds._reach import Reach
from poolax.pooling import LatentAttentionPool

# Up to this width exact norms of tokens' own matrices are worth their time.
_EXACT = 128


def latent_layers(
    pooler: LatentAttentionPool, params: Mapping[str, Any], dtype: Any
) -> tuple[LayerSpec, LayerSpec]:
    """The two layers whose outputs are averaged."""
    query, key, value, out, latents = (
        jnp.asarray(params[name], dtype) for name in ("query", "key", "value", "out", "latents")
    )
    keys = jnp.einsum("md,dhk,ehk->hme", latents, key, query) / jnp.sqrt(
        jnp.asarray(query.shape[-1], dtype)
    )
    values = jnp.einsum("md,dhk,hke->hme", latents, value, out)

    def norm(name):
        if not pooler.use_norm:
            return None
        return NormSpec("layer", params[name]["scale"], params[name]["bias"], pooler.epsilon)

    mlp = FeedForwardSpec({"hidden": params["mlp_in"], "out": params["mlp_out"]}, gelu)
    return (
        LayerSpec("dictionary", DictionarySpec(keys, values), norm_before=norm("norm1")),
        LayerSpec("mlp", mlp, norm_before=norm("norm2")),
    )


class LatentBall:
    """Latent attention around given tokens, whose derivative is bounded on balls.

    Args:
        pooler: The pooler.
        params: Its parameters.
        z: Tokens at the centre, shape ``(n, d)``.
        real: True at tokens that are real, which alone move.
    """

    def __init__(
        self,
        pooler: LatentAttentionPool,
        params: Mapping[str, Any],
        z: Float[Array, "n d"],
        real: Bool[Array, " n"],
    ):
        self._real, self._count = real, jnp.maximum(jnp.sum(real), 1).astype(z.dtype)
        first, second = latent_layers(pooler, params, z.dtype)
        exact = z.shape[-1] <= _EXACT
        self._first = LayerBall(first, z, None, real, exact=exact)
        self._second = LayerBall(second, self._first.result, None, real, exact=exact)
        self._mlp = layer_map(second, self._first.result, None, real)[0]

    def derivative(self, radii: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, ""]]:
        """Bounds of the derivative by each token, and of all of it, where tokens move by ``radii``."""
        before = _slopes(self._first, radii)
        tokens = before * _slopes(self._second, before * radii) / self._count
        return tokens, safe_norm(tokens)

    def changes(self, radii: Float[Array, " n"], direction: Float[Array, " d"]) -> Float[Array, " n"]:
        """How much the derivative of ``direction @ pooler(z)`` by each token changes there."""
        behind = jnp.where(self._real[:, None], direction[None] / self._count, 0)
        between = jax.vjp(self._mlp, self._first.result)[1](behind)[0]
        before = _slopes(self._first, radii)
        of_first = self._first.changes_along(between, _alone(radii))
        return of_first + before * self._second.changes_along(behind, _alone(before * radii))


def _alone(radii):
    """Tokens that move each by a radius of its own, which is one reach in both geometries."""
    return Reach(jnp.diag(radii), "tokens")


def _slopes(layer: LayerBall, radii):
    """Bounds of the norms of the tokens' own Jacobians."""
    reach = _alone(radii)
    return jnp.diagonal(layer.whole_on(layer.sum_on(reach), reach))
