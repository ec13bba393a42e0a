"""Tokens that attend to a dictionary, each alone, at given tokens and on balls around them.

Logits are linear in the token and values are fixed, so that a Jacobian is a covariance of both under
the weights, ``sum_h sum_m p_m (a_m - mean a)(w_m - mean w)^T``, and changes with the weights alone.

Theory, section 5.6.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._layer_specs import DictionarySpec
from poolax._numerics import safe_norm, safe_sqrt
from poolax.bounds._softmax_box import largest_mean, weight_range


def dictionary_at(
    branch: DictionarySpec, x: Float[Array, "n d"]
) -> tuple[Float[Array, "n d"], Callable[[Any], Float[Array, "d d"]], dict[str, Any]]:
    """What tokens read, its Jacobian at a token, and the weights ``(n, H, m)``."""
    weights = jax.nn.softmax(jnp.einsum("nd,hmd->nhm", x, branch.keys), axis=-1)

    def jacobian(index):
        keys, values = _centred(weights[index], branch)
        return jnp.einsum("hm,hmd,hme->de", weights[index], keys, values)

    out = jnp.einsum("nhm,hmd->nd", weights, branch.values)
    return out, jacobian, {"weights": weights}


def _centred(weights, branch):
    """Keys and values less their means under the weights ``(H, m)`` of a token."""
    return tuple(
        rows - jnp.einsum("hm,hmd->hd", weights, rows)[:, None] for rows in (branch.keys, branch.values)
    )


class DictionaryBall:
    """Attention on a dictionary around given tokens, whose Jacobians are bounded on balls.

    Args:
        branch: The layer.
        scale: What it is multiplied with, a number or shape ``(d,)``.
        weights: Attention at the tokens, shape ``(n, H, m)``.
    """

    def __init__(self, branch: DictionarySpec, scale, weights: Float[Array, "n H m"]):
        self._branch = DictionarySpec(branch.keys, branch.values * scale)
        self._weights = weights
        # All logits of a head may shift alike: only what keys are apart from their mean counts.
        self._apart, self._values = jax.lax.map(
            lambda at: tuple(safe_norm(rows, axis=-1) for rows in _centred(at, self._branch)), weights
        )  # (n, H, m) each
        self._smallest = float(jnp.finfo(weights.dtype).tiny)

    def on(self, moved: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """Bounds of the change of each token's Jacobian, and of its norm, for moves of each token."""
        return self._bounds(moved, self._values)

    def along(
        self, covectors: Float[Array, "n d"]
    ) -> Callable[[Float[Array, " n"]], tuple[Float[Array, " n"], Float[Array, " n"]]]:
        """The same of ``J_i c_i``, ``c_i`` the covector of output token ``i``, by the moves."""
        read = jnp.einsum("hmd,nd->nhm", self._branch.values, covectors)
        read = read - jnp.sum(self._weights * read, axis=-1, keepdims=True)
        return lambda moved: self._bounds(moved, jnp.abs(read))

    def _bounds(self, moved, values):
        logit_moves = self._apart * moved[:, None, None]
        # A weight that fell below all numbers may still rise.
        box = self._weights + self._smallest, logit_moves, logit_moves
        low, high = weight_range(*box)
        shift = jnp.maximum(jnp.maximum(high - self._weights, self._weights - low), 0)
        # The means move as well, by a product of the second order.
        means = jnp.sum(shift * self._apart, axis=-1) * jnp.sum(shift * values, axis=-1)
        change = jnp.sum(shift * self._apart * values, axis=-1) + means
        # A covariance is at most the root of both second moments, and these are means.
        seconds = largest_mean(*box, jnp.square(self._apart)) * largest_mean(*box, jnp.square(values))
        at_centre = jnp.sum(self._weights * self._apart * values, axis=-1)
        largest = jnp.minimum(safe_sqrt(seconds), at_centre + change)
        change = jnp.minimum(change, at_centre + largest)
        return jnp.sum(change, axis=-1), jnp.sum(largest, axis=-1)
