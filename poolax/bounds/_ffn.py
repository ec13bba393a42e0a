"""Lipschitz constants of feed-forward layers.

Theory, sections 7.3 and 7.4.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from poolax._numerics import safe_norm
from poolax.bounds._linalg import spectral_norm


def two_layer_lipschitz(
    first: Float[Array, "d m"], second: Float[Array, "m e"], slope: float, *, tight: bool
) -> Float[Array, ""]:
    r"""Lipschitz constant of ``act(x W_1) W_2``, ``act`` with slopes from ``1 - slope`` to ``slope``.

    Sharp: ``slope |W_1| |W_2|``. Tight: with ``act' = 1/2 + r``, ``|r| <= slope - 1/2``, the
    Jacobian is ``W_1 W_2 / 2 + W_1 diag(r) W_2``, so that

        ``|W_1 W_2| / 2 + (slope - 1/2) min_s |W_1 diag(s)| |diag(1/s) W_2|``,

    ``s`` one, or ``s_j^2 = |row j of W_2| / |column j of W_1|``, which evens out hidden units.
    """
    apart = spectral_norm(first) * spectral_norm(second)
    if not tight:
        return slope * apart
    balance = balance_of(first, second)
    balanced = spectral_norm(first * balance[None]) * spectral_norm(second / balance[:, None])
    return 0.5 * spectral_norm(first @ second) + (slope - 0.5) * jnp.minimum(apart, balanced)


def balance_of(first: Float[Array, "d m"], second: Float[Array, "m e"]) -> Float[Array, " m"]:
    """Scales of hidden units that even out what enters and what leaves each."""
    ratio = safe_norm(second, axis=1) / jnp.maximum(
        safe_norm(first, axis=0), jnp.finfo(first.dtype).tiny
    )
    # Any scale proves a bound; far from one it would cost more digits than it gains.
    return jnp.sqrt(jnp.clip(ratio, 1e-3, 1e3))


def gated_lipschitz(
    gate: Float[Array, "d m"],
    hidden: Float[Array, "d m"],
    out: Float[Array, "m e"],
    slope: float,
    radius: Float[ArrayLike, ""],
    gate_bias: Float[Array, " m"] | float = 0.0,
    hidden_bias: Float[Array, " m"] | float = 0.0,
) -> Float[Array, ""]:
    r"""Lipschitz constant of ``(act(x W_g + b_g) * (x W_u + b_u)) W_d`` on ``|x| <= radius``.

    ``|W_d| (slope |W_g diag(R |u_j| + |b_uj|)| + |W_u diag(R |g_j| + |b_gj|)|)`` with columns
    ``g_j`` and ``u_j``, for activations with ``|act(t)| <= |t|``: the product rule, entry by entry.
    """
    # The most that each hidden unit can be on the ball, (m,).
    longest_hidden = radius * safe_norm(hidden, axis=0) + jnp.abs(hidden_bias)
    longest_gate = radius * safe_norm(gate, axis=0) + jnp.abs(gate_bias)
    through_gate = slope * spectral_norm(gate * longest_hidden[None])
    return spectral_norm(out) * (through_gate + spectral_norm(hidden * longest_gate))
