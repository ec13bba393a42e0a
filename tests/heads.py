"""Token states that heads can learn from, and the loop that trains one of them alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from poolax.training import Classification
from poolax.training._runs import epoch_batches

TASK = Classification(3)


def toy(num_examples=50, num_tokens=5, dim=8, seed=0):
    """Token states whose class shows in every token, with padding on both sides."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 3, num_examples)
    centres = rng.normal(size=(3, dim))
    states = rng.normal(size=(num_examples, num_tokens, dim)) + centres[targets][:, None]
    mask = np.ones((num_examples, num_tokens), bool)
    mask[::2, 0] = False
    mask[1::3, -2:] = False
    order = rng.permutation(num_examples)
    parts = np.split(order, [num_examples * 3 // 5, num_examples * 4 // 5])
    splits = dict(zip(("train", "validation", "test"), parts, strict=True))
    return states.astype(np.float32), mask, targets, splits


def one_at_a_time(module, states, mask, targets, train, rate, seed, epochs, batch_size, params=None):
    """The textbook's loop: one head, one device, one batch after the other."""
    if params is None:
        params = module.init(jax.random.key(seed), jnp.asarray(states[:1]))["params"]
    optimizer = optax.adam(rate)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, z, m, y):
        def loss(params):
            return TASK.loss(module.apply({"params": params}, z, m), y).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    for epoch in range(epochs):
        batches = epoch_batches(seed, epoch, len(train), batch_size)
        for indices, weights in zip(batches.indices, batches.weights, strict=True):
            chosen = train[indices[weights > 0]]
            params, state = step(params, state, states[chosen], mask[chosen], targets[chosen])
    return params
