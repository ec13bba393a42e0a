"""Where a training step of the sweep spends its time, beside its matrix products alone."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from benchmarks.timing import measure
from poolax.pooling import AveragePool, from_name
from poolax.training import Classification, HeadModule
from poolax.training.engine import HeadGroup
from poolax.training.pooled import is_fixed, pool
from poolax.training.sources import MemorySource, PooledSource
from poolax.training.step import Trainer, epoch_batches, put, stack

_REPEATS = 7
_PAUSE = 0.1
# Steps of a timed stretch: as many as take this long, so that beginning and ending it hardly count.
_STRETCH_SECONDS = 0.5
_LEAST_STEPS = 20


def profile(
    states: np.ndarray,
    mask: np.ndarray,
    targets: np.ndarray,
    poolers: Sequence[str],
    *,
    num_classes: int,
    num_runs: int,
    batch_size: int,
    learning_rate: float,
) -> dict[str, float]:
    """Seconds of one step of all heads of some poolers, and of parts of it, each a program of its own.

    Args:
        states: Token states of the training split, shape ``(N, n, d)``.
        mask: Shape ``(N, n)``.
        targets: Labels, shape ``(N,)``.
        poolers: Names: some without parameters, which train on pooled vectors together, or one with.
        num_classes: Number of labels.
        num_runs: Seeds of each pooler.
        batch_size: Examples a step.
        learning_rate: Of Adam.

    Returns:
        Median seconds, interleaved, of a step inside of its loop, of reading its batch, of loss and
        gradient, and of the matrix products of loss and gradient alone.
    """
    task = Classification(num_classes)
    modules = {name: from_name(name) for name in poolers}
    source: MemorySource | PooledSource = MemorySource(states, mask)
    data: dict[str, Any] = {"states": states, "mask": mask, "targets": targets}
    pooler, num_groups, own = modules[poolers[0]], 1, ()
    if is_fixed(pooler, states.shape):
        vectors = pool(modules, dict.fromkeys(modules, 0), source)
        source = PooledSource(np.stack(list(vectors.values()), axis=1))
        data = {"states": np.swapaxes(source.pooled, 0, 1)[..., None, :], "targets": targets}
        pooler, num_groups, own = AveragePool(), len(poolers), ("states",)
    runs = tuple((learning_rate, seed) for seed in range(num_runs))
    group = HeadGroup(HeadModule(pooler, num_classes), runs, num_groups)
    loss_fn = group.loss_fn(task)
    trainer = Trainer(loss_fn, optax.adam(learning_rate), own=own)
    state = trainer.init(group.init(source), num_groups=num_groups)
    batches = stack([epoch_batches(seed, 0, len(states), batch_size) for _, seed in runs])
    on_devices = put(data)

    def steps(batches):
        nonlocal state
        state, _ = trainer.steps(state, on_devices, batches)
        return state.params

    few = jax.tree.map(lambda leaf: leaf[:, :_LEAST_STEPS], batches)
    seconds = measure({"few": lambda: jax.block_until_ready(steps(few))}, 1, _PAUSE)["few"]
    num_steps = max(_LEAST_STEPS, round(_LEAST_STEPS * _STRETCH_SECONDS / seconds))
    batches = jax.tree.map(lambda leaf: leaf[:, :num_steps], batches)
    num_steps = batches.indices.shape[1]

    over_groups = {name: 0 if name in own else None for name in data}
    rows = jnp.asarray(batches.indices[:, 0])

    @jax.jit
    def read(data, rows):
        def of_run(data, rows):
            return jax.tree.map(lambda leaf: leaf[rows], data)

        of_runs = jax.vmap(of_run, (None, 0))
        return jax.vmap(of_runs, (over_groups, None), axis_size=num_groups)(data, rows)

    def of_head(params, batch):
        return jnp.sum(loss_fn(params, batch, jnp.arange(batch_size), None))

    gradient = jax.jit(jax.vmap(jax.vmap(jax.value_and_grad(of_head))))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), state.params)
    placed = jax.tree.map(jnp.asarray, data)
    batch = read(placed, rows)
    products, operands = _products_alone(gradient, params, batch)
    programs = {
        "step": lambda: steps(batches),
        "read": lambda: read(placed, rows),
        "gradient": lambda: gradient(params, batch),
        "products": lambda: products(operands),
    }

    def finish(program):
        return lambda: jax.block_until_ready(program())

    calls = {name: finish(program) for name, program in programs.items()}
    seconds = measure(calls, _REPEATS, _PAUSE)
    return {**seconds, "step": seconds["step"] / num_steps}


def _products_alone(fn: Callable, *args: PyTree):
    """A program of the matrix products of another one, and operands for it."""
    equations = list(_matrix_products(jax.make_jaxpr(fn)(*args).jaxpr))
    keys = iter(jax.random.split(jax.random.key(0), 2 * len(equations)))

    def draw(operand):
        return jax.random.normal(next(keys), operand.aval.shape, operand.aval.dtype)

    operands = [tuple(map(draw, eqn.invars)) for eqn in equations]
    parameters = [eqn.params for eqn in equations]

    @jax.jit
    def products(operands):
        return [
            jax.lax.dot_general_p.bind(*pair, **own)
            for pair, own in zip(operands, parameters, strict=True)
        ]

    return products, operands


def _matrix_products(jaxpr) -> Iterator[Any]:
    """Equations of all matrix products, those of a scan as often as it goes round."""
    inner = (jax.extend.core.Jaxpr, jax.extend.core.ClosedJaxpr)
    for eqn in jaxpr.eqns:
        if eqn.primitive is jax.lax.dot_general_p:
            yield eqn
        for leaf in jax.tree.leaves(eqn.params, is_leaf=lambda leaf: isinstance(leaf, inner)):
            if isinstance(leaf, inner):
                for _ in range(eqn.params.get("length", 1)):
                    yield from _matrix_products(getattr(leaf, "jaxpr", leaf))
