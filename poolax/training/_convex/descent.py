"""Heads of least loss by L-BFGS, from the strongest penalty to the weakest."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg
from jaxtyping import Array, Float, Int, PyTree

from poolax._programs import kept_program
from poolax.training._convex.path import Path, rank_of

_EXACT = jax.lax.Precision.HIGHEST
_PROBES = 4
# Of a loss that is not convex the mean curvature may be anything, and no penalty holds the bias.
_LEAST_CURVATURE = 1e-6
# Of a loss that is not convex what was learned of its curvature is soon that of another place, and
# L-BFGS then stands still far from the least: it begins anew where it has come to.
_ROUND = 200


def descend_path(
    inputs: Float[np.ndarray, "N *parts d"],
    targets: PyTree,
    loss: Callable[[Array, PyTree], Array],
    num_outputs: int,
    strengths: Float[np.ndarray, " strengths"],
    *,
    start: Float[np.ndarray, "d k"] | None = None,
    tolerance: float = 1e-5,
    max_steps: int = 1000,
) -> Path:
    """Linear heads of least mean loss, for all strengths of the penalty.

    L-BFGS in coordinates in which the loss is about equally curved in all directions: those of the
    eigenvectors of the inputs' covariance, in units of ``(curvature * eigenvalue + strength)^(-1/2)``,
    and of the bias in units of ``curvature^(-1/2)``.
    Each strength starts from the head of the stronger one before it; one compiled program serves all of
    them, and all poolers. Under ``vmap`` every line search would compute both of its branches, at
    several times the cost. Every 200 steps units are measured anew, and L-BFGS forgets what it saw.

    Args:
        inputs: Standardised vectors, of one part an example or several.
        targets: As ``loss`` takes them, one row an example.
        loss: From outputs ``(N, *parts, k)`` and targets to the loss of each example.
        num_outputs: Width ``k`` of the head.
        strengths: Of the penalty, above 0.
        start: Kernel from which the first one starts and whose distance is penalised instead of that
            from 0, for losses that know no scale of the outputs; ``None`` for 0.
        tolerance: Largest entry of the gradient, in units of the mean norm of the loss's derivative by
            the outputs, where these are those of the start.
        max_steps: Most steps for a strength.

    Returns:
        The heads, strongest penalty first.
    """
    strengths = np.sort(np.asarray(strengths, np.float64))[::-1]
    rows = np.asarray(inputs, np.float64).reshape(-1, np.shape(inputs)[-1])
    # Double precision on the host: what is left of small eigenvalues in float32 is noise.
    eigenvalues, axes = scipy.linalg.eigh(rows.T @ rows / len(rows), check_finite=False)
    rotated = (np.asarray(inputs, np.float64) @ axes).astype(np.float32)
    origin = np.zeros((rows.shape[1], num_outputs)) if start is None else axes.T @ start
    shared = jax.tree.map(
        jnp.asarray,
        (
            rotated,
            targets,
            np.maximum(eigenvalues, 0.0).astype(np.float32),
            origin.astype(np.float32),
            np.float32(tolerance),
        ),
    )
    solve = _program(shared, loss, max_steps)
    head = _Head(shared[3], jnp.zeros(num_outputs, jnp.float32))
    found = []
    for strength in strengths.astype(np.float32):
        head, *reached = solve(head, strength, *shared)
        found.append(jax.device_get((head.kernel, head.bias, *reached)))
    kernel, bias, *reached = (np.stack(parts) for parts in zip(*found, strict=True))
    objective, gradient, num_steps = reached
    kernel = axes @ kernel
    return Path(
        strengths,
        kernel,
        bias,
        objective,
        gradient,
        num_steps,
        gradient <= tolerance,
        rank_of(eigenvalues),
    )


def descend_draws(
    inputs: Float[np.ndarray, "draws N d"],
    targets: PyTree,
    loss: Callable[[Array, PyTree], Array],
    num_outputs: int,
    strengths: Float[np.ndarray, " strengths"],
    *,
    tolerance: float = 1e-5,
    max_steps: int = 1000,
) -> list[Path]:
    """The same for several small sets of examples of one size, all at once, of a convex loss.

    Of ``N`` examples only ``N`` directions of the width hold anything, and only these are descended in.

    Args:
        inputs: Standardised vectors of each set.
        targets: As ``loss`` takes them, with one more axis in front.
        loss: As for :func:`descend_path`.
        num_outputs: Width ``k`` of the heads.
        strengths: Of the penalty, above 0.
        tolerance: As for :func:`descend_path`.
        max_steps: Most steps for a strength.

    Returns:
        The heads of each set, strongest penalty first.
    """
    strengths = np.sort(np.asarray(strengths, np.float64))[::-1]
    num_draws, num_rows, dim = inputs.shape
    kept = min(num_rows, dim)
    rows = np.asarray(inputs, np.float64)
    spectra = [scipy.linalg.eigh(own.T @ own / num_rows, check_finite=False) for own in rows]
    axes = np.stack([vectors[:, -kept:] for _, vectors in spectra])
    eigenvalues = np.stack([np.maximum(values[-kept:], 0.0) for values, _ in spectra])
    own = jax.tree.map(
        jnp.asarray,
        (
            (rows @ axes).astype(np.float32),
            targets,
            eigenvalues.astype(np.float32),
        ),
    )
    origin = jnp.zeros((kept, num_outputs), jnp.float32)
    solve = _program_of_draws(own, loss, max_steps)
    zeros = (jnp.zeros((num_draws, kept, num_outputs)), jnp.zeros((num_draws, num_outputs)))
    head, found = _Head(*zeros), []
    for strength in strengths.astype(np.float32):
        head, *reached = solve(head, strength, *own, origin, np.float32(tolerance))
        found.append(jax.device_get((head.kernel, head.bias, *reached)))
    # (strengths, draws, ...) to (draws, strengths, ...)
    kernel, bias, objective, gradient, num_steps = (
        np.stack(parts, axis=1) for parts in zip(*found, strict=True)
    )
    kernel = np.einsum("sdr,sark->sadk", axes, kernel.astype(np.float64))
    ranks = [rank_of(values) for values, _ in spectra]
    parts = zip(kernel, bias, objective, gradient, num_steps, gradient <= tolerance, ranks, strict=True)
    return [Path(strengths, *part) for part in parts]


class _Head(NamedTuple):
    """A head in preconditioned coordinates, or a gradient by it."""

    kernel: Float[Array, "d k"]
    bias: Float[Array, " k"]


class _Descent(NamedTuple):
    """Where a descent is."""

    head: _Head
    state: Any
    gradient: Float[Array, ""]
    step: Int[Array, ""]


@kept_program
def _program(loss, max_steps):
    return jax.jit(functools.partial(_solve, loss, max_steps))


@kept_program
def _program_of_draws(loss, max_steps):
    solve = functools.partial(_solve, loss, max_steps)
    return jax.jit(jax.vmap(solve, in_axes=(0, None, 0, 0, 0, None, None)))


def _solve(loss, max_steps, head, strength, inputs, targets, eigenvalues, origin, tolerance):
    """The head of one strength from that of another, its objective, size of gradient, steps taken."""

    def outputs_of(kernel, bias):
        return jnp.einsum("...d,dk->...k", inputs, kernel, precision=_EXACT) + bias

    at_start = outputs_of(origin, jnp.zeros_like(head.bias))
    unit, _ = _scales(loss, at_start, targets)

    def one_round(reached):
        head, _, _, taken = reached
        # Where a descent has led the loss is curved otherwise than where it started.
        _, curvature = _scales(loss, outputs_of(head.kernel, head.bias), targets)
        # Rows of the kernel, and the bias, in units in which the loss is curved by about 1.
        unit_of_row = jax.lax.rsqrt(curvature * eigenvalues + strength)[:, None]
        unit_of_bias = jax.lax.rsqrt(jnp.maximum(curvature, _LEAST_CURVATURE))

        def objective(head):
            moved = unit_of_row * head.kernel
            losses = loss(outputs_of(origin + moved, unit_of_bias * head.bias), targets)
            return jnp.mean(losses) + strength / 2 * jnp.sum(jnp.square(moved))

        def size(gradient):
            largest = jnp.max(jnp.abs(gradient.kernel / unit_of_row))
            return jnp.maximum(largest, jnp.max(jnp.abs(gradient.bias / unit_of_bias))) / unit

        head = _Head((head.kernel - origin) / unit_of_row, head.bias / unit_of_bias)
        most = jnp.minimum(_ROUND, max_steps - taken)
        head, gradient, step = _minimize(objective, head, size, tolerance, most)
        solved = _Head(origin + unit_of_row * head.kernel, unit_of_bias * head.bias)
        return solved, objective(head), gradient, taken + step

    def goes_on(reached):
        _, _, gradient, taken = reached
        return (taken < max_steps) & (gradient > tolerance)

    nothing = (head, jnp.zeros(()), jnp.full((), jnp.inf), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(goes_on, one_round, nothing)


def _minimize(objective, head, size, tolerance, max_steps):
    """L-BFGS until the gradient is small; the head, the size of its gradient, steps taken."""
    solver = optax.lbfgs(
        linesearch=optax.scale_by_zoom_linesearch(max_linesearch_steps=20, initial_guess_strategy="one")
    )
    value_and_gradient = optax.value_and_grad_from_state(objective)

    def goes_on(descent):
        return (descent.step < max_steps) & (descent.gradient > tolerance)

    def step(descent):
        value, gradient = value_and_gradient(descent.head, state=descent.state)
        updates, state = solver.update(
            gradient,
            descent.state,
            descent.head,
            value=value,
            grad=gradient,
            value_fn=objective,
        )
        head: Any = optax.apply_updates(descent.head, updates)
        return _Descent(head, state, size(optax.tree.get(state, "grad")), descent.step + 1)

    first = _Descent(head, solver.init(head), size(jax.grad(objective)(head)), jnp.zeros((), jnp.int32))
    last = jax.lax.while_loop(goes_on, step, first)
    return last.head, last.gradient, last.step


def _scales(loss, outputs, targets):
    """Mean norm of the loss's derivative by the outputs, and its mean curvature there."""

    def total(outputs):
        return jnp.sum(loss(outputs, targets))

    gradient = jax.grad(total)
    num = outputs.shape[0]
    unit = jnp.mean(jnp.linalg.norm(gradient(outputs).reshape(num, -1), axis=1))

    def probe(key):
        # v^T H v of random signs v has the trace of H as its mean.
        signs = jax.random.rademacher(key, outputs.shape, outputs.dtype)
        return jnp.vdot(signs, jax.jvp(gradient, (outputs,), (signs,))[1])

    keys = jax.random.split(jax.random.key(0), _PROBES)
    curvature = jnp.mean(jax.lax.map(probe, keys)) / outputs.size
    tiny = jnp.finfo(outputs.dtype).tiny
    return jnp.where(unit > 0, unit, 1), jnp.maximum(curvature, tiny)
