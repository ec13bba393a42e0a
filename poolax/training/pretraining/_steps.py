"""Steps of pretraining over devices and micro-batches, several in one compiled program."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, PyTree

from poolax.training._devices import over_devices, put, take
from poolax.training._placing import AXIS, own_devices
from poolax.training._runs import TrainState
from poolax.training.pretraining._batches import WEIGHT
from poolax.training.pretraining._objective import Objective
from poolax.training.pretraining._optimisation import Optimisation
from poolax.training.pretraining._spectral import (
    cap_spectral_norms,
    soft_cap_after_step,
)

# Folded into the key of a run for what its evaluations hide; steps are counted from 0 upwards.
_EVALUATION = 2**31 - 1


def evaluation_key(seed: int) -> Array:
    """Key of all evaluations of a run: each batch's is folded in, then each row's."""
    return jax.random.fold_in(jax.random.key(seed), _EVALUATION)


@struct.dataclass
class Steps:
    """What steps of one call gave, in their order; entries behind them are zero.

    Attributes:
        loss: Sum of losses of each step, shape ``(capacity,)``.
        weight: Sum of weights.
        gradient_norm: Norm of the gradient, before it is clipped.
        diverged_step: Number of the step that was not finite, or -1.
    """

    loss: Any
    weight: Any
    gradient_norm: Any
    diverged_step: Any


class Stepper:
    """Trains one model over all devices, by steps that are functions of their number and batch.

    Sums of losses, weights and gradients are added up over the micro-batches of a device and over all
    devices, and divided once: a step is that of one large batch.

    Args:
        objective: What is learned.
        optimisation: By what.
        steps: Of the whole run.
        rows: Rows of a batch.
    """

    def __init__(self, objective: Objective, optimisation: Optimisation, *, steps: int, rows: int):
        dtype = None if optimisation.dtype == "float32" else jnp.dtype(optimisation.dtype)
        self._model = dataclasses.replace(
            objective.model(), compute_dtype=dtype, remat=optimisation.remat
        )
        self._objective, self._optimisation = objective, optimisation
        self._optimizer = optimisation.transformation(steps)
        self._kernel_rates = optimisation.kernel_rates(steps)
        parts = jax.device_count() * optimisation.accumulation
        self._rows_per_device = -(-rows // parts) * optimisation.accumulation
        self._train = over_devices("auto", self._many_steps, axis_name=AXIS, donate_argnums=0)
        self._evaluate = over_devices("auto", self._many_evaluations, axis_name=AXIS)

    def init(self, params: PyTree) -> TrainState:
        """The state before the first step, on the host; kernels are at most at their cap."""
        state = jax.jit(self._first)(params)
        return jax.tree.map(np.asarray, state)

    def _first(self, params):
        optimisation = self._optimisation
        if optimisation.spectral_cap is not None:
            params = cap_spectral_norms(params, optimisation.spectral_cap, self._method_at_once)
        zero = jnp.zeros((), jnp.int32)
        return TrainState(params, self._optimizer.init(params), zero, zero - 1)

    def put(self, state: TrainState) -> TrainState:
        """A state on all devices."""
        return put(state)

    def steps(
        self, state: TrainState, batches: Mapping[str, np.ndarray], count: int, seed: int
    ) -> tuple[TrainState, Any]:
        """Begin steps on batches that lie behind one another.

        Args:
            state: As :meth:`put` gives it; donated.
            batches: As :meth:`split` gives them.
            count: How many of them are real; the others only fill up the program's arguments.
            seed: Of what is random in them.

        Returns:
            The new state, and what :func:`of_steps` reads.
        """
        return self._train(state, batches, *_on_devices(jax.random.key(seed), count))

    def evaluate(
        self, state: TrainState, batches: Mapping[str, np.ndarray], start: int, count: int, seed: int
    ) -> Any:
        """Begin to evaluate batches, from number ``start`` on; as :meth:`steps`."""
        key = evaluation_key(seed)
        return self._evaluate(state.params, batches, *_on_devices(key, start, count))

    def split(self, batches: list[Mapping[str, np.ndarray]], capacity: int) -> dict[str, np.ndarray]:
        """Batches behind one another, cut over the devices: ``(device, capacity, rows, ...)``.

        Rows that the devices and micro-batches do not divide are filled up with rows of weight 0.
        """
        total = self._rows_per_device * jax.device_count()
        own = own_devices()
        found = {}
        for name in {WEIGHT, *batches[0]}:
            of_steps = [_array(batch, name) for batch in batches]
            rows = np.stack(of_steps)  # (steps, rows, ...)
            missing = total - rows.shape[1]
            if missing:
                around = [(0, 0), (0, missing)] + [(0, 0)] * (rows.ndim - 2)
                rows = np.pad(rows, around, mode="constant" if name == WEIGHT else "edge")
            cut = rows.reshape(len(rows), jax.device_count(), self._rows_per_device, *rows.shape[2:])
            cut = np.moveaxis(cut[:, own], 1, 0)
            fill = [(0, 0), (0, capacity - len(rows))] + [(0, 0)] * (cut.ndim - 2)
            found[name] = np.pad(cut, fill) if capacity > len(rows) else cut
        return found

    def _many_steps(self, state, batches, key, count):
        def step(index, carry):
            state, found = carry
            batch = jax.tree.map(lambda leaf: _at(leaf, index), batches)
            state, of_step = self._step(state, batch, jax.random.wrap_key_data(key))
            return state, tuple(
                all_.at[index].set(one) for all_, one in zip(found, of_step, strict=True)
            )

        zeros = jnp.zeros(len(next(iter(batches.values()))), jnp.float32)
        state, found = jax.lax.fori_loop(0, count, step, (state, (zeros, zeros, zeros)))
        loss, weight, norm = found
        return state, Steps(loss, weight, norm, state.diverged_step)

    def _step(self, state, batch, key):
        key = jax.random.fold_in(key, state.step)
        (loss, weight), gradient = self._gradient(state.params, batch, key)
        loss, weight, gradient = _sum((loss, weight, gradient))
        count = jnp.where(weight > 0, weight, 1)
        gradient = jax.tree.map(lambda leaf: leaf / count.astype(leaf.dtype), gradient)
        norm = optax.tree.norm(gradient)
        clip = self._optimisation.clip
        if clip is not None:
            factor = jnp.minimum(1, clip / jnp.maximum(norm, clip))
            gradient = jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), gradient)
        updates, opt_state = self._optimizer.update(gradient, state.opt_state, state.params)
        params = self._capped(optax.apply_updates(state.params, updates), state)
        is_finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        goes_on = is_finite & (state.diverged_step < 0)
        moved, still = (params, opt_state), (state.params, state.opt_state)
        params, opt_state = jax.tree.map(functools.partial(jnp.where, goes_on), moved, still)
        fails = ~is_finite & (state.diverged_step < 0)
        diverged = jnp.where(fails, state.step, state.diverged_step)
        new = TrainState(params, opt_state, state.step + 1, diverged)
        return new, (loss, weight, norm)

    @property
    def _method_at_once(self):
        """For kernels of any norm: the soft cap is for those that a step has brought above."""
        method = self._optimisation.spectral_method
        return "cap" if method == "soft" else method

    def _capped(self, params, before):
        optimisation = self._optimisation
        cap = optimisation.spectral_cap
        if cap is None:
            return params
        if optimisation.spectral_method != "soft":
            return cap_spectral_norms(params, cap, optimisation.spectral_method)
        return soft_cap_after_step(
            params,
            before.params,
            cap,
            rate=self._kernel_rates(before.step),
            weight_decay=optimisation.weight_decay,
            by_muon=optimisation.optimizer == "muon",
        )

    def _gradient(self, params, batch, key):
        """Sums of losses, weights and gradients of this device's rows, a micro-batch at a time."""
        number = self._optimisation.accumulation
        per_device = self._rows_per_device
        # A row's key is that of its place in the whole batch, wherever it is computed.
        rows = jax.lax.axis_index(AXIS) * per_device + jnp.arange(per_device)
        gradient_of = jax.value_and_grad(self._total, has_aux=True)
        if number == 1:
            return gradient_of(params, batch, rows, key)

        def add(carry, part):
            some, places = part
            return jax.tree.map(jnp.add, carry, gradient_of(params, some, places, key)), None

        zero = jnp.zeros((), jnp.float32)
        start = ((zero, zero), jax.tree.map(jnp.zeros_like, params))
        return jax.lax.scan(add, start, _in_parts((batch, rows), number))[0]

    def _total(self, params, batch, rows, key):
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)
        weight = batch[WEIGHT]
        batch = {name: _signed(leaf) for name, leaf in batch.items() if name != WEIGHT}
        losses, weights = self._objective.loss(self._model, params, batch, keys)
        total = jnp.sum(losses.astype(jnp.float32) * weight)
        return total, jnp.sum(weights.astype(jnp.float32) * weight)

    def _many_evaluations(self, params, batches, key, start, count):
        def evaluate(index, sums):
            batch = jax.tree.map(lambda leaf: _at(leaf, index), batches)
            of_batch = jax.random.fold_in(jax.random.wrap_key_data(key), start + index)
            per_device, number = self._rows_per_device, self._optimisation.accumulation
            rows = jax.lax.axis_index(AXIS) * per_device + jnp.arange(per_device)

            def add(sums, part):
                some, places = part
                of_part = self._total(params, some, places, of_batch)
                return jax.tree.map(jnp.add, sums, of_part), None

            return jax.lax.scan(add, sums, _in_parts((batch, rows), number))[0]

        zero = jnp.zeros((), jnp.float32)
        return _sum(jax.lax.fori_loop(0, count, evaluate, (zero, zero)))


@functools.lru_cache(maxsize=4)
def stepper(objective: Objective, optimisation: Optimisation, *, steps: int, rows: int) -> Stepper:
    """The :class:`Stepper` of these arguments; runs that differ in seed and data share its programs."""
    return Stepper(objective, optimisation, steps=steps, rows=rows)


def of_steps(result: Steps) -> Steps:
    """What steps gave, on the host; waits for them."""
    return take(result)


def of_evaluations(result: Any) -> tuple[float, float]:
    """Sums of losses and weights of evaluated batches; waits for them."""
    loss, weight = take(result)
    return float(loss), float(weight)


def host_state(state: TrainState) -> TrainState:
    """One copy of a state, on the host."""
    return take(state)


def _on_devices(key, *numbers):
    """Data of a key, and numbers, for each device of this process."""
    devices = jax.local_device_count()
    data = np.asarray(jax.random.key_data(key))
    return (
        np.broadcast_to(data, (devices, *data.shape)),
        *(np.full(devices, number, np.int32) for number in numbers),
    )


def _sum(tree):
    # The sum over one device would be a copy of every gradient.
    return jax.lax.psum(tree, AXIS) if jax.device_count() > 1 else tree


def _in_parts(tree, number):
    """Rows of arrays in so many parts: ``(number, rows / number, ...)``."""
    return jax.tree.map(lambda leaf: leaf.reshape(number, -1, *leaf.shape[1:]), tree)


def _at(leaf: Array, index: Array) -> Float[Array, "..."]:
    return jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False)


def _signed(leaf):
    """Ids as int32, whatever a file has them in."""
    is_integer = jnp.issubdtype(leaf.dtype, jnp.integer)
    return leaf.astype(jnp.int32) if is_integer else leaf


def _array(batch, name):
    if name in batch:
        return np.asarray(batch[name])
    return np.ones(len(next(iter(batch.values()))), np.float32)
