"""How the heads of an attention layer combine to one bound.

Theory, section 4.2; tight 8.7.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._numerics import at_highest_precision, divisor, safe_norm, safe_sqrt
from poolax.attention import L2, DotProduct, Kind
from poolax.bounds._kernels import Kernels
from poolax.bounds._linalg import product_norm, spectral_norm, top_eigenpair


@dataclasses.dataclass(frozen=True)
class Combination:
    r"""How constants ``L_h`` of the heads become one of the layer; increasing in every ``L_h``.

    The layer is ``sum_h z_h F_h``. Heads without their values have ``F_h = W_V^h W_O^h``; where the
    kind normalises values, or sends them through its metric, they belong to the head, and ``F_h =
    W_O^h``. Tight, what is behind the metric's root does not: ``F_h = W_Q^{hT} W_V^h W_O^h``.

    Sharp: ``min(|W_O| sqrt(sum_h (|W_V^h| L_h)^2), sum_h |F_h| L_h)``, for L2 attention its first term.
    Tight: for any ``alpha_h > 0``, by Cauchy-Schwarz over heads,

        ``|sum_h dz_h F_h| <= |[F_h / alpha_h]_h| sqrt(sum_h (alpha_h L_h)^2)``,

    the matrices ``F_h / alpha_h`` one below the other. ``alpha_h = |W_V^h|`` is never above the first
    sharp term, since ``F_h / alpha_h = (W_V^h / |W_V^h|) W_O^h``; ``alpha_h^2 = |F_h| / L_h`` never
    above ``sum_h |F_h| L_h``, since ``|sum_h F_h^T F_h / alpha_h^2| <= sum_h |F_h| L_h``. The
    smaller counts.

    Attributes:
        values: ``W_V^h``, ``W_Q^{hT} W_V^h``, or ``None`` where they belong to the head.
        out: ``W_O^h``.
        value_norm: Norms of ``values``, or one.
        factor_norm: ``|F_h|``.
        out_norm: ``|W_O|`` of all heads together.
        by_value: ``|[F_h / |W_V^h|]_h|``, or ``None`` for the sharp combination.
        jointly: Whether the sharp combination is its first term alone.
    """

    values: Float[Array, "H d d_h"] | None
    out: Float[Array, "H d_h d"]
    value_norm: Float[Array, " H"]
    factor_norm: Float[Array, " H"]
    out_norm: Float[Array, ""]
    by_value: Float[Array, ""] | None
    jointly: bool

    def __call__(
        self, heads: Float[Array, " H"], balanced: "Balanced | None" = None
    ) -> Float[Array, ""]:
        """The layer's constant, from what :meth:`balanced` gave if that is known."""
        weighted = safe_norm(self.value_norm * heads)
        sharp = self.out_norm * weighted
        if not self.jointly:
            sharp = jnp.minimum(sharp, jnp.sum(self.factor_norm * heads))
        if self.by_value is None:
            return sharp
        balanced = self.balanced(heads) if balanced is None else balanced
        return jnp.minimum(jnp.minimum(self.by_value * weighted, balanced.total), sharp)

    def balanced(self, heads: Float[Array, " H"]) -> "Balanced":
        """The parts of ``alpha_h^2 = |F_h| / L_h``, without heads that are idle."""
        return Balanced(
            outer=stacked_norm(self.values, self.out, heads * inverse(self.factor_norm)),
            weights=self.factor_norm * inverse(heads),
            inner=safe_sqrt(jnp.sum(self.factor_norm * heads)),
        )

    def factor_sizes(self) -> Float[Array, " H"]:
        """Frobenius norms of ``F_h``, which are never formed."""
        out, of_out = _unit_entries(self.out)
        if self.values is None:
            return of_out * safe_norm(out, axis=(-2, -1))
        values, of_values = _unit_entries(self.values)
        inner = jnp.swapaxes(values, -1, -2) @ values  # (H, d_v, d_v)
        square = jnp.sum(inner * (out @ jnp.swapaxes(out, -1, -2)), axis=(-2, -1))
        return of_values * of_out * safe_sqrt(jnp.maximum(square, 0))


@dataclasses.dataclass(frozen=True)
class Balanced:
    """``|[F_h / alpha_h]_h|``, ``alpha_h^2`` and ``sqrt(sum_h (alpha_h L_h)^2)``."""

    outer: Float[Array, ""]
    weights: Float[Array, " H"]
    inner: Float[Array, ""]

    @property
    def total(self) -> Float[Array, ""]:
        """The layer's constant by these ``alpha_h``."""
        return self.outer * self.inner


def combination(kernels: Kernels, kind: Kind, *, tight: bool) -> Combination:
    """The combination of the heads of a layer."""
    through_metric = isinstance(kind, L2) and not kind.plain_values
    values = None
    if isinstance(kind, DotProduct) or kind.plain_values:
        values = kernels.value
    elif through_metric and tight:
        values = jnp.einsum("hdk,hde->hke", kernels.query, kernels.value)  # (H, d_h, d_v)
    out = jnp.swapaxes(kernels.out, -1, -2)  # (H, d, d_v): product_norm takes its transpose
    apart = values is not None
    value_norm = spectral_norm(values) if apart else jnp.ones(kernels.out.shape[0])
    return Combination(
        values=values,
        out=kernels.out,
        value_norm=value_norm,
        factor_norm=product_norm(values, out) if apart else spectral_norm(kernels.out),
        out_norm=_joined_norm(kernels.out),
        by_value=(_stacked_by_roots(values, kernels.out, inverse(value_norm)) if tight else None),
        jointly=through_metric and not tight,
    )


def _joined_norm(out):
    """``|W_O|`` of all heads together, from kernels (H, d_h, d)."""
    return spectral_norm(out.reshape(-1, out.shape[-1]))


def inverse(x):
    """``1 / x``, and zero for zero."""
    return jnp.where(x > 0, 1 / jnp.where(x > 0, x, 1), 0)


def stacked_norm(values, out, weights):
    """Norm of the matrices ``sqrt(weights_h) values_h out_h`` one below the other."""
    return _stacked_by_roots(values, out, safe_sqrt(weights))


@jax.jit
@at_highest_precision
def _stacked_by_roots(values, out, roots):
    """The same from the roots of the weights, which may be far from one without leaving the range.

    The top eigenvector of their Gram matrix is held fixed under differentiation, which gives the exact
    derivative, since the form is stationary there. What an approximate vector of a large matrix lacks
    is added. Matrices are divided by their largest entries, and the heads by the largest of them, so
    that no square leaves the range of numbers.
    """
    values, of_values = (None, 1.0) if values is None else _unit_entries(values)
    out, of_out = _unit_entries(out)
    sizes = roots * of_values * of_out
    largest = jax.lax.stop_gradient(jnp.max(sizes))
    largest = jnp.where(largest > 0, largest, 1)
    sizes = sizes / largest
    weights = jnp.square(sizes)
    # sum_h w_h F_h^T F_h = sum_h w_h W_O^{hT} (V_h^T V_h) W_O^h, the inner product (H, d_v, d_v).
    inner = jnp.swapaxes(out, -1, -2)  # (H, d, d_v)
    if values is not None:
        inner = inner @ (jnp.swapaxes(values, -1, -2) @ values)
    gram = jax.lax.stop_gradient(jnp.einsum("h,hdk,hke->de", weights, inner, out))
    scale = jnp.max(jnp.abs(gram))
    scale = jnp.where(scale > 0, scale, 1)
    value, vector = top_eigenpair(gram / scale)
    # The norm is that of the stacked F_h v: (H, d_v), then (H, d).
    rows = jnp.einsum("hke,e->hk", out, vector)
    if values is not None:
        rows = jnp.einsum("hdk,hk->hd", values, rows)
    norm = safe_norm(sizes[:, None] * rows)
    norm = norm + jax.lax.stop_gradient(jnp.maximum(jnp.sqrt(scale * value) - norm, 0))
    return largest * norm


def _unit_entries(matrices):
    """Matrices ``(H, m, k)`` divided by their largest entries, and these."""
    largest = divisor(jax.lax.stop_gradient(jnp.max(jnp.abs(matrices), axis=(1, 2))))
    return matrices / largest[:, None, None], largest
