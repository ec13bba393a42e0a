"""How far outputs move when inputs change: neighbours of inputs, and their outputs in chunks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from poolax._checks import (
    broadcast_mask,
    check_choice,
    check_count,
    check_finite,
    check_floating,
    check_instance,
)
from poolax._geometry import GEOMETRIES, into_ball, steepest
from poolax._numerics import accumulation_dtype, at_highest_precision, safe_norm
from poolax._programs import kept_program
from poolax._typing import AnyArray

NEIGHBOURHOODS = ("ball", "gaussian", "adversarial")

_ASCENT_STEPS = 20
_DEFAULT_BATCH_SIZE = 256


def output_distances(
    fn: Callable[..., PyTree],
    inputs: Float[AnyArray, "N ..."],
    masks: Bool[AnyArray, "N ..."] | None,
    epsilons: Float[AnyArray, " k"],
    *,
    key: jax.Array,
    num_perturbations: int,
    neighbourhood: str,
    geometry: str,
    project: Callable[[Array], Array] | None,
    batch_size: int | None,
) -> PyTree:
    """Distances ``|fn(x) - fn(x')|``, shape ``(N, k, num_perturbations)``, for each output of ``fn``.

    Args:
        fn: Maps one input, or one input and its mask, to an array or a tree of them.
        inputs: Shape ``(N, ...)``.
        masks: True at what is real; leading axes of the inputs, or ``None``.
        epsilons: Sizes of the change.
        key: Random key; each input has its own, whatever stands beside it.
        num_perturbations: Neighbours of each input.
        neighbourhood: One of ``NEIGHBOURHOODS``.
        geometry: Whether a change has that size as a whole, or each of its tokens.
        project: Maps a neighbour to the nearest point that is allowed.
        batch_size: Evaluations of ``fn`` at a time.

    Returns:
        NumPy arrays in float64, in a tree like the output of ``fn``.

    Raises:
        ValueError: for arguments or outputs that are not what they should be.
    """
    check_choice("neighbourhood", neighbourhood, NEIGHBOURHOODS)
    check_choice("geometry", geometry, GEOMETRIES)
    check_count("num_perturbations", num_perturbations)
    batch_size = _DEFAULT_BATCH_SIZE if batch_size is None else batch_size
    check_count("batch_size", batch_size)
    inputs, masks = _check_inputs(inputs, masks)
    if project is not None:
        _check_projection(project, inputs, masks)
    keys = jax.random.split(key, inputs.shape[0])
    ball = neighbourhood, geometry
    program = _program((inputs, epsilons, keys), fn, project, num_perturbations, ball, batch_size)
    distances = program(inputs, masks, epsilons, keys)
    for leaf in jax.tree.leaves(distances):
        check_finite("outputs of fn", leaf)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), distances)


def _check_inputs(inputs, masks):
    check_floating("inputs", inputs)
    # Not weakly typed, for which everything would be compiled a second time.
    inputs = jnp.asarray(inputs, jnp.result_type(inputs))
    if inputs.ndim < 1 or inputs.shape[0] == 0:
        raise ValueError(f"inputs: expected shape (N, ...) with N >= 1, got {inputs.shape}")
    rank = np.ndim(masks)
    if masks is not None and not 1 <= rank <= inputs.ndim:
        raise ValueError(
            f"masks: expected leading axes of the inputs {inputs.shape}, got {np.shape(masks)}"
        )
    real = broadcast_mask(masks, inputs.shape[:rank], "masks")
    check_finite("inputs", inputs, real)
    if real is None:
        return inputs, None
    if not jnp.all(jnp.any(real.reshape(len(real), -1), axis=1)):
        raise ValueError("masks: expected something real in every input, got one without")
    # What fn is given has the axes that the caller's masks have.
    masks = jnp.asarray(masks)
    return inputs, jnp.broadcast_to(masks, (inputs.shape[0], *masks.shape[1:]))


def _check_projection(project, inputs, masks):
    """Refuse a projection that moves the inputs, whose neighbours would not be near them."""
    real = _real(masks, inputs)
    points = jnp.where(real, inputs, 0)
    moved = jnp.where(real, jax.vmap(project)(points) - points, 0)
    largest = float(jnp.max(jnp.abs(moved)))
    # Points on the edge of what is allowed move by rounding.
    if not largest <= 1e-5 * max(1.0, float(jnp.max(jnp.abs(points)))):
        raise ValueError(
            f"project: expected to leave the inputs where they are, got changes of up to {largest:g}"
        )


@kept_program
def _program(fn, project, num_perturbations, ball, batch_size):
    @jax.jit
    def distances(inputs, masks, epsilons, keys):
        return map_distances(
            inputs, masks, epsilons, keys, fn, project, num_perturbations, ball, batch_size
        )

    return distances


@at_highest_precision
def map_distances(inputs, masks, epsilons, keys, fn, project, num_perturbations, ball, batch_size):
    """The same, to be jitted: no more than ``batch_size`` evaluations of ``fn`` are alive at a time."""
    # A divisor leaves no remainder, for which everything would be compiled a second time.
    limit = min(batch_size, num_perturbations)
    at_once = max(k for k in range(1, limit + 1) if num_perturbations % k == 0)
    num_inputs = inputs.shape[0]
    num_chunks = -(-num_inputs // (batch_size // at_once))
    size = -(-num_inputs // num_chunks)
    chosen = jnp.minimum(jnp.arange(num_chunks * size), num_inputs - 1).reshape(num_chunks, size)

    def of_input(x, mask, key):
        measure = _measure(fn, x, mask, project, *ball)
        keys = jax.random.split(key, num_perturbations).reshape(-1, at_once)

        def of_epsilon(epsilon):
            chunks = jax.lax.map(jax.vmap(lambda key: measure(key, epsilon)), keys)
            return jax.tree.map(lambda leaf: leaf.reshape(-1), chunks)

        return jax.lax.map(of_epsilon, epsilons)

    def of_chunk(indices):
        arrays = jax.tree.map(lambda leaf: leaf[indices], (inputs, masks, keys))
        return jax.vmap(of_input)(*arrays)

    distances = jax.lax.map(of_chunk, chosen)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:num_inputs], distances)


def _measure(fn, x, mask, project, neighbourhood, geometry):
    """A function of key and epsilon: how far the outputs of a neighbour of ``x`` move."""
    dtype = accumulation_dtype(x)
    real = _real(mask, x)
    entries = jnp.broadcast_to(real, x.shape)
    base = jnp.where(real, x, 0).astype(dtype)

    def outputs(point):
        point = jnp.where(real, point, x).astype(x.dtype)
        values = fn(point) if mask is None else fn(point, mask)
        jax.tree.map(_check_output, values)
        return jax.tree.map(lambda leaf: leaf.astype(accumulation_dtype(leaf)), values)

    def neighbour(noise):
        return base + noise if project is None else project(base + noise)

    clean = outputs(base)

    def distances(point) -> Any:
        return jax.tree.map(lambda new, old: safe_norm(new - old), outputs(point), clean)

    def measure(key, epsilon):
        start = neighbour(draw_noise(key, entries, dtype, epsilon, neighbourhood, geometry))
        if neighbourhood != "adversarial":
            return distances(start)

        # An adversary of its own for every output; what the others need is not computed.
        def of_leaf(index):
            def distance(point):
                return jax.tree.leaves(distances(point))[index]

            return _ascend(distance, start, base, neighbour, epsilon, geometry)

        tree = jax.tree.structure(clean)
        return tree.unflatten([of_leaf(index) for index in range(tree.num_leaves)])

    return measure


def draw_noise(key, real, dtype, epsilon, neighbourhood, geometry):
    """Gaussian noise, or a uniform point of the ball, on the real entries alone."""
    # Of all, or of each token.
    axis = -1 if geometry == "tokens" and real.ndim else None
    num_real = jnp.maximum(1, jnp.sum(real, axis=axis, keepdims=True)).astype(dtype)
    direction_key, length_key = jax.random.split(key)
    noise = jnp.where(real, jax.random.normal(direction_key, real.shape, dtype), 0)
    if neighbourhood == "gaussian":
        return noise * epsilon / jnp.sqrt(num_real)
    length = jax.random.uniform(length_key, num_real.shape, dtype) ** (1 / num_real)
    return steepest(geometry, noise) * (epsilon * length)


def _ascend(distance, start, base, neighbour, epsilon, geometry):
    """Farthest output on a gradient ascent in the ball; steps shrink from epsilon to nothing."""

    def step(carry, progress):
        point, best = carry
        value, gradient = jax.value_and_grad(distance)(point)
        move = epsilon * (1 - progress) * steepest(geometry, gradient)
        noise = into_ball(geometry, point + move - base, epsilon)
        return (neighbour(noise), jnp.maximum(best, value)), None

    progress = jnp.arange(_ASCENT_STEPS) / _ASCENT_STEPS
    (point, best), _ = jax.lax.scan(step, (start, jnp.zeros_like(distance(start))), progress)
    return jnp.maximum(best, distance(point))


def _check_output(leaf):
    """Refuse outputs between which there is no distance."""
    check_instance("outputs of fn", leaf, jax.Array, "arrays")
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        raise ValueError(f"fn: expected real results, got dtype {leaf.dtype}")
    if leaf.size == 0:
        raise ValueError(f"fn: expected results with at least one entry, got shape {leaf.shape}")


def _real(mask, x):
    """The mask with an axis for each of ``x``; True where there is none."""
    return True if mask is None else mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
