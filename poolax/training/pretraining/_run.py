"""A run of pretraining: steps, evaluations, records and checkpoints, resumed where it stopped."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import PyTree

from poolax import codec
from poolax._checkpoint import restore_newest
from poolax._processes import agreed, told
from poolax._progress import Progress, no_progress
from poolax._signals import PreemptedError, stop_asked
from poolax.backbones import Backbone
from poolax.records import Records
from poolax.training._engine.keeping import stop_on_sigterm
from poolax.training._runs import TrainState
from poolax.training.holding import holding
from poolax.training.pretraining._batches import Batches
from poolax.training.pretraining._notes import Notes, Since
from poolax.training.pretraining._objective import Objective
from poolax.training.pretraining._optimisation import Plan
from poolax.training.pretraining._saving import Saver
from poolax.training.pretraining._steps import host_state, of_evaluations, of_steps, stepper

Observer = Callable[[int, Backbone], Mapping[str, Any]]

# What one call of the program is given at most, and how long it may take until a signal is seen.
_BYTES, _STEPS, _SECONDS = 2**25, 128, 1.0


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """What a run of pretraining gives.

    Attributes:
        backbone: The trained model.
        params: All parameters: the backbone's, and those of what reads its states.
        records: What the run came to, by step.
    """

    backbone: Backbone
    params: PyTree
    records: Records


@dataclasses.dataclass(frozen=True)
class Run:
    """All that a run is made of; :func:`pretrain` says what each part is.

    Attributes:
        identity: What makes it another run, plain JSON, beside the objective.
        takes_notes: Whether records are made.
    """

    objective: Objective
    batches: Batches
    plan: Plan
    identity: Mapping[str, Any]
    evaluation: Batches | None = None
    out: epath.PathLike | None = None
    init: Backbone | PyTree | None = None
    preprocess: Any = None
    observers: Sequence[Observer] = ()
    progress: Progress = no_progress
    takes_notes: bool = True

    @property
    def metadata(self) -> dict[str, Any]:
        """What checkpoints say of it."""
        recipe = codec.to_plain(self.objective, of="recipe")
        return {"recipe": recipe, **self.objective.facts, **self.identity}

    def check(self, saved: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of another run.

        Raises:
            ValueError: for what it says otherwise.
        """
        differing = self.objective.differing(saved)
        differing += [name for name, value in self.identity.items() if saved.get(name) != value]
        if differing:
            raise ValueError(
                f"out: expected a checkpoint with this configuration in {self.out}, got one that "
                f"differs in {', '.join(differing)}"
            )

    def initial_params(self) -> PyTree:
        """All parameters before the first step."""
        objective, init = self.objective, self.init
        params = objective.init(jax.random.key(self.plan.seed))
        if isinstance(init, Backbone):
            if init.config != objective.config:
                raise ValueError(f"init: expected a model of {objective.config}, got {init.config}")
            params = objective.with_backbone(params, init.params)
        elif init is not None:
            if jax.tree.structure(init) != jax.tree.structure(params):
                raise ValueError("init: expected parameters as the objective's, got another tree")
            params = init
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
        if not self.plan.optimisation.scan_layers:
            return params
        model: Any = dataclasses.replace(objective.model(), params=objective.of_backbone(params))
        model.check_stackable()
        return objective.with_backbone(params, model.stack_layers().params)

    def result(self, params: PyTree) -> tuple[Backbone, PyTree]:
        """Backbone and parameters, on the device, blocks by their names."""
        params = jax.tree.map(jnp.asarray, params)
        base: Any = self.init if isinstance(self.init, Backbone) else None
        base = self.objective.model(self.preprocess) if base is None else base
        backbone = base.replace(params=self.objective.of_backbone(params))
        if self.plan.optimisation.scan_layers:
            backbone = backbone.unstack_layers()
            params = self.objective.with_backbone(params, backbone.params)
        return backbone, params


def run_to_end(run: Run) -> Pretrained:
    """Train, or go on from a checkpoint of the same run.

    Raises:
        ValueError: for batches that do not fit, or a checkpoint of another run.
        FloatingPointError: if the loss does not stay finite.
        BlockingIOError: if another program writes to the run's folder.
        PreemptedError: for SIGTERM or Ctrl-C, once the state is saved.
    """
    first = run.batches.batch(0)
    run.objective.check(first)
    trainer = _stepper(run, first)
    state = trainer.init(run.initial_params())
    # Where nothing can be saved, signals are left to whoever takes them.
    asking = contextlib.nullcontext(stop_asked) if run.out is None else stop_on_sigterm()
    with holding(run.out), asking as should_stop, Saver(run.out, run.plan.checkpoint_every) as saver:
        since = Since()
        if run.out is not None:
            saved: dict[str, Any] = {}

            def check(metadata):
                run.check(metadata)
                saved.clear()
                saved.update(metadata)

            _, kept = restore_newest(run.out, state, check=check)
            if kept is not None:
                state, since = kept, Since.of(saved)
                saver.is_saved(int(state.step))
        training = _Training(run, trainer, state, since, saver, should_stop, len(_rows(first)))
        training.go_on()
        backbone, params = run.result(training.state_on_host().params)
        return Pretrained(backbone, params, training.notes.records())


class _Training:
    """The loop of a run."""

    def __init__(self, run, stepper, state: TrainState, since, saver, should_stop, num_rows):
        self.run, self.stepper, self.saver, self.should_stop = run, stepper, saver, should_stop
        self.notes = Notes(run, since, num_rows)
        self.step = int(state.step)
        self.state = stepper.put(state)
        self._evaluator = None
        size = sum(np.asarray(array).nbytes for array in run.batches.batch(0).values())
        most = _STEPS if run.plan.record_every is None else min(_STEPS, run.plan.record_every)
        self.capacity = max(1, min(most, run.plan.steps, _BYTES // max(size, 1)))
        self.count = 1

    def state_on_host(self):
        return host_state(self.state)

    def go_on(self):
        plan = self.run.plan
        if self.step == 0:
            self._note(0)
        stop, batches = self._next(self.step)
        while self.step < plan.steps:
            start = time.perf_counter()
            count = stop - self.step
            self.state, result = self.stepper.steps(self.state, batches, count, plan.seed)
            # The next batches are read while the devices are at work.
            following = self._next(stop)
            found = of_steps(result)
            seconds = time.perf_counter() - start
            if found.diverged_step >= 0:
                raise FloatingPointError(
                    f"pretraining diverged in step {found.diverged_step} at learning rate "
                    f"{plan.optimisation.learning_rate:g}"
                )
            self.notes.add(found, count, seconds)
            self._adapt(seconds)
            self.step, (stop, batches) = stop, following
            if self.notes.is_due(self.step):
                self._note(self.step)
            self.run.progress("pretraining", self.step, plan.steps)
            self._save_or_stop()

    def _next(self, step):
        """Where the call from a step on ends, and its batches."""
        plan = self.run.plan
        if step >= plan.steps:
            return step, None
        stop = min(step + min(self.count, self.capacity), plan.steps)
        for every in (self.notes.record_every, plan.evaluate_every, plan.checkpoint_every):
            if every is not None:
                stop = min(stop, (step // every + 1) * every)
        batches = [self.run.batches.batch(number) for number in range(step, stop)]
        return stop, self.stepper.split(batches, self.capacity)

    def _adapt(self, seconds):
        """Calls as long as a signal may wait; how many steps one has changes nothing in them."""
        longer, shorter = told(
            lambda: [seconds < _SECONDS / 2, seconds > 2 * _SECONDS], "the number of steps of a call"
        )
        if longer:
            self.count = min(2 * self.count, self.capacity)
        elif shorter:
            self.count = max(1, self.count // 2)

    def _note(self, step):
        if not self.run.takes_notes:
            return
        evaluates = self.notes.evaluates(step)
        loss = self._evaluate() if evaluates and self.run.evaluation is not None else None
        observed = {}
        if evaluates and self.run.observers:
            backbone, _ = self.run.result(self.state_on_host().params)
            for observer in self.run.observers:
                observed |= observer(step, backbone)
        self.notes.write(step, loss, observed)

    def _evaluate(self):
        """Mean loss of the batches held out, whose hidden parts are the same each time."""
        evaluation = self.run.evaluation
        if self._evaluator is None:
            first = evaluation.batch(0)
            self.run.objective.check(first)
            self._evaluator = _stepper(self.run, first)
        loss = weight = 0.0
        number = evaluation.steps_per_epoch
        capacity = min(self.capacity, number)
        for start in range(0, number, capacity):
            stop = min(start + capacity, number)
            batches = [evaluation.batch(step) for step in range(start, stop)]
            batches = self._evaluator.split(batches, capacity)
            result = self._evaluator.evaluate(
                self.state, batches, start, stop - start, self.run.plan.seed
            )
            one, other = of_evaluations(result)
            loss, weight = loss + one, weight + other
        return loss / weight if weight else None

    def _save_or_stop(self):
        run, is_last = self.run, self.step == self.run.plan.steps
        stops, is_due = agreed(self.should_stop(), self.saver.is_due(self.step))
        if run.out is not None and (stops or is_due or is_last):
            told_ = {**run.metadata, **self.notes.since.plain()}
            self.saver.save(self.step, self.state_on_host(), told_)
        if stops and not is_last:
            self.saver.close()
            where = "nothing was saved" if run.out is None else f"saved in {run.out}"
            raise PreemptedError(f"stopped after step {self.step}, {where}")


def _stepper(run, batch):
    plan = run.plan
    return stepper(run.objective, plan.optimisation, steps=plan.steps, rows=len(_rows(batch)))


def _rows(batch):
    return next(iter(batch.values()))
