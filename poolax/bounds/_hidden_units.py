"""Hidden units of a feed-forward layer as changes of the input move them, through attention before it.

How far a unit moves, and how steep a lead is through it, hang on the product of its column with the
Jacobian of the attention layer: at the centre of a ball that is known, on the ball it changes as
attention does in the direction of the column. Both are far below products of norms.

Theory, section 9.5.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from poolax._layer_specs import FeedForwardSpec, LayerSpec, NormSpec
from poolax._numerics import safe_norm
from poolax.bounds._ball_layers import LayerBall, SumOnBall
from poolax.bounds._ball_norms import norm_on_ball
from poolax.bounds._local_layers import Around, attention_at
from poolax.bounds._local_norms import norm_at
from poolax.bounds._local_whole import attention_jacobian, is_attention, may_form, rounding_of
from poolax.bounds._overflow import or_infinite
from poolax.bounds._reach import Reach

# Largest width, and tokens squared times hidden units: what is done for each takes seconds beyond.
_MOST_WIDTH, _MOST_PAIRS = 128, 2**20


@struct.dataclass
class HiddenUnits:
    """Units of a feed-forward layer behind attention, by the kernel that they come from.

    Attributes:
        slopes: Norms of each unit's derivative by each token of the input at the centre, token of the
            unit first, shape ``(n, m, n)``.
        columns: Each unit's column as the sum of attention and residual connection sees it, shape
            ``(n, d, m)``.
        inner: Norms of the columns as tokens that come out of the attention layer see them, ``(n, m)``.
        lengths: Norms of the columns, shape ``(m,)``.
        rounding: What slopes may be off by, over ``inner`` times the norms of the layer's blocks.
    """

    slopes: dict[str, Float[Array, "n m n"]]
    columns: dict[str, Float[Array, "n d m"]]
    inner: dict[str, Float[Array, "n m"]]
    lengths: dict[str, Float[Array, " m"]]
    rounding: float = struct.field(pytree_node=False)

    def changes(
        self, spec: LayerSpec, layer: LayerBall, found: SumOnBall, sum_reach: Reach, reach: Reach
    ) -> dict[str, Float[Array, "n m n"]]:
        """Bounds of how much the derivatives change on a ball, as the attention layer does.

        Args:
            spec: The attention layer.
            layer: The same around the input.
            found: Its sum on the ball.
            sum_reach: How far the sum moves.
            reach: How far the input does.
        """
        bent = norm_on_ball(spec.norm_after, layer.summed, sum_reach.radii).change
        turned = bent[:, None] * found.blocks

        def of(columns, inner):
            seen = jnp.moveaxis(columns, -1, 0)  # (m, n, d)
            change = jax.vmap(lambda covectors: layer.block_changes_along(covectors, reach))(seen)
            return jnp.swapaxes(change, 0, 1) + inner[..., None] * turned[:, None]

        return {name: or_infinite(of(self.columns[name], self.inner[name])) for name in self.slopes}

    def on(self, changes, blocks: Float[Array, "n n"], bent: Float[Array, " n"]):
        """Bounds of the derivatives on a ball.

        Args:
            changes: What :meth:`changes` gives there.
            blocks: Bounds of the attention layer's blocks.
            bent: Bounds of how much the derivative of the norm before the units changes.

        Returns:
            Shape ``(n, m, n)``, by kernel.
        """
        lost, turned = self.rounding * blocks, bent[:, None] * blocks
        return {
            name: slopes
            + changes[name]
            + self.inner[name][..., None] * lost[:, None]
            + self.lengths[name][None, :, None] * turned[:, None]
            for name, slopes in self.slopes.items()
        }


def hidden_units(
    layers: Sequence[LayerSpec],
    attention: Float[Array, "H n n"] | None,
    x: Float[Array, "n d"],
    real: Bool[Array, " n"],
) -> HiddenUnits | None:
    """Units of the second of some layers, if the first is attention and both are small enough.

    Args:
        layers: The layers.
        attention: Attention of the first.
        x: What enters it.
        real: True at tokens that are real.
    """
    if len(layers) < 2 or not (is_attention(layers[0]) and may_form(x)) or x.shape[1] > _MOST_WIDTH:
        return None
    branch = layers[1].branch
    if not isinstance(branch, FeedForwardSpec):
        return None
    if x.shape[0] ** 2 * branch.params["hidden"]["kernel"].shape[-1] > _MOST_PAIRS:
        return None
    kernels = {
        name: branch.params[name]["kernel"] for name in ("gate", "hidden") if name in branch.params
    }
    return _units(layers[0], layers[1].norm_before, kernels, attention, x, real)


@jax.jit
def _units(first: LayerSpec, norm: NormSpec | None, kernels, attention, x, real) -> HiddenUnits:
    blocks = attention_jacobian(first, x, attention, real)
    around = Around.of(first, x, real)
    summed = around.summed(x, attention_at(first, around, attention, real).out)
    result, after = norm_at(first.norm_after, summed)
    before = norm_at(norm, result)[1]
    slopes, columns, inner, lengths = {}, {}, {}, {}
    for name, kernel in kernels.items():
        kernel = jnp.asarray(kernel, x.dtype)

        def at(given, kernel=kernel):
            index, row = given
            seen = before.matrix(index) @ kernel  # (d, m)
            # Of a block its rows are changed by the token of the input.
            return (
                safe_norm(row @ seen[None], axis=1).T,
                after.matrix(index) @ seen,
                safe_norm(seen, axis=0),
            )

        slopes[name], columns[name], inner[name] = jax.lax.map(at, (jnp.arange(x.shape[0]), blocks))
        lengths[name] = safe_norm(kernel, axis=0)
    return HiddenUnits(slopes, columns, inner, lengths, rounding=rounding_of(blocks))
