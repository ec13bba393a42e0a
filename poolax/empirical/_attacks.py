"""Attacks: points of a ball around an input where a loss is large."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax._checks import (
    broadcast_mask,
    check_count,
    check_finite,
    check_floating,
    check_instance,
    check_number,
    is_concrete,
)
from poolax._numerics import accumulation_dtype, at_highest_precision
from poolax._typing import AnyArray
from poolax.empirical._projections import Projection, project_to_box
from poolax.records import AttackResult

Loss = Callable[[Float[Array, "..."]], Float[Array, ""]]

# Far along a gradient, in lengths of its largest entry; its square is not taken.
_FAR = 1e30
# Length of all steps together, in radii: enough to cross the ball and to turn.
_PATH = 2.5


@at_highest_precision
def fgsm(
    loss: Loss,
    x: Float[AnyArray, "..."],
    *,
    radius: Float[Any, ""],
    project: Callable[[Any], Projection] = project_to_box,
    clip: tuple[float, float] | None = None,
    mask: Bool[AnyArray, "..."] | None = None,
) -> AttackResult:
    r"""The fast gradient sign method: one step to the edge of the ball.

    ``x + argmax <gradient, c>`` over the changes ``c`` of the ball, for the box
    ``x + radius sign(gradient)``, brought back into ``clip``. A step that lowers the loss is not taken.

    Pure: wrap it in ``jax.jit``, and in ``jax.vmap`` for many inputs.

    Args:
        loss: What is to be made large: from a point to one number.
        x: The input, any shape.
        radius: Of the ball around ``x``, at least 0.
        project: Makes of a radius the projection to the ball around zero, which has to be convex:
            :func:`project_to_box` bounds each entry, :func:`project_to_ball` each token,
            :func:`project_to_frobenius_ball` all together.
        clip: Smallest and largest value that entries may have, such as ``(0, 1)`` for pixels; ``x`` has
            to be in between.
        mask: True at what may change, of the leading axes of ``x``; ``None`` for all.

    Returns:
        The point, its loss, and that of ``x``.

    Raises:
        ValueError: for an input that is not floating and finite or lies outside ``clip``, a number out
            of range, a ``loss`` that is not one floating number, or as ``project`` raises.

    Example:
        >>> import jax.numpy as jnp
        >>> slope = jnp.array([1.0, -2.0, 0.0])
        >>> found = fgsm(lambda x: slope @ x, jnp.zeros(3), radius=0.5)
        >>> found.x, float(found.loss)
        (Array([ 0.5, -0.5,  0. ], dtype=float32), 1.5)

    Reference:
        Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples" (ICLR 2015).
    """
    ball, clean = _begin(loss, x, radius, project, clip, mask)
    point = ball.edge(clean.gradient)
    return _better(AttackResult(x=point, loss=loss(point), clean=clean.loss), clean.at(ball.centre))


@at_highest_precision
def pgd(
    loss: Loss,
    x: Float[AnyArray, "..."],
    key: jax.Array,
    *,
    radius: Float[Any, ""],
    steps: int = 20,
    restarts: int = 1,
    step_size: Float[Any, ""] | None = None,
    project: Callable[[Any], Projection] = project_to_box,
    clip: tuple[float, float] | None = None,
    mask: Bool[AnyArray, "..."] | None = None,
) -> AttackResult:
    r"""Projected gradient ascent of a loss in a ball: the best point that several walks pass.

    ``x <- P(x + step_size argmax <gradient, c>)`` over the changes ``c`` of the unit ball, for the box
    ``P(x + step_size sign(gradient))``. The first walk goes on from the point of :func:`fgsm`, each
    other from a random point of the ball, by a key of its own: more restarts pass all points that fewer
    do. What is found is never below the loss of ``fgsm``, which is never below that of ``x``.

    Pure: wrap it in ``jax.jit``, and in ``jax.vmap`` over inputs and keys. Walks follow each other, so
    that memory does not grow with ``restarts``.

    Args:
        loss: What is to be made large: from a point to one number.
        x: The input, any shape.
        key: Random key; only further restarts use it.
        radius: Of the ball around ``x``, at least 0.
        steps: Steps of each walk.
        restarts: Number of walks.
        step_size: Length of a step, above 0; ``None`` for ``2.5 radius / steps``.
        project: As for :func:`fgsm`.
        clip: As for :func:`fgsm`.
        mask: As for :func:`fgsm`.

    Returns:
        The point of largest loss among all that were passed, its loss, and that of ``x``.

    Raises:
        ValueError: as :func:`fgsm` raises.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from poolax.empirical import project_to_frobenius_ball
        >>> found = pgd(
        ...     lambda x: -jnp.sum((x - 1) ** 2), jnp.zeros(2), jax.random.key(0), radius=0.5,
        ...     project=project_to_frobenius_ball,
        ... )
        >>> found.x.round(2)
        Array([0.35, 0.35], dtype=float32)

    Reference:
        Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks" (ICLR 2018).
    """
    check_count("steps", steps)
    check_count("restarts", restarts)
    ball, clean = _begin(loss, x, radius, project, clip, mask)
    if step_size is not None:
        check_number("step_size", step_size, above=0.0)
    length = _PATH * ball.radius / steps if step_size is None else step_size

    def walk(start):
        def step(now, _):
            point, best = now
            value, gradient = jax.value_and_grad(loss)(point)
            best = _better(AttackResult(x=point, loss=value, clean=clean.loss), best)
            return (ball.nearest(point + length * ball.steepest(gradient)), best), None

        begun = (start, clean.at(ball.centre))
        (point, best), _ = jax.lax.scan(step, begun, length=steps)
        return _better(AttackResult(x=point, loss=loss(point), clean=clean.loss), best)

    numbers = jnp.arange(1, restarts)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)
    first = ball.edge(clean.gradient)[None]
    starts = jnp.concatenate([first, jax.vmap(ball.draw)(keys)]) if restarts > 1 else first
    walked = jax.lax.map(walk, starts)
    top = jnp.argmax(walked.loss)
    return jax.tree.map(lambda leaf: leaf[top], walked)


class _Clean(NamedTuple):
    """What is known at the input.

    Attributes:
        loss: There.
        gradient: There.
    """

    loss: Float[Array, ""]
    gradient: Float[Array, "..."]

    def at(self, x):
        return AttackResult(x=x, loss=self.loss, clean=self.loss)


class _Around(NamedTuple):
    """The ball around an input, and what else a point has to obey.

    Attributes:
        centre: The input.
        radius: Of the ball.
        project: From a radius to a projection.
        clip: Smallest and largest value, or ``None``.
        real: True at what may change.
    """

    centre: Float[Array, "..."]
    radius: Any
    project: Callable[[Any], Projection]
    clip: tuple[float, float] | None
    real: Bool[Array, "..."]

    def nearest(self, point):
        """The point, brought back into the ball and then into ``clip``, which leads out of no ball."""
        change = self.project(self.radius)(jnp.where(self.real, point - self.centre, 0))
        moved = self.centre + change
        moved = moved if self.clip is None else jnp.clip(moved, *self.clip)
        return jnp.where(self.real, moved, self.centre)

    def steepest(self, gradient):
        """The change of the unit ball along which a gradient ascends most.

        A convex set's farthest point along a direction is what points far along it are projected to.
        """
        gradient = jnp.where(self.real & jnp.isfinite(gradient), gradient, 0)
        largest = jnp.max(jnp.abs(gradient))
        far = gradient / jnp.where(largest > 0, largest, 1) * _FAR
        return self.project(1.0)(far)

    def edge(self, gradient):
        """The point of the ball where a linear loss of this gradient is largest, within ``clip``."""
        return self.nearest(self.centre + self.radius * self.steepest(gradient))

    def draw(self, key):
        """A random point: uniform in the box, for other balls projected from there."""
        noise = jax.random.uniform(key, self.centre.shape, self.centre.dtype, minval=-1)
        return self.nearest(self.centre + self.radius * noise)


def _begin(loss, x, radius, project, clip, mask):
    """The ball around a checked input, and the loss and gradient there."""
    check_floating("x", x)
    x = jnp.asarray(x)
    x = x.astype(accumulation_dtype(x))
    check_number("radius", radius, at_least=0.0)
    axes = x.ndim if mask is None else jnp.ndim(mask)
    real = broadcast_mask(mask, x.shape[:axes])
    check_finite("x", x, real)
    real = (
        jnp.ones(x.shape, bool) if real is None else real.reshape(*real.shape, *(1,) * (x.ndim - axes))
    )
    if clip is not None:
        _check_clip(x, clip, real)
    ball = _Around(x, radius, project, clip, jnp.broadcast_to(real, x.shape))
    value = jax.eval_shape(loss, x)
    check_instance("loss", value, jax.ShapeDtypeStruct, "a function that returns one array")
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"loss: expected a function that returns one floating number, got shape {value.shape} and "
            f"dtype {value.dtype}"
        )
    return ball, _Clean(*jax.value_and_grad(loss)(x))


def _check_clip(x, clip, real):
    low, high = clip
    check_number("clip", low)
    check_number("clip", high, above=float(low))
    if is_concrete(x, real) and bool(jnp.any(real & ((x < low) | (x > high)))):
        raise ValueError(f"x: expected values from {low:g} to {high:g}, as clip says, got others")


def _better(new: AttackResult, old: AttackResult) -> AttackResult:
    """The one with the larger loss; one that is not a number is not larger."""
    return jax.tree.map(lambda a, b: jnp.where(new.loss > old.loss, a, b), new, old)
