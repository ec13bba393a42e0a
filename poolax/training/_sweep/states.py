"""Sweeps on token states of any model."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Bool, Float

from poolax._checks import check_count, check_flag, check_tokens
from poolax._progress import Progress, no_progress
from poolax._splits import SPLITS, count_copied_rows
from poolax.records import Records, fingerprint
from poolax.training._engine.limits import Limits
from poolax.training._states.prefixes import prefix_of
from poolax.training._states.sources import MemorySource, check_finite_states
from poolax.training._sweep.identities import Heads
from poolax.training._sweep.methods import methods_of
from poolax.training._sweep.plan import SweepPlan
from poolax.training._sweep.readers import PoolerLike, as_module, check_shape, labelled, readers_of
from poolax.training._sweep.write import Folder
from poolax.training.arguments import (
    check_run,
    check_splits,
    check_targets_of_splits,
    checked_mask,
)
from poolax.training.holding import holds_out
from poolax.training.layers import OUTPUT, Layers, needed_layers, readings_of
from poolax.training.solver import Converged, solver_of
from poolax.training.tasks import Task


def _check_sweep_states(
    *, states, mask, targets, splits, layers, num_prefix, include_prefix, **run
) -> None:
    del states, mask, targets, splits, layers  # checked together
    check_count("num_prefix", num_prefix, at_least=0)
    check_flag("include_prefix", include_prefix)
    check_run(**run)


@holds_out(_check_sweep_states)
def sweep_states(
    states: Float[np.ndarray, "N *parts n d"] | Mapping[int, Float[np.ndarray, "N *parts n d"]],
    mask: Bool[np.ndarray, "N *parts n"] | None,
    targets: np.ndarray | Mapping[str, np.ndarray],
    task: Task,
    *,
    splits: Mapping[str, np.ndarray],
    poolers: Sequence[PoolerLike] | Mapping[str, PoolerLike],
    seeds: int | Sequence[int] = 5,
    epochs: int = 10,
    batch_size: int = 32,
    learning_rates: Sequence[float] = (1e-3,),
    further_rates: int = 0,
    solver: str | Converged = "adam",
    layers: Any = None,
    num_prefix: int = 0,
    include_prefix: bool = True,
    neighbours: str = "fixed",
    out: epath.PathLike | None = None,
    resume: bool = True,
    name: str | None = None,
    limits: Limits | None = None,
    progress: Progress = no_progress,
) -> Records:
    """Compare poolers on token states of any model.

    Args:
        states: Token states, shape ``(N, n, d)``, NumPy or JAX; ``(N, parts, n, d)`` for a task whose
            examples have several sequences. Of several layers a mapping from their numbers.
        mask: True at real tokens, shape ``(N, n)`` or ``(N, parts, n)``; ``None`` if all are real.
        targets: Targets, shape ``(N, ...)``, or a mapping from names to such arrays.
        task: What the heads predict.
        splits: Indices of ``"train"``, ``"validation"`` and ``"test"``.
        poolers: Names or poolers, or a mapping from labels to them; ``"last"`` is the last token.
        seeds: Number of seeds, or the seeds.
        epochs: Passes over the training split.
        batch_size: Examples a step.
        learning_rates: Learning rates to try; choose by ``validation``.
        further_rates: Learning rates that Adam tries beyond either edge of several, at most, where the
            best mean validation score over seeds stands there; records of the best then say what was
            tried. A :class:`Converged` has its own.
        solver: ``"adam"``, which is the paper's protocol, or ``"converged"``: heads that are trained
            until nothing is to be gained, with the options of a :class:`Converged`.
        neighbours: Of which heads of classes ``knn`` of the records holds the score of the 20 nearest
            neighbours (:func:`neighbour_votes`): of ``"fixed"`` poolers, whose vectors are there in any
            case, of ``"all"`` whose states are kept, or of ``"none"``.
        layers: As for :func:`sweep`, where states are a mapping; ``None`` for each of its layers.
        num_prefix: Number of tokens in front that stand for no part of the input (CLS, registers).
        include_prefix: Whether they enter the poolers other than first.
        out: Folder for ``records.jsonl`` and ``heads/``, local or ``gs://``; ``None`` writes nothing.
        resume: Whether to take over what is finished in ``out``.
        name: What records and tables call the model that the states are of.
        limits: Memory, devices, checkpoints.
        progress: Called with a description, the number done and the total.

    Returns:
        One record for each reading of layers, pooler, learning rate and seed, in this order.

    Raises:
        ValueError: for an unknown pooler, numbers out of range, shapes that do not fit, or targets
            that do not fit the task.
        BlockingIOError: if another program writes to ``out``.
        PreemptedError: if asked to stop; what is saved is taken over by the same call.

    Example:
        >>> import numpy as np
        >>> from poolax.training import Classification
        >>> targets = np.arange(60) % 2
        >>> states = np.random.default_rng(0).normal(size=(60, 4, 8)) + targets[:, None, None]
        >>> parts = np.split(np.arange(60), [40, 50])
        >>> splits = dict(zip(("train", "validation", "test"), parts))
        >>> records = sweep_states(
        ...     states.astype(np.float32), None, targets, Classification(2), splits=splits,
        ...     poolers=["avg", "max"], seeds=1, epochs=30, learning_rates=(0.01,),
        ... )
        >>> [row["pooler"] for row in records], records[0]["test"]
        (['avg', 'max'], 1.0)
    """
    targets = jax.tree.map(np.asarray, dict(targets) if isinstance(targets, Mapping) else targets)
    by_layer = states if isinstance(states, Mapping) else {OUTPUT: states}
    readings = _readings(states, layers)
    needed = needed_layers(readings)
    called = {k: f"states[{k}]" if isinstance(states, Mapping) else "states" for k in needed}
    arrays = {k: np.asarray(by_layer[k]) for k in needed}
    for k in needed:
        check_tokens(called[k], arrays[k])
        if arrays[k].shape != arrays[needed[0]].shape:
            raise ValueError(
                f"{called[k]}: expected shape {arrays[needed[0]].shape} of all layers, got "
                f"{arrays[k].shape}"
            )
    task.check_targets(targets)
    shape = arrays[needed[0]].shape
    num_targets = {len(array) for array in jax.tree.leaves(targets)}
    if num_targets != {shape[0]}:
        raise ValueError(
            f"states: expected one row for each of {max(num_targets)} targets, got {shape}"
        )
    if mask is not None:
        mask = checked_mask(mask, shape)
        zeros = {k: np.zeros((), array.dtype) for k, array in arrays.items()}
        arrays = {k: np.where(mask[..., None], array, zeros[k]) for k, array in arrays.items()}
    check_shape(shape, task)
    for array in arrays.values():
        check_finite_states(array, mask)
    named = {label: as_module(pooler) for label, pooler in labelled(poolers).items()}
    check_splits(splits, shape[0])
    check_targets_of_splits(task, targets, splits)

    def prefix(pooler):
        return prefix_of(pooler, num_prefix, include_prefix=include_prefix)

    readers = readers_of(named, readings, needed, shape[-1], prefix)
    prints = {
        reading: fingerprint((_of_reading(arrays, reading), mask, targets, dict(splits)))
        for reading in readings
    }
    together = arrays[needed[0]] if len(needed) == 1 else np.concatenate(list(arrays.values()), -1)
    source = MemorySource(together, mask, num_prefix)
    trained_by = solver_of(solver)
    if trained_by is not None:
        learning_rates = trained_by.learning_rates
        epochs = trained_by.num_epochs(len(splits["train"]), batch_size)
    modules = {key: reader.pooler for key, reader in readers.items()}
    views = {key: reader.view for key, reader in readers.items()}
    shapes = {key: view.shape(source.shape) for key, view in views.items()}
    methods = methods_of(modules, task, targets, splits, shapes, trained_by)
    heads = Heads.of(
        task,
        readers,
        seeds=seeds,
        learning_rates=learning_rates,
        epochs=epochs,
        batch_size=batch_size,
        source={"num_prefix": num_prefix, "include_prefix": include_prefix} if num_prefix else {},
        own={key: {"states_fingerprint": prints[reader.reading]} for key, reader in readers.items()},
        solver=trained_by,
        methods=methods,
        further=further_rates,
    )
    plan = SweepPlan(heads, Folder(out), limits or Limits(), resume=resume, neighbours=neighbours)
    if name is not None:
        plan.rename(name)
    if plan.pending():
        duplicates = count_copied_rows({part: splits[part] for part in SPLITS}, together, mask)
        about = {"model": name, "duplicates": duplicates}
        plan.run(source, targets, splits, views, progress, about=about)
    return plan.records()


def _readings(states: Any, layers: Any) -> tuple[Layers, ...]:
    """What is read of states, of one array or a mapping from layers."""
    if not isinstance(states, Mapping):
        if layers is not None:
            raise ValueError(f"layers: expected None for states that are one array, got {layers!r}")
        return (Layers(),)
    if not states:
        raise ValueError("states: expected at least one layer, got none")
    singles = [Layers((number,)) for number in states]
    every = needed_layers(singles)
    found = tuple(singles) if layers is None else readings_of(layers, every)
    missing = [number for number in needed_layers(found) if number not in states]
    if missing:
        raise ValueError(f"layers: expected some of {list(states)}, got {missing[0]}")
    return found


def _of_reading(arrays: Mapping[int, np.ndarray], reading: Layers) -> Any:
    """What a fingerprint is of; of one layer as of one array."""
    own = tuple(arrays[number] for number in reading.numbers)
    return own[0] if len(own) == 1 else own
