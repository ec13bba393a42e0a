"""Layers of backbones on balls around given tokens: the norms of their Jacobians' blocks there.

A layer is taken in two steps, the sum of branch and residual connection and the norm behind it, since
how steep that norm is depends on how far the sum may move.

Theory, section 5.6.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from poolax._layer_specs import AttentionSpec, DictionarySpec, FeedForwardSpec, LayerSpec
from poolax._numerics import safe_norm
from poolax.bounds._ball_attention import AttentionBall
from poolax.bounds._ball_dictionary import DictionaryBall
from poolax.bounds._ball_norms import NormBall, norm_on_ball, normalises
from poolax.bounds._ball_tokens import TokensBall
from poolax.bounds._linalg import spectral_norm
from poolax.bounds._local_blocks import blocks_apart
from poolax.bounds._local_layers import Around, attention_at, tokens_at
from poolax.bounds._local_norms import norm_at
from poolax.bounds._overflow import or_infinite
from poolax.bounds._reach import Reach


@struct.dataclass
class SumOnBall:
    """The sum of branch and residual connection on a ball.

    Attributes:
        blocks: Bounds of its blocks, output token first.
        change: Bounds of how much they change.
        branch: Bounds of the branch's own blocks.
        before: Bounds of the derivatives of the norm before the branch.
    """

    blocks: Float[Array, "n n"]
    change: Float[Array, "n n"]
    branch: Float[Array, "n n"]
    before: Float[Array, " n"]


class LayerBall:
    """A layer around given tokens, whose blocks are bounded on balls.

    Args:
        spec: The layer.
        x: Tokens at the centre, shape ``(n, d)``.
        attention: Attention there, shape ``(H, n, n)``; ``None`` for other layers.
        real: True at tokens that are real, which alone move.
        exact: Whether to take norms of tokens' own matrices at the centre, most of the work of a wide
            layer; without them bounds are larger.
    """

    def __init__(
        self,
        spec: LayerSpec,
        x: Float[Array, "n d"],
        attention: Float[Array, "H n n"] | None,
        real: Bool[Array, " n"],
        *,
        exact: bool = True,
    ):
        self._spec, self._x, self._real = spec, x, real
        self._around = around = Around.of(spec, x, real)
        self.before_slopes = around.before.slopes
        self.branch: AttentionBall | TokensBall | DictionaryBall | None = None
        at: Any = None
        jacobian: Any = None
        if isinstance(spec.branch, AttentionSpec):
            at = attention_at(spec, around, attention, real)
            out = at.out
            self.branch = AttentionBall(at.kind, at.seen, at.inner, at.weights, **at.options)
        else:
            out, jacobian, middle = tokens_at(spec.branch, around.inner)
            out = jnp.where(real[:, None], around.scale * out, 0)
            if isinstance(spec.branch, FeedForwardSpec):
                self.branch = TokensBall(spec.branch, around.scale, around.inner, middle)
            elif isinstance(spec.branch, DictionarySpec):
                self.branch = DictionaryBall(spec.branch, around.scale, middle["weights"])
        self.summed = around.summed(x, out)
        result, after = norm_at(spec.norm_after, self.summed)
        self.result = jnp.where(real[:, None], result, 0)
        at_centre = norm_on_ball(spec.norm_after, self.summed, jnp.zeros(x.shape[0], x.dtype))
        self.after_slope = jnp.max(jnp.where(real, at_centre.steepest, 0))

        def both(index, block):
            inner = around.block(index, block)
            whole = inner @ after.matrix(index)
            return jnp.stack([whole, inner]) if normalises(spec.norm_after) else whole[None]

        if not exact:
            # Nothing is known but what is on balls.
            self._apart = jnp.full((x.shape[0],) * 2, jnp.inf, x.dtype)
            norms = jnp.full((x.shape[0], 2), jnp.inf, x.dtype)
        elif at is not None:
            options = at.options | {"after": both}
            self._apart, norms = blocks_apart(at.kind, at.seen, at.inner, at.weights, **options)
        else:
            self._apart = jnp.zeros((x.shape[0],) * 2, x.dtype)
            norms = jax.lax.map(
                lambda index: spectral_norm(both(index, jacobian(index) * around.scale)),
                jnp.arange(x.shape[0]),
            )
        # On the diagonal: of the whole layer, and of the sum where the norm behind it is not linear.
        self._whole, self._inner = norms[:, 0], norms[:, -1]

    def sum_on(self, reach: Reach) -> SumOnBall:
        """The sum where what enters the layer moves as ``reach`` says."""
        before, inner = self._before(reach)
        steepest = before.steepest
        change, branch = self._branch_on(inner)
        moved = self._behind_norm(before, change, branch)
        roughly = self._around.kept + steepest * jnp.diagonal(branch)
        diagonal = roughly
        if normalises(self._spec.norm_after):
            diagonal = jnp.minimum(roughly, self._inner + jnp.diagonal(moved))
        eye = jnp.eye(self._x.shape[0], dtype=bool)
        blocks = jnp.where(eye, diagonal[:, None], steepest[None] * branch)
        both = self._real[:, None] & self._real[None]
        return SumOnBall(
            blocks=jnp.where(both, or_infinite(blocks), 0),
            change=jnp.where(both, or_infinite(moved), 0),
            branch=jnp.where(both, or_infinite(branch), 0),
            before=steepest,
        )

    def whole_on(self, found: SumOnBall, reach: Reach) -> Float[Array, "n n"]:
        """Bounds of the whole layer's blocks, where the sum moves as ``reach`` says."""
        after = norm_on_ball(self._spec.norm_after, self.summed, reach.radii)
        diagonal = self._whole + jnp.diagonal(found.change) * after.steepest
        if normalises(self._spec.norm_after):
            diagonal = or_infinite(diagonal + self._inner * after.change)
        rough = after.steepest[:, None] * found.blocks
        eye = jnp.eye(self._x.shape[0], dtype=bool)
        blocks = jnp.where(eye, jnp.minimum(diagonal[:, None], rough), rough)
        both = self._real[:, None] & self._real[None]
        return jnp.where(both, or_infinite(blocks), 0)

    def change_of_whole(self, found: SumOnBall, reach: Reach) -> Float[Array, "n n"]:
        """Bounds of how much the whole layer's blocks change, where the sum moves as ``reach`` says."""
        after = norm_on_ball(self._spec.norm_after, self.summed, reach.radii)
        # The sum at the centre is on the ball.
        return after.steepest[:, None] * found.change + after.change[:, None] * found.blocks

    def steepest(self, found: SumOnBall, reach: Reach) -> Float[Array, ""]:
        """The most that both norms together multiply a token's change with."""
        after = norm_on_ball(self._spec.norm_after, self.summed, reach.radii)
        return jnp.max(jnp.where(self._real, found.before * after.steepest, 0))

    def changes_along(self, seen: Float[Array, "n d"], reach: Reach) -> Float[Array, " n"]:
        """How much gradients by the tokens change, as derivatives of norm and branch do.

        Args:
            seen: Gradients by the sum of branch and residual connection, at the centre.
            reach: How far what enters the layer moves.

        Returns:
            Bounds of ``|sum_i (J_ik - J_ik(centre)) c_i|`` for each token ``k``.
        """
        found, inner = self._before(reach)
        rows = self._behind_norm(found, *self._branch_along(seen, inner))
        return jnp.where(self._real, or_infinite(rows), 0)

    def block_changes_along(self, seen: Float[Array, "n d"], reach: Reach) -> Float[Array, "n n"]:
        """The same of an attention layer for each output token ``i`` alone, which comes first."""
        branch: Any = self.branch
        found, inner = self._before(reach)
        blocks = branch.along(seen)(inner)
        change = self._behind_norm(found, blocks.change, blocks.largest)
        both = self._real[:, None] & self._real[None]
        return jnp.where(both, or_infinite(change), 0)

    def changes_through_units(
        self,
        seen: Float[Array, "n d"],
        reach: Reach,
        blocks: Float[Array, "n n"],
        moves: Mapping[str, Float[Array, "n m"]],
        slopes: Mapping[str, Float[Array, "n m n"]],
    ) -> Float[Array, " n"]:
        """As :meth:`changes_along` of a feed-forward layer, but of gradients by tokens of the input.

        Args:
            seen: Gradients by the sum of branch and residual connection, at the centre.
            reach: How far what enters the layer moves.
            blocks: Bounds of the blocks of the layers before it.
            moves: How far hidden units move, by their kernel.
            slopes: Bounds of their derivatives by each token of the input.
        """
        branch: Any = self.branch
        found, inner = self._before(reach)
        moved, seen = inner.radii, jnp.where(self._real[:, None], seen, 0)
        rows = branch.through_units(seen, moved, moves, slopes)
        if normalises(self._spec.norm_before):
            rows = rows + (found.change * branch.along(seen)(moved)[1]) @ blocks
        return jnp.where(self._real, or_infinite(rows), 0)

    def _before(self, reach: Reach) -> tuple[NormBall, Reach]:
        """The norm before the branch, and how far what enters the branch moves."""
        found = norm_on_ball(self._spec.norm_before, self._x, reach.radii)
        return found, Reach(found.steepest[:, None] * reach.matrix, reach.geometry)

    def _behind_norm(self, found: NormBall, change, largest):
        """The change of a branch as large as ``largest``, with the norm before it; ``(*m, n)``."""
        behind = jnp.expand_dims(self.before_slopes, range(change.ndim - 1)) * change
        if not normalises(self._spec.norm_before):
            return behind
        return behind + jnp.expand_dims(found.change, range(change.ndim - 1)) * largest

    def _branch_along(self, covectors, reach: Reach):
        """How much ``sum_i J_ik c_i`` changes, and how large it is, by each token ``k``."""
        if self.branch is None:
            sizes = safe_norm(covectors, axis=-1)
            return jnp.zeros_like(sizes), sizes
        if not isinstance(self.branch, AttentionBall):
            return self.branch.along(covectors)(reach.radii)
        found = self.branch.along(covectors)(reach)
        return jnp.sum(found.change, axis=0), jnp.sum(found.largest, axis=0)

    def _branch_on(self, reach: Reach):
        """Bounds of the change of the branch's blocks, and of the blocks, on the ball."""
        count = self._x.shape[0]
        if self.branch is None:
            return jnp.zeros((count, count), self._x.dtype), jnp.eye(count, dtype=self._x.dtype)
        if not isinstance(self.branch, AttentionBall):
            change, largest = self.branch.on(reach.radii)
            return jnp.diag(change), jnp.diag(largest)
        found = self.branch.on(reach)
        apart = jnp.minimum(self._apart + found.change, found.largest)
        branch = jnp.where(jnp.eye(count, dtype=bool), found.largest, apart)
        return found.change, branch
