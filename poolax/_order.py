"""The order in which an epoch visits examples: what training and pipelines share."""

import functools

import jax
import numpy as np
from jaxtyping import Float, Int, UInt32

from poolax._compilation import compile_quickly


def epoch_order(seed: int, epoch: int, num_examples: int) -> Int[np.ndarray, " num_examples"]:
    """A random order of ``num_examples`` examples that depends on seed and epoch alone.

    Args:
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.
        num_examples: Number of examples.

    Returns:
        Each number from 0 to ``num_examples - 1`` once, int32.
    """
    draw, _ = _programs()
    return np.asarray(draw(jax.random.key(seed), epoch, num_examples), np.int32)


def epoch_step_keys(seed: int, epoch: int, num_steps: int) -> UInt32[np.ndarray, "num_steps 2"]:
    """The data of one random key for each step of an epoch, independent of its order."""
    _, draw = _programs()
    return np.asarray(draw(jax.random.key(seed), epoch, num_steps))


def in_batches(
    order: Int[np.ndarray, " num_examples"], batch_size: int
) -> tuple[Int[np.ndarray, "steps batch"], Float[np.ndarray, "steps batch"]]:
    """An order cut into batches; the last one is padded to full size by a weight of zero.

    Args:
        order: Which examples, in which order.
        batch_size: Examples of a batch.

    Returns:
        The order, 0 where padded, and weights, 1 or, where padded, 0.

    Example:
        >>> positions, weights = in_batches(np.array([2, 0, 1]), 2)
        >>> positions.tolist(), weights.tolist()
        ([[2, 0], [1, 0]], [[1.0, 1.0], [1.0, 0.0]])
    """
    shape = (-(-len(order) // batch_size), batch_size)
    positions = np.zeros(shape, order.dtype)
    positions.flat[: len(order)] = order
    weights = (np.arange(positions.size) < len(order)).astype(np.float32)
    return positions, weights.reshape(shape)


@functools.cache
def _programs():
    """How an order and the keys of its steps are drawn: a program each, whatever is drawn within."""

    def order(key, epoch, num_examples):
        order_key, _ = jax.random.split(jax.random.fold_in(key, epoch))
        return jax.random.permutation(order_key, num_examples)

    def step_keys(key, epoch, num_steps):
        _, step_key = jax.random.split(jax.random.fold_in(key, epoch))
        return jax.random.key_data(jax.random.split(step_key, num_steps))

    quickly = compile_quickly()
    return tuple(
        jax.jit(draw, static_argnums=2, compiler_options=quickly) for draw in (order, step_keys)
    )
