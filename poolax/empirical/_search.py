"""Search for inputs with a large local Lipschitz constant."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from poolax._checks import check_count, check_number
from poolax._numerics import accumulation_dtype, safe_norm
from poolax._records import SearchResult
from poolax.empirical._jacobian import check_measurement, check_point
from poolax.empirical._power_iteration import unit

_REFINING_STEPS = 10

Projection = Callable[[Float[Array, "..."]], Float[Array, "..."]]


def project_to_ball(radius: float) -> Projection:
    """Projection of each token, a row of the last axis, to the ball of the given radius.

    Args:
        radius: At least 0.

    Returns:
        The projection, for :func:`maximize_jacobian_norm`.

    Raises:
        ValueError: if ``radius`` is negative or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> project_to_ball(1.0)(jnp.array([[3.0, 4.0], [0.0, 0.5]]))
        Array([[0.6, 0.8],
               [0. , 0.5]], dtype=float32)
    """
    check_number("radius", radius, at_least=0.0)

    def project(x):
        norm = safe_norm(x, axis=-1)[..., None]
        return x * jnp.minimum(1, radius / jnp.where(norm > 0, norm, 1))

    return project


def project_to_cube(high: float) -> Projection:
    """Projection of each entry to the interval from 0 to ``high``.

    Args:
        high: At least 0.

    Returns:
        The projection, for :func:`maximize_jacobian_norm`.

    Raises:
        ValueError: if ``high`` is negative or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> project_to_cube(1.0)(jnp.array([-1.0, 0.5, 2.0]))
        Array([0. , 0.5, 1. ], dtype=float32)
    """
    check_number("high", high, at_least=0.0)
    return lambda x: jnp.clip(x, 0, high)


def maximize_jacobian_norm(
    fn: Callable[[Float[Array, "..."]], Float[Array, "..."]],
    x0: Float[Array, "..."],
    *,
    project: Projection,
    key: jax.Array,
    num_restarts: int = 16,
    num_steps: int = 50,
) -> SearchResult:
    r"""Largest Jacobian norm found by projected gradient ascent: a lower bound of ``Lip(fn)``.

    Maximises ``u^T J(x) v`` over ``x``, with the singular vectors ``u`` and ``v`` carried from step to
    step and improved by one power iteration each, so that a step costs a few evaluations of ``fn``
    and never a Jacobian. All restarts run at once. The first starts at ``x0``, the others at ``x0``
    plus Gaussian noise, and all are projected. Noise and steps are as large as the domain, whose size
    is felt by projecting a point far outside; where that is not projected they are as large as ``x0``.

    Args:
        fn: Takes one array and returns one array.
        x0: Input, any shape.
        project: Maps an array of the shape of ``x0`` to the nearest one in the domain; see
            :func:`project_to_ball` and :func:`project_to_cube`.
        key: Random key.
        num_restarts: Number of starts.
        num_steps: Number of ascent steps of each.

    Returns:
        The largest ``|J(x) v|`` over unit ``v`` that was seen, so never above ``Lip(fn)`` on the
        domain but for rounding; where; and the largest of each restart.

    Raises:
        ValueError: for numbers out of range, an input that is not floating or not finite, or a
            Jacobian that is not finite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> found = maximize_jacobian_norm(
        ...     jnp.square, jnp.array([0.5, 0.1]), project=project_to_cube(1.0),
        ...     key=jax.random.key(0), num_restarts=4, num_steps=50,
        ... )
        >>> print(f"{found.value:.2f}")
        2.00
    """
    check_count("num_restarts", num_restarts)
    check_count("num_steps", num_steps)
    x0 = check_point(x0)
    dtype = accumulation_dtype(x0)
    x0 = x0.astype(dtype)
    start_key, direction_key = jax.random.split(key)
    noise = jax.random.normal(start_key, (num_restarts, *x0.shape), dtype)
    scale = _extent(project, x0, noise[0])
    noise = scale * noise
    starts = jax.vmap(project)(x0 + noise.at[0].set(0))
    directions = jax.random.normal(direction_key, (num_restarts, *x0.shape), dtype)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.2, num_steps, alpha=0.02))

    def stretch(x, v, u):
        return jnp.vdot(u, jax.jvp(fn, (x,), (v,))[1].astype(dtype))

    def step(carry, index):
        x, v, state, best = carry
        u = jax.jvp(fn, (x,), (v,))[1].astype(dtype)
        norm = safe_norm(u)
        best = _larger((norm, x), best)
        # Its derivative with respect to v is J^T u: the ascent and the power step share one pass.
        gradient, turned = jax.grad(stretch, argnums=(0, 1))(x, v, unit(u))
        v = jnp.where(jnp.any(turned != 0), unit(turned), v)
        update, state = optimizer.update(-gradient, state)
        moved = project(x + scale * jnp.asarray(update))
        return (jnp.where(index < num_steps, moved, best[1]), v, state, best), None

    def ascend(x, direction):
        carry = (x, unit(direction), optimizer.init(x), (jnp.zeros((), dtype), x))
        # What was seen on the way is a lower estimate; the last steps stay and refine it.
        steps = jnp.arange(1, num_steps + 1 + _REFINING_STEPS)
        return jax.lax.scan(step, carry, steps)[0][3]

    with jax.default_matmul_precision("highest"):
        values, points = jax.vmap(ascend)(starts, directions)
    top = jnp.argmax(values)
    check_measurement(values[top])
    return SearchResult(value=values[top], x=points[top], per_restart=values)


def _extent(project, x0, direction):
    """Root mean square of the entries at the edge of the domain, or of ``x0`` if there is no edge."""

    def root_mean_square(x):
        return safe_norm(x) / math.sqrt(x.size)

    size = root_mean_square(x0)
    size = jnp.where(size > 0, size, 1)
    far = 1000 * size
    edge = root_mean_square(project(x0 + far * direction))
    return jnp.where((edge > 0) & (edge < far / 10), edge, size)


def _larger(first, second):
    """Of two pairs (norm, point), the one with the larger norm; NaN counts as larger and stays."""
    stays = (second[0] >= first[0]) | jnp.isnan(second[0])
    return jax.tree.map(lambda a, b: jnp.where(stays, b, a), first, second)
