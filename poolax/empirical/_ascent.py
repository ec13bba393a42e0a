"""Projected ascent of a Jacobian's norm from one start.

Theory, section 10.3.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from poolax._geometry import norms, size, steepest, support
from poolax._numerics import safe_norm
from poolax.empirical._starts import root_mean_square

# Lengths of the steps that are tried, in lengths of the last that led upwards.
_FACTORS = (0.0, 0.25, 1.0, 4.0)
_FIRST_STEP, _SHORTEST_STEP, _LONGEST_STEP = 0.3, 1e-6, 10.0
# Decay of the squared gradients that Adam's steps are divided by; searches are short.
_DECAY = 0.9
# Length of the steps that need not lead upwards, in sizes of the domain, at the start and at the end.
_FIRST_WANDER, _LAST_WANDER = 0.2, 0.01
# Learning rate of the variables, in sizes of each leaf, at the start and at the end.
_FIRST_RATE, _LAST_RATE = 0.15, 0.001


class _Place(NamedTuple):
    """Where an ascent stands.

    Attributes:
        variables: Variables of the function.
        x: The point.
        v: Direction of norm one, about the one whose image is longest there.
        u: ``J(x) v``, whose length is the norm that is climbed.
    """

    variables: Any
    x: Float[Array, "..."]
    v: Float[Array, "..."]
    u: Float[Array, "..."]


class _Seen(NamedTuple):
    """The best that an ascent has passed.

    Attributes:
        ratio: Norm by bound, which is compared.
        norm: The norm.
        place: Where.
    """

    ratio: Float[Array, ""]
    norm: Float[Array, ""]
    place: _Place


class _Ascent(NamedTuple):
    """What an ascent carries from step to step.

    Attributes:
        place: Where it stands.
        lengths: Of the next steps along the even gradient and along Adam's direction.
        of_variables: Adam's state of the variables.
        of_input: Adam's state of the point.
        best: The best that it has passed.
    """

    place: _Place
    lengths: Float[Array, "2"]
    of_variables: Any
    of_input: Any
    best: _Seen


def make_ascent(fn, log_bound, project, extent, num_steps, geometry):
    """The ascent of one restart: a function of a point, a direction and variables.

    It gives the largest norm that it has seen, which one power iteration a step leaves too low, and
    the variables, the point and the direction.
    """
    rate = optax.cosine_decay_schedule(_FIRST_RATE, num_steps, alpha=_LAST_RATE / _FIRST_RATE)
    of_variables = optax.chain(
        optax.scale_by_adam(b2=_DECAY), optax.scale_by_param_block_rms(), optax.scale_by_schedule(rate)
    )
    of_input = optax.scale_by_adam()
    num_wandering = 3 * num_steps // 4
    wander_rate = optax.cosine_decay_schedule(
        _FIRST_WANDER, max(1, num_wandering), alpha=_LAST_WANDER / _FIRST_WANDER
    )

    def push(variables, x, v):
        return jax.jvp(lambda x: fn(variables, x), (x,), (v,))[1].astype(x.dtype)

    def stretch(variables, x, v, u):
        return jnp.vdot(u, push(variables, x, v))

    def move(variables, x, v, directions, lengths):
        """The longest image of ``v`` among several steps, to stay being one of them."""
        scale = root_mean_square(x)

        def attempt(step):
            direction, length = step
            moved = project(x + length * scale * directions[direction])
            out = push(variables, moved, v)
            return moved, out, size(geometry, out)

        tried = lengths[:, None] * jnp.array(_FACTORS, x.dtype)[None]  # (directions, factors)
        which = jnp.repeat(jnp.arange(len(directions)), len(_FACTORS))
        points, outs, norms = jax.lax.map(attempt, (which, tried.reshape(-1)))
        # Rounding must not lead along flat directions.
        norms = norms * jnp.where(tried.reshape(-1) > 0, 1, 1 + 8 * jnp.finfo(x.dtype).eps)
        top = jnp.argmax(norms)
        norms = norms.reshape(tried.shape)
        chosen = jnp.take_along_axis(tried, jnp.argmax(norms, axis=1)[:, None], axis=1)[:, 0]
        lengths = jnp.where(chosen > 0, chosen, lengths / 8)
        return points[top], outs[top], jnp.clip(lengths, _SHORTEST_STEP, _LONGEST_STEP)

    def see(now: _Ascent) -> _Seen:
        norm = size(geometry, now.place.u)
        ratio = norm / jnp.exp(log_bound(now.place.variables))
        return _larger(_Seen(ratio, norm, now.place), now.best)

    def step(now: _Ascent, index):
        best = see(now)
        # Climb from the best point that the wandering has passed.
        variables, x, v, u = jax.tree.map(
            lambda a, b: jnp.where(index == num_wandering, a, b), best.place, now.place
        )
        norm, u = size(geometry, u), support(geometry, u)
        # Its derivative with respect to v is J^T u: the ascent and the power step share one pass.
        gradients = jax.grad(stretch, argnums=(0, 1, 2))(variables, x, v, u)
        scaled, gradient, turned = jax.tree.map(lambda g: g / jnp.where(norm > 0, norm, 1), gradients)
        # What changes nothing now may do so later.
        v = jnp.where(norms(geometry, turned) > 0, steepest(geometry, turned), v)
        ascent = jax.tree.map(jnp.subtract, scaled, jax.grad(log_bound)(variables))
        update, variables_state = of_variables.update(ascent, now.of_variables, variables)
        variables = optax.apply_updates(variables, update)
        direction, input_state = of_input.update(gradient, now.of_input)
        direction = jnp.asarray(direction)

        def wander():
            moved = project(x + extent * wander_rate(index) * direction)
            return moved, push(variables, moved, v), now.lengths

        def climb():
            rows = safe_norm(gradient, axis=-1)[..., None]
            even = gradient * (math.sqrt(x.shape[-1]) / jnp.where(rows > 0, rows, 1))
            return move(variables, x, v, jnp.stack([even, direction]), now.lengths)

        x, u, lengths = jax.lax.cond(index < num_wandering, wander, climb)
        place = _Place(variables, x, v, u)
        return _Ascent(place, lengths, variables_state, input_state, best), None

    def ascend(x, v, variables):
        v = steepest(geometry, v)
        place = _Place(variables, x, v, push(variables, x, v))
        nothing = jnp.zeros((), x.dtype)
        begun = _Ascent(
            place=place,
            lengths=jnp.full((2,), _FIRST_STEP, x.dtype),
            of_variables=of_variables.init(variables),
            of_input=of_input.init(x),
            best=_Seen(nothing, nothing, place),
        )
        done, _ = jax.lax.scan(step, begun, jnp.arange(num_steps))
        best = see(done)
        return best.norm, best.place.variables, best.place.x, best.place.v

    return ascend


def _larger(first: _Seen, second: _Seen) -> _Seen:
    """The one with the larger ratio; NaN counts as larger and stays."""
    stays = (second.ratio >= first.ratio) | jnp.isnan(second.ratio)
    return jax.tree.map(lambda a, b: jnp.where(stays, b, a), first, second)
