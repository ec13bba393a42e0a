"""Feed-forward layers on balls around given tokens: how much their Jacobians change.

A hidden unit moves by at most the token's move times the length of its column, so that the slope of its
activation stays in an interval; the Jacobian changes by ``W_1 diag(e) W_2`` with small ``e``.

Theory, section 5.6.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._layer_specs import FeedForwardSpec
from poolax._numerics import safe_norm, safe_sqrt
from poolax.bounds._linalg import spectral_norm
from poolax.bounds._slope_range import slope_range

# Up to this width norms of a token's own matrices are cheap.
_SMALL = 64
# Of what sums of products lose: signs of hidden units near zero hang on it.
_LOST = 64


class TokensBall:
    """A feed-forward layer around given tokens, whose Jacobians are bounded on balls.

    Args:
        branch: The layer.
        scale: What it is multiplied with, a number or shape ``(d,)``.
        x: Tokens at the centre, shape ``(n, d)``.
        middle: Hidden units there before the activation, ``"hidden"`` and, if there is one, ``"gate"``,
            shape ``(n, m)`` each.
    """

    def __init__(self, branch: FeedForwardSpec, scale, x: Float[Array, "n d"], middle):
        kernels = {name: jnp.asarray(part["kernel"], x.dtype) for name, part in branch.params.items()}
        self._activation, self._middle = branch.activation, middle
        self._out = kernels["out"] * scale
        entering = ["gate", "hidden"] if "gate" in middle else ["hidden"]
        self._first = {name: kernels[name] for name in entering}
        self._sizes = {
            name: safe_norm(kernel, axis=0)[None] for name, kernel in self._first.items()
        }  # (1, m)
        lost = _LOST * jnp.finfo(x.dtype).eps
        lengths = safe_norm(x, axis=-1)[:, None]
        self._lost = {
            name: lost * (lengths * self._sizes[name] + jnp.abs(middle[name])) for name in entering
        }
        self._whole = {name: _Diagonal(kernel, self._out) for name, kernel in self._first.items()}

    def on(self, moved: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """Bounds of the change of each token's Jacobian, and of its norm, for moves of each token."""
        change, largest = 0.0, 0.0
        for name, (apart, most) in self._entries(moved).items():
            change = change + self._whole[name](apart)
            largest = largest + self._whole[name](most)
        return jnp.asarray(change), jnp.asarray(largest)

    def along(
        self, covectors: Float[Array, "n d"]
    ) -> Callable[[Float[Array, " n"]], tuple[Float[Array, " n"], Float[Array, " n"]]]:
        """The same of ``J_i c_i``, ``c_i`` the covector of output token ``i``, by the moves."""
        behind = jnp.abs(covectors @ self._out.T)  # (n, m)

        def of(entries, name):
            weighted = entries * behind
            apart = jnp.sum(weighted * self._sizes[name], axis=-1)
            return jnp.minimum(apart, self._whole[name].first_norm * safe_norm(weighted, axis=-1))

        def on(moved):
            change, largest = 0.0, 0.0
            for name, (apart, most) in self._entries(moved).items():
                change, largest = change + of(apart, name), largest + of(most, name)
            return jnp.asarray(change), jnp.asarray(largest)

        return on

    def through_units(
        self,
        covectors: Float[Array, "n d"],
        moved: Float[Array, " n"],
        moves: Mapping[str, Float[Array, "n m"]],
        slopes: Mapping[str, Float[Array, "n m n"]],
    ) -> Float[Array, " n"]:
        """How much gradients by what enters the layers before change, as slopes of hidden units do.

        Args:
            covectors: Of each output token.
            moved: How far tokens move.
            moves: How far hidden units move, by their kernel.
            slopes: Bounds of the units' derivatives by each token of the input.
        """
        behind = jnp.abs(covectors @ self._out.T)  # (n, m)
        entries = self._entries(moved, moves)
        terms = [
            jnp.einsum("im,imk->k", apart * behind, slopes[name])
            for name, (apart, _) in entries.items()
        ]
        return jnp.sum(jnp.stack(terms), axis=0)

    def _entries(self, moved, moves: Mapping[str, Float[Array, "n m"]] | None = None):
        """For each kernel the most that entries of its diagonal change by, and their sizes; (n, m)."""
        reach = {name: moved[:, None] * size for name, size in self._sizes.items()}
        if moves is not None:
            reach = {name: jnp.minimum(far, moves[name]) for name, far in reach.items()}
        reach = {name: far + self._lost[name] for name, far in reach.items()}
        inner = "gate" if "gate" in self._middle else "hidden"
        pre = self._middle[inner]
        low, high = slope_range(self._activation, pre - reach[inner], pre + reach[inner])
        active, slope = jax.jvp(self._activation, (pre,), (jnp.ones_like(pre),))
        apart = jnp.maximum(jnp.maximum(high - slope, slope - low), 0)
        steepest = jnp.maximum(jnp.abs(high), jnp.abs(low))
        if inner == "hidden":
            return {"hidden": (apart, steepest)}
        # act(g) h: through the gate act'(g) h, through the other act(g).
        hidden = jnp.abs(self._middle["hidden"])
        through_gate = apart * (hidden + reach["hidden"]) + jnp.abs(slope) * reach["hidden"]
        through_hidden = steepest * reach["gate"]
        return {
            "gate": (through_gate, steepest * (hidden + reach["hidden"])),
            "hidden": (through_hidden, jnp.abs(active) + through_hidden),
        }


class _Diagonal:
    """Bounds of ``|first diag(e) second|`` for entries at most ``e`` in size.

    The smallest of ``max e |first diag(s)| |diag(1/s) second|``, ``s`` even or such that hidden units
    weigh the same on both sides; the sum of ``e`` times lengths on both sides; the norm of one side
    times the Frobenius norm of the other; and, for small widths, the first with ``e`` shared by both.
    """

    def __init__(self, first, second):
        self._first, self._second = first, second
        self._left, self._right = safe_norm(first, axis=0)[None], safe_norm(second, axis=1)[None]
        ratio = self._right / jnp.maximum(self._left, jnp.finfo(first.dtype).tiny)
        # Any s proves a bound; far from one it would cost more digits than it gains. (1, m)
        self._balance = jnp.sqrt(jnp.clip(ratio, 1e-3, 1e3))
        self._norms = spectral_norm(first), spectral_norm(second)
        balanced = spectral_norm(first * self._balance) * spectral_norm(second / self._balance.T)
        self._evenly = jnp.minimum(self._norms[0] * self._norms[1], balanced)

    @property
    def first_norm(self) -> Float[Array, ""]:
        """The norm of what stands before the diagonal."""
        return self._norms[0]

    def __call__(self, entries: Float[Array, "n m"]) -> Float[Array, " n"]:
        bounds = [
            jnp.max(entries, axis=-1) * self._evenly,
            jnp.sum(entries * self._left * self._right, axis=-1),
            self._norms[0] * safe_norm(entries * self._right, axis=-1),
            self._norms[1] * safe_norm(entries * self._left, axis=-1),
        ]
        if min(self._first.shape[0], self._second.shape[1]) <= _SMALL:
            roots = safe_sqrt(entries)
            first = self._first[None] * (roots * self._balance)[:, None]
            second = (roots / self._balance)[..., None] * self._second[None]
            bounds.append(spectral_norm(first) * spectral_norm(second))
        return jnp.min(jnp.stack(bounds), axis=0)
