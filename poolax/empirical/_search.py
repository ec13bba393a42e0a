"""Search for inputs, and for weights, with a large local Lipschitz constant."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._checks import check_choice, check_count, check_finite, check_floating, check_result
from poolax._geometry import GEOMETRIES, steepest
from poolax._lanczos import lanczos, unit
from poolax._numerics import accumulation_dtype, at_highest_precision
from poolax._programs import kept_program
from poolax._threads import on_one_thread
from poolax._typing import AnyArray
from poolax.empirical._ascent import make_ascent
from poolax.empirical._jacobian import check_measurement, check_point, output_shape
from poolax.empirical._power_iteration import (
    from_smaller_side,
    jacobian_products,
    largest_of_tokens,
)
from poolax.empirical._projections import Projection
from poolax.empirical._starts import draw_starts, root_mean_square
from poolax.records import SearchResult

# Orders of magnitude over which the sizes of shrunk variables are spread at the start.
_DECADES = 2
# Steps and tolerance of the norm at the best point of each restart, and at given inputs.
_REFINING_STEPS, _REFINING_RTOL = 40, 1e-5


@on_one_thread
@at_highest_precision
def maximize_jacobian_norm(
    fn: Callable[..., Float[Array, "..."]],
    x0: Float[AnyArray, "..."],
    *,
    project: Projection,
    key: jax.Array,
    num_restarts: int = 16,
    num_steps: int = 50,
    starts: Float[AnyArray, "k ..."] | None = None,
    variables: Any = None,
    bound: Callable[[Any], Float[Array, ""]] | None = None,
    geometry: str = "frobenius",
) -> SearchResult:
    r"""Largest Jacobian norm found by projected gradient ascent: a lower bound of ``Lip(fn)``.

    Maximises ``|J(x) v|`` over ``x``, with the singular vector ``v`` carried from step to step and
    improved by one power iteration each, so that a step costs a few evaluations of ``fn`` and never a
    Jacobian. The first three quarters of the steps are Adam's, need not lead upwards and so leave local
    maxima. From the best point that they pass, a step follows the gradient, each token's (row of the
    last axis) made as long as the others', or Adam's direction; of three lengths each it takes the best
    after projection, or stays and shortens them. Long ones find corners and edges of the domain at
    once. The norm is measured at ``x0`` and ``starts`` as well, so that what is found is not below it
    but for rounding. All restarts run at once: the first from ``x0`` and, up to half of them,
    ``starts``; half of the others from around ``x0``, the rest from the boundary of the domain, two
    clusters of tokens, and near zero.

    With ``variables``, ``fn(variables, x)`` is searched over both, each restart from variables of its
    own: the given ones in the first, and in the others these plus noise of the size of each leaf.
    With ``bound``, a positive and differentiable function of the variables, ``|J| / bound(variables)``
    is maximised, in logarithms: how much of a bound is attained by some weights and input. Variables
    move by Adam at a rate relative to the size of each leaf, for bounds have ridges, and weights may
    have to vanish.

    Masks and fixed weights are for ``fn`` to close over. One program for each ``fn``, ``project``,
    ``bound``, number and shape is compiled and kept for later calls: what functions close over is taken
    as constant, so give a function of other weights, not changed ones.

    Args:
        fn: Takes one array, or variables and one array, and returns one array.
        x0: Input, any shape; tokens ``(n, d)``.
        project: Maps an array of the shape of ``x0`` into the domain and leaves what lies in it as it
            is; see :func:`project_to_ball`, :func:`project_to_cube` and :func:`project_to_domain`. The
            identity searches all of space, from ``x0`` and points of its size.
        key: Random key.
        num_restarts: Number of starts.
        num_steps: Number of ascent steps of each.
        starts: Further inputs to start from, such as those at which norms were measured, shape
            ``(k, *x0.shape)``; ``None`` for ``x0`` alone.
        variables: Pytree of floating arrays to search over as well; ``None`` if ``fn`` has none.
        bound: Maps variables to a positive number; ``None`` for the norm itself.
        geometry: Of the norm, as for :func:`power_iteration`.

    Returns:
        The largest norm that was seen, so never above ``Lip(fn)`` on the domain but for rounding;
        where; and the largest of each restart. With ``bound`` it is the ratio that is largest.

    Raises:
        ValueError: for another geometry, numbers out of range, inputs or variables that are not
            floating or not finite, ``starts`` of another shape, a function that returns anything but
            one floating array with entries, a ``bound`` without ``variables``, or a Jacobian or bound
            that is not finite.

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
        Theory, sections 10.3 and 10.6; this library's own. Adam: Kingma and Ba (ICLR 2015).
    """
    check_choice("geometry", geometry, GEOMETRIES)
    check_count("num_restarts", num_restarts)
    check_count("num_steps", num_steps)
    x0 = check_point(x0)
    x0 = x0.astype(accumulation_dtype(x0))
    points = x0[None] if starts is None else jnp.concatenate([x0[None], _check_starts(starts, x0)])
    for leaf in jax.tree.leaves(variables):
        check_floating("variables", leaf)
        check_finite("variables", leaf)
    if bound is not None and variables is None:
        raise ValueError("variables: expected what bound is a function of, got None")
    fixed = variables is None
    given = () if fixed else jax.tree.map(jnp.asarray, variables)
    leaves = jax.tree.leaves(given)
    arrays = (points, key, *leaves)
    search = _program(arrays, fn, project, bound, num_restarts, num_steps, fixed, geometry)
    per_restart, ratio, value, x, found = search(points, key, given)
    check_measurement(value)
    check_finite("bound of variables", ratio)
    check_result("x0", x, "search")
    return SearchResult(
        value=value,
        x=x,
        per_restart=per_restart,
        variables=None if fixed else found,
        ratio=None if bound is None else ratio,
    )


@kept_program
def _program(fn, project, bound, num_restarts, num_steps, fixed, geometry):
    def mapped(variables, x):
        return fn(x) if fixed else fn(variables, x)

    def norm_at(variables, x, v):
        """The norm, from a direction that may be far from the best."""
        products = jacobian_products(lambda x: mapped(variables, x), x)
        if geometry == "tokens":
            start = steepest(geometry, v)
            return largest_of_tokens(*products, start, _REFINING_STEPS, _REFINING_RTOL).value
        first, second, like = from_smaller_side(*products, x)
        start = unit(v if like is x else products[0](v))
        return lanczos(first, second, start, _REFINING_STEPS, _REFINING_RTOL).value

    @jax.jit
    def search(given, key, variables):
        output_shape(lambda x: mapped(variables, x), given[0])
        if bound is not None:
            _check_bound(bound, variables)

        def log_bound(variables):
            return jnp.zeros((), given.dtype) if bound is None else jnp.log(bound(variables))

        start_key, direction_key, variables_key = jax.random.split(key, 3)
        given = jax.vmap(project)(given)
        starts, extent = draw_starts(given[0], project, start_key, num_restarts)
        num_ahead = min(len(given), max(1, num_restarts // 2))
        starts = starts.at[:num_ahead].set(given[:num_ahead])
        shape = (num_restarts + len(given), *given.shape[1:])
        directions = jax.random.normal(direction_key, shape, given.dtype)
        drawn = _draw_variables(variables, variables_key, num_restarts)
        ascend = make_ascent(mapped, log_bound, project, extent, num_steps, geometry)
        seen, *best = jax.vmap(ascend)(starts, directions[:num_restarts], drawn)
        # The given inputs behind the restarts, each with the given variables.
        as_given = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(given)), variables)
        found, points, directions = jax.tree.map(
            lambda *parts: jnp.concatenate(parts),
            tuple(best),
            (as_given, given, directions[num_restarts:]),
        )
        values = jax.vmap(norm_at)(found, points, directions)
        values = values.at[:num_restarts].max(seen)
        ratios = values if bound is None else values / jnp.exp(jax.vmap(log_bound)(found))
        top = jnp.argmax(ratios)
        per_restart = ratios[:num_restarts].at[0].max(jnp.max(ratios[num_restarts:]))
        of_top = jax.tree.map(lambda leaf: leaf[top], (ratios, values, points, found))
        return per_restart, *of_top

    return search


def _check_starts(starts, x0):
    """Further starts, in the dtype of the first."""
    check_floating("starts", starts)
    check_finite("starts", starts)
    if jnp.shape(starts)[1:] != x0.shape:
        shape = ", ".join(map(str, ("k", *x0.shape)))
        raise ValueError(f"starts: expected shape ({shape}), got {jnp.shape(starts)}")
    return jnp.asarray(starts, x0.dtype)


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
        # (num_restarts,) to (num_restarts, 1, ..., 1)
        factor = jnp.where(shrinks, smaller, 1).reshape(-1, *(1 for _ in leaf.shape))
        return factor * (leaf + noise.at[0].set(0))

    keys = jax.random.split(key, max(1, len(leaves)))
    return jax.tree.unflatten(tree, map(draw, leaves, sizes, keys))
