"""Search for inputs, and for weights, with a large local Lipschitz constant."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from poolax._checks import check_count, check_finite, check_floating
from poolax._numerics import accumulation_dtype, at_highest_precision, safe_norm
from poolax._records import SearchResult
from poolax.empirical._jacobian import check_measurement, check_point
from poolax.empirical._lanczos import lanczos, unit
from poolax.empirical._power_iteration import from_smaller_side, jacobian_products
from poolax.empirical._projections import Projection
from poolax.empirical._starts import draw_starts, root_mean_square

# Lengths of the steps that are tried, in lengths of the last that led upwards.
_FACTORS = (0.0, 0.25, 1.0, 4.0)
_FIRST_STEP, _SHORTEST_STEP, _LONGEST_STEP = 0.3, 1e-6, 10.0
# Orders of magnitude over which the sizes of shrunk variables are spread at the start.
_DECADES = 2
# Decay of the squared gradients that Adam's steps are divided by; searches are short.
_DECAY = 0.9
# Length of the steps that need not lead upwards, in sizes of the domain, at the start and at the end.
_FIRST_WANDER, _LAST_WANDER = 0.2, 0.01
# Learning rate of the variables, in sizes of each leaf, at the start and at the end.
_FIRST_RATE, _LAST_RATE = 0.15, 0.001
# Steps and tolerance of the norm at the best point of each restart.
_REFINING_STEPS, _REFINING_RTOL = 20, 1e-4


@at_highest_precision
def maximize_jacobian_norm(
    fn: Callable[..., Float[Array, "..."]],
    x0: Float[Array, "..."],
    *,
    project: Projection,
    key: jax.Array,
    num_restarts: int = 16,
    num_steps: int = 50,
    variables: Any = None,
    bound: Callable[[Any], Float[Array, ""]] | None = None,
) -> SearchResult:
    r"""Largest Jacobian norm found by projected gradient ascent: a lower bound of ``Lip(fn)``.

    Maximises ``|J(x) v|`` over ``x``, with the singular vector ``v`` carried from step to step and
    improved by one power iteration each, so that a step costs a few evaluations of ``fn`` and never a
    Jacobian. The first three quarters of the steps are Adam's, need not lead upwards and so leave local
    maxima. From the best point that they pass, a step follows the gradient, each token's (row of the
    last axis) made as long as the others', or Adam's direction; of three lengths each it takes the best
    after projection, or stays and shortens them. Long ones find corners and edges of the domain at
    once. All restarts run at once, the first from ``x0``, half of them around it, the others on the
    boundary of the domain, in two clusters of tokens, and near zero.

    With ``variables``, ``fn(variables, x)`` is searched over both, each restart from variables of its
    own: the given ones in the first, and in the others these plus noise of the size of each leaf.
    With ``bound``, a positive and differentiable function of the variables, ``|J| / bound(variables)``
    is maximised, in logarithms: how much of a bound is attained by some weights and input. Variables
    move by Adam at a rate relative to the size of each leaf, for bounds have ridges, and weights may
    have to vanish.

    Masks and fixed weights are for ``fn`` to close over. Wrap the call in ``jax.jit`` to compile once
    for many inputs and keys.

    Args:
        fn: Takes one array, or variables and one array, and returns one array.
        x0: Input, any shape; tokens ``(n, d)``.
        project: Maps an array of the shape of ``x0`` into the domain and leaves what lies in it as it
            is; see :func:`project_to_ball`, :func:`project_to_cube` and :func:`project_to_domain`. The
            identity searches all of space, from ``x0`` and points of its size.
        key: Random key.
        num_restarts: Number of starts.
        num_steps: Number of ascent steps of each.
        variables: Pytree of floating arrays to search over as well; ``None`` if ``fn`` has none.
        bound: Maps variables to a positive number; ``None`` for the norm itself.

    Returns:
        The largest norm that was seen, so never above ``Lip(fn)`` on the domain but for rounding;
        where; and the largest of each restart. With ``bound`` it is the ratio that is largest.

    Raises:
        ValueError: for numbers out of range, an input or variables that are not floating or not
            finite, a ``bound`` without ``variables``, or a Jacobian or bound that is not finite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from poolax.empirical import project_to_cube
        >>> found = maximize_jacobian_norm(
        ...     jnp.square, jnp.array([0.5, 0.1]), project=project_to_cube(1.0),
        ...     key=jax.random.key(0), num_restarts=4, num_steps=50,
        ... )
        >>> print(f"{found.value:.2f}")
        2.00

    Reference:
        Theory, section 10.3; this library's own. Adam: Kingma and Ba (ICLR 2015).
    """
    check_count("num_restarts", num_restarts)
    check_count("num_steps", num_steps)
    x0 = check_point(x0)
    x0 = x0.astype(accumulation_dtype(x0))
    for leaf in jax.tree.leaves(variables):
        check_floating("variables", leaf)
        check_finite("variables", leaf)
    if bound is not None and variables is None:
        raise ValueError("variables: expected what bound is a function of, got None")
    fixed = variables is None
    given = () if fixed else jax.tree.map(jnp.asarray, variables)

    def mapped(variables, x):
        return fn(x) if fixed else fn(variables, x)

    if bound is not None:
        _check_bound(bound, given)

    def log_bound(variables):
        return jnp.zeros((), x0.dtype) if bound is None else jnp.log(bound(variables))

    # One program, also where the caller compiles nothing.
    @jax.jit
    def search(x0, key, given):
        start_key, direction_key, variables_key = jax.random.split(key, 3)
        starts, extent = draw_starts(x0, project, start_key, num_restarts)
        directions = jax.random.normal(direction_key, starts.shape, x0.dtype)
        drawn = _draw_variables(given, variables_key, num_restarts)
        ascend = _make_ascent(mapped, log_bound, project, extent, num_steps)
        values, points, found = jax.vmap(ascend)(starts, directions, drawn)
        ratios = values if bound is None else values / jnp.exp(jax.vmap(log_bound)(found))
        top = jnp.argmax(ratios)
        return top, ratios, *jax.tree.map(lambda leaf: leaf[top], (values, points, found))

    top, ratios, value, x, found = search(x0, key, given)
    check_measurement(value)
    check_finite("bound of variables", ratios[top])
    return SearchResult(
        value=value,
        x=x,
        per_restart=ratios,
        variables=None if fixed else found,
        ratio=None if bound is None else ratios[top],
    )


def _check_bound(bound, variables):
    """Refuse a bound that is not one number."""
    limit = jax.eval_shape(bound, variables)
    shape, dtype = getattr(limit, "shape", None), getattr(limit, "dtype", type(limit))
    if shape != () or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"bound: expected a function that returns one floating number, got shape {shape} "
            f"and dtype {dtype}"
        )


def _draw_variables(variables, key, num_restarts):
    """Variables for each restart: as given, then with noise, every other time smaller leaf by leaf.

    Bounds are often attained only as some of the weights vanish.
    """
    leaves, tree = jax.tree.flatten(variables)
    sizes = [root_mean_square(leaf) for leaf in leaves]
    common = jnp.sqrt(sum(jnp.square(size) for size in sizes) / max(1, len(sizes)))
    common = jnp.where(common > 0, common, 1)
    shrinks = jnp.arange(num_restarts) % 2 == 1

    def draw(leaf, size, key):
        noise_key, size_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, (num_restarts, *leaf.shape), leaf.dtype)
        # A leaf of zeros, as biases start, has no size of its own.
        noise = noise * jnp.where(size > 0, size, common).astype(leaf.dtype)
        smaller = 10 ** (-_DECADES * jax.random.uniform(size_key, (num_restarts,), leaf.dtype))
        factor = jnp.where(shrinks, smaller, 1).reshape(-1, *(1 for _ in leaf.shape))
        return factor * (leaf + noise.at[0].set(0))

    keys = jax.random.split(key, max(1, len(leaves)))
    return jax.tree.unflatten(tree, map(draw, leaves, sizes, keys))


def _make_ascent(fn, log_bound, project, extent, num_steps):
    """The ascent of one restart, from a point, a direction and variables."""
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
        size = root_mean_square(x)

        def attempt(step):
            direction, length = step
            moved = project(x + length * size * directions[direction])
            out = push(variables, moved, v)
            return moved, out, safe_norm(out)

        tried = lengths[:, None] * jnp.array(_FACTORS, x.dtype)
        which = jnp.repeat(jnp.arange(len(directions)), len(_FACTORS))
        points, outs, norms = jax.lax.map(attempt, (which, tried.reshape(-1)))
        # Rounding must not lead along flat directions.
        norms = norms * jnp.where(tried.reshape(-1) > 0, 1, 1 + 8 * jnp.finfo(x.dtype).eps)
        top = jnp.argmax(norms)
        norms = norms.reshape(tried.shape)
        chosen = jnp.take_along_axis(tried, jnp.argmax(norms, axis=1)[:, None], axis=1)[:, 0]
        lengths = jnp.where(chosen > 0, chosen, lengths / 8)
        return points[top], outs[top], jnp.clip(lengths, _SHORTEST_STEP, _LONGEST_STEP)

    def see(carry):
        variables, x, v, u, *_, best = carry
        norm = safe_norm(u)
        return _larger((norm / jnp.exp(log_bound(variables)), norm, (variables, x, v, u)), best)

    def step(carry, index):
        best = see(carry)
        variables, x, v, u, lengths, states, _ = carry
        # Climb from the best point that the wandering has passed.
        variables, x, v, u = jax.tree.map(
            lambda a, b: jnp.where(index == num_wandering, a, b), best[2], (variables, x, v, u)
        )
        norm, u = safe_norm(u), unit(u)
        # Its derivative with respect to v is J^T u: the ascent and the power step share one pass.
        gradients = jax.grad(stretch, argnums=(0, 1, 2))(variables, x, v, u)
        scaled, gradient, turned = jax.tree.map(lambda g: g / jnp.where(norm > 0, norm, 1), gradients)
        v = jnp.where(jnp.any(turned != 0), unit(turned), v)
        ascent = jax.tree.map(jnp.subtract, scaled, jax.grad(log_bound)(variables))
        update, variables_state = of_variables.update(ascent, states[0], variables)
        variables = optax.apply_updates(variables, update)
        direction, input_state = of_input.update(gradient, states[1])
        direction = jnp.asarray(direction)

        def wander():
            moved = project(x + extent * wander_rate(index) * direction)
            return moved, push(variables, moved, v), lengths

        def climb():
            rows = safe_norm(gradient, axis=-1)[..., None]
            even = gradient * (math.sqrt(x.shape[-1]) / jnp.where(rows > 0, rows, 1))
            return move(variables, x, v, jnp.stack([even, direction]), lengths)

        moved = jax.lax.cond(index < num_wandering, wander, climb)
        x, u, lengths = moved
        return (variables, x, v, u, lengths, (variables_state, input_state), best), None

    def ascend(x, v, variables):
        v = unit(v)
        u = push(variables, x, v)
        states = of_variables.init(variables), of_input.init(x)
        nothing = jnp.zeros((), x.dtype)
        lengths = jnp.full((2,), _FIRST_STEP, x.dtype)
        carry = (variables, x, v, u, lengths, states, (nothing, nothing, (variables, x, v, u)))
        carry, _ = jax.lax.scan(step, carry, jnp.arange(num_steps))
        _, norm, (variables, x, v, _) = see(carry)
        return refine(variables, x, v, norm), x, variables

    def refine(variables, x, v, norm):
        """The norm at the best point; one power iteration a step has left it too low."""
        products = jacobian_products(lambda x: fn(variables, x), x)
        first, second, like = from_smaller_side(*products, x)
        start = v if like is x else unit(products[0](v))
        estimate = lanczos(first, second, start, _REFINING_STEPS, _REFINING_RTOL)
        return _larger((estimate.value,), (norm,))[0]

    return ascend


def _larger(first, second):
    """Of two tuples, the one whose first number is larger; NaN counts as larger and stays."""
    stays = (second[0] >= first[0]) | jnp.isnan(second[0])
    return jax.tree.map(lambda a, b: jnp.where(stays, b, a), first, second)
