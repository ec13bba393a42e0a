"""How far tokens reach behind attention and feed-forward layers: domains of what comes out.

Theory, section 7.2.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._numerics import safe_norm
from poolax.attention import L2, Cosine, DotProduct, Kind
from poolax.bounds._combine import Combination, combination
from poolax.bounds._kernels import Kernels, read_kernels
from poolax.bounds._linalg import product_norm, spectral_norm
from poolax.records import Domain


def attention_domain(
    kind: Kind,
    params: Mapping[str, Any],
    domain: Domain | None,
    *,
    tight: bool,
    kernels: Kernels | None = None,
    token_bias: Float[Array, " d"] | None = None,
    combine: Combination | None = None,
) -> Domain:
    r"""The domain of what an attention layer gives for tokens in ``domain``.

    With ``V`` the norm of the map from averages of tokens, one for each head, to the output: radius
    ``V R + |b_V W_O + b_O|`` and spread ``V spread``, since averages of tokens lie in their hull
    and biases cancel. Through normalised values ``nu sqrt(H) |W_O| + |b_O|`` and ``nu sqrt(H)
    |W_O|`` at most, whatever comes in: ``domain`` may then be ``None``. With ``kernels`` that a
    scale and bias of the tokens are folded into, ``token_bias`` is that bias.
    """
    if kernels is None:
        kernels = read_kernels(params, has_key=not isinstance(kind, L2))
    num_heads = kernels.out.shape[0]
    constant = jnp.ones(num_heads, kernels.out.dtype)
    normalised = isinstance(kind, Cosine) and not kind.plain_values
    if isinstance(kind, Cosine):
        constant = kind.nu * constant
    if isinstance(kind, L2) and not kind.plain_values:
        root = math.sqrt(kernels.query.shape[-1])
        if tight:
            constant = spectral_norm(kernels.query) / root
        else:
            # A_h W_V^h = W_Q^h (W_Q^hT W_V^h), never formed: its factors, (H, d, d_h) each.
            inner = jnp.einsum("hdk,hde->hek", kernels.query, kernels.value)  # (H, d_v, d_h)
            constant = product_norm(kernels.query, inner) / root
    if combine is None:
        combine = combination(kernels, kind, tight=tight)
    # Heads by their constants (H,) to one number, by the matrices behind them.
    factor = combine(constant)
    shift = _shift(params, kernels, kind, normalised, token_bias)
    if normalised:
        return Domain(radius=factor + shift, spread=factor)
    if domain is None:
        raise ValueError("radius: expected the largest token norm, got None")
    return Domain(radius=factor * domain.radius + shift, spread=factor * domain.spread)


def _shift(params, kernels: Kernels, kind: Kind, normalised: bool, token_bias) -> Float[Array, ""]:
    """Length of what the biases of values and output add."""

    def bias(name):
        part = params.get(name)
        return part.get("bias") if isinstance(part, Mapping) else None

    shift = jnp.zeros(kernels.out.shape[-1], kernels.out.dtype)
    value_bias, out_bias = bias("value"), bias("out")
    if token_bias is not None:
        carried = jnp.einsum("d,dhk->hk", token_bias, params["value"]["kernel"])  # (H_kv, d_v)
        value_bias = carried if value_bias is None else value_bias + carried
    if value_bias is not None and not normalised:
        # Attention sums to one, so that a bias of the values comes out as it is.
        by_head = kernels.by_head(value_bias)  # (H, d_v)
        scale = 1.0 if isinstance(kind, DotProduct | L2) else kind.nu
        shift = shift + scale * jnp.einsum("hk,hke->e", by_head, kernels.out)  # (e,)
    if out_bias is not None:
        shift = shift + jnp.asarray(out_bias, shift.dtype)
    return safe_norm(shift)


def residual(domain: Domain, branch: Domain) -> Domain:
    """The domain of ``x + branch(x)``."""
    radius = domain.radius + branch.radius
    return Domain(radius=radius, spread=jnp.minimum(domain.spread + branch.spread, radius))
