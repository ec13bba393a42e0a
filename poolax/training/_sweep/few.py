"""Poolers compared on few examples of each class, drawn several times."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Int

from poolax._checks import check_count, check_flag, check_instance
from poolax._dataset import Dataset
from poolax._progress import Progress, no_progress
from poolax.backbones import Backbone
from poolax.records import Records, fingerprint
from poolax.training._convex.draws import solve_draws
from poolax.training._engine.limits import Limits
from poolax.training._states.features import FeaturePass
from poolax.training._states.lengths import with_max_tokens
from poolax.training._states.pooled import pool, pool_features
from poolax.training._states.prefixes import prefix_of
from poolax.training._states.prompts import with_prompt
from poolax.training._states.sources import (
    MemorySource,
    StreamedSource,
    TokenSource,
    check_finite_states,
    memory_source,
)
from poolax.training._states.views import View
from poolax.training._sweep.drawing import draw_examples, numbers_of
from poolax.training._sweep.identities import Heads, identity_of
from poolax.training._sweep.methods import SCHEDULE, methods_of
from poolax.training._sweep.plan import SweepPlan
from poolax.training._sweep.readers import (
    PoolerLike,
    Reader,
    as_module,
    check_shape,
    labelled,
    readers_of,
)
from poolax.training._sweep.run import layers_of, readers_of_pass
from poolax.training._sweep.write import Folder
from poolax.training.arguments import (
    check_run,
    check_seed,
    check_splits,
    check_targets_of_splits,
    checked_mask,
)
from poolax.training.holding import holds_out
from poolax.training.layers import OUTPUT, Layers, needed_layers
from poolax.training.solver import Converged
from poolax.training.tasks import Classification

_BATCH_SIZE = 32

Draws = Mapping[int, Sequence[Int[np.ndarray, " train"]]]


def _check_few(*, task, shots, draws, seed, solver, include_prefix, **others) -> None:
    check_instance("task", task, Classification, "a Classification, whose classes are drawn from")
    for number in numbers_of(shots):
        check_count("shots", number)
    check_count("draws", draws)
    check_seed("seed", seed)
    check_flag("include_prefix", include_prefix)
    check_instance("solver", solver, Converged, "a Converged")
    names = ("poolers", "out", "resume", "name", "limits", "progress")
    run = {name: others[name] for name in names}
    fixed = {"seeds": 1, "epochs": 1, "batch_size": 1, "learning_rates": [1.0]}
    check_run(task=task, solver=solver, neighbours="fixed", **fixed, **run)


def _check_few_shot(*, backbone, dataset, layers, prompt, max_tokens, **others) -> None:
    del prompt, max_tokens  # checked with the data
    check_instance("backbone", backbone, Backbone, "a Backbone")
    check_instance("dataset", dataset, Dataset, "a Dataset")
    layers_of(backbone, layers)
    _check_few(**others)


def _check_few_shot_states(*, states, mask, targets, splits, num_prefix, **others) -> None:
    del states, mask, targets, splits  # checked together
    check_count("num_prefix", num_prefix, at_least=0)
    _check_few(**others)


@holds_out(_check_few_shot)
def few_shot(
    backbone: Backbone,
    dataset: Dataset,
    task: Classification,
    *,
    shots: int | Sequence[int],
    draws: int,
    poolers: Sequence[PoolerLike] | Mapping[str, PoolerLike],
    seed: int = 0,
    solver: Converged = Converged(),  # noqa: B008
    layers: Any = OUTPUT,
    include_prefix: bool = True,
    prompt: str | None = None,
    max_tokens: int | None = None,
    out: epath.PathLike | None = None,
    resume: bool = True,
    name: str | None = None,
    limits: Limits | None = None,
    progress: Progress = no_progress,
) -> Records:
    """Compare poolers on few examples of each class of the training split, drawn several times.

    Heads are trained to the end, and those of poolers without parameters of all draws in one program.
    Strengths are chosen by the whole validation split, scores are of the whole test split. A draw with
    more examples of a class holds those of one with fewer.

    Args:
        backbone: A frozen backbone, which runs once over the examples that are drawn.
        dataset: A :class:`poolax.data.Dataset`.
        task: A classification.
        shots: Examples of each class to train on, or several such numbers.
        draws: How often they are drawn.
        poolers: Names or poolers, or a mapping from labels to them.
        seed: Of the draws.
        solver: How heads are trained to the end.
        layers: As for :func:`sweep`.
        include_prefix: Whether prefix tokens (CLS) enter the poolers other than first.
        prompt: As for :func:`sweep`.
        max_tokens: As for :func:`sweep`.
        out: Folder for ``records.jsonl`` and ``heads/``, local or ``gs://``; ``None`` writes nothing.
        resume: Whether to take over what is finished in ``out``.
        name: What records and tables call the model; ``None`` for the name of its checkpoint.
        limits: Memory, devices, checkpoints.
        progress: Called with a description, the number done and the total.

    Returns:
        Records of heads, whose ``shots`` is the number of examples of each class and whose ``seed`` is
        the number of the draw; deviations over seeds are those over draws.

    Raises:
        ValueError: for a class with fewer examples than are to be drawn, or as :func:`sweep` raises.
        BlockingIOError: if another program writes to ``out``.
        PreemptedError: if asked to stop; what is saved is taken over by the same call.

    Example:
        >>> import jax
        >>> from poolax.backbones import ImagePreprocess, ViT, ViTConfig
        >>> from poolax.data import digits
        >>> config = ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
        >>> vit = ViT.init(config, jax.random.key(0), ImagePreprocess(scale=1 / 16))
        >>> records = few_shot(
        ...     vit, digits(), Classification(10), shots=[1, 5], draws=2, poolers=["avg"]
        ... )
        >>> [(row["shots"], row["seed"]) for row in records]
        [(1, 0), (1, 1), (5, 0), (5, 1)]
    """
    limits = limits or Limits()
    readings = layers_of(backbone, layers)
    if prompt is not None:
        backbone = with_prompt(backbone, dataset.inputs, prompt)
    if max_tokens is not None:
        backbone = with_max_tokens(backbone, dataset.inputs, max_tokens)
    targets = dataset.targets
    task.check_targets(targets)
    check_splits(dataset.splits, len(dataset.inputs))
    check_targets_of_splits(task, targets, dataset.splits)
    labels = np.asarray(targets)
    drawn = draw_examples(labels, dataset.splits["train"], task, shots, draws, seed)
    held_out = {part: np.asarray(dataset.splits[part]) for part in ("validation", "test")}
    trained = [part for parts in drawn.values() for part in parts]
    used = np.unique(np.concatenate([*trained, *held_out.values()]))
    passed = FeaturePass(
        backbone,
        dataset.inputs,
        dataset.mask,
        indices=used,
        layer=Layers(needed_layers(readings)).layer,
        should_stop=limits.should_stop,
        mapping=limits.mapping,
    )
    check_shape(passed.shape, task)
    readers = readers_of_pass(passed, backbone, poolers, readings, include_prefix=include_prefix)
    views = {key: reader.view for key, reader in readers.items()}

    def read(fixed):
        if len(fixed) == len(readers):
            return StreamedSource(passed), pool_features(fixed, views, passed, progress)
        source = memory_source(passed, progress)
        return source, pool(fixed, views, source, limits.mapping)

    return _compare(
        task,
        readers,
        passed.shape,
        labels[used],
        {k: [np.searchsorted(used, part) for part in parts] for k, parts in drawn.items()},
        {part: np.searchsorted(used, own) for part, own in held_out.items()},
        read,
        identity={**identity_of(backbone, dataset, include_prefix=include_prefix), "draw_seed": seed},
        solver=solver,
        folder=Folder(out),
        limits=limits,
        resume=resume,
        name=name,
        about={
            "model": name or backbone.name,
            "data_source": dataset.source,
            "data_notes": list(dataset.notes),
            "duplicates": dataset.count_duplicates(),
        },
        progress=progress,
    )


@holds_out(_check_few_shot_states)
def few_shot_states(
    states: Float[np.ndarray, "N n d"],
    mask: Bool[np.ndarray, "N n"] | None,
    targets: Int[np.ndarray, " N"],
    task: Classification,
    *,
    splits: Mapping[str, np.ndarray],
    shots: int | Sequence[int],
    draws: int,
    poolers: Sequence[PoolerLike] | Mapping[str, PoolerLike],
    seed: int = 0,
    solver: Converged = Converged(),  # noqa: B008
    num_prefix: int = 0,
    include_prefix: bool = True,
    out: epath.PathLike | None = None,
    resume: bool = True,
    name: str | None = None,
    limits: Limits | None = None,
    progress: Progress = no_progress,
) -> Records:
    """The same on token states of any model.

    Args:
        states: Token states, shape ``(N, n, d)``.
        mask: True at real tokens, shape ``(N, n)``; ``None`` if all are real.
        targets: Labels, shape ``(N,)``.
        task: A classification.
        splits: Indices of ``"train"``, ``"validation"`` and ``"test"``.
        shots: Examples of each class to train on, or several such numbers.
        draws: How often they are drawn.
        poolers: Names or poolers, or a mapping from labels to them.
        seed: Of the draws.
        solver: How heads are trained to the end.
        num_prefix: Number of tokens in front that stand for no part of the input (CLS, registers).
        include_prefix: Whether they enter the poolers other than first.
        out: As for :func:`few_shot`.
        resume: As for :func:`few_shot`.
        name: What records and tables call the model that the states are of.
        limits: Memory, devices, checkpoints.
        progress: Called with a description, the number done and the total.

    Returns:
        Records as of :func:`few_shot`.

    Raises:
        ValueError: as :func:`few_shot` and :func:`sweep_states` raise.
        BlockingIOError: if another program writes to ``out``.
        PreemptedError: if asked to stop; what is saved is taken over by the same call.
    """
    limits = limits or Limits()
    states, labels = np.asarray(states), np.asarray(targets)
    check_shape(states.shape, task)
    task.check_targets(labels)
    if len(labels) != len(states):
        raise ValueError(
            f"states: expected one row for each of {len(labels)} targets, got {states.shape}"
        )
    if mask is not None:
        mask = checked_mask(mask, states.shape)
        states = np.where(mask[..., None], states, np.zeros((), states.dtype))
    check_finite_states(states, mask)
    check_splits(splits, len(states))
    check_targets_of_splits(task, labels, splits)
    named = {label: as_module(pooler) for label, pooler in labelled(poolers).items()}

    def prefix(pooler):
        return prefix_of(pooler, num_prefix, include_prefix=include_prefix)

    readers = readers_of(named, [Layers()], [OUTPUT], states.shape[-1], prefix)
    views = {key: reader.view for key, reader in readers.items()}
    source = MemorySource(states, mask, num_prefix)
    prefixes = {"num_prefix": num_prefix, "include_prefix": include_prefix} if num_prefix else {}
    known = fingerprint((states, mask, labels, dict(splits)))
    return _compare(
        task,
        readers,
        states.shape,
        labels,
        draw_examples(labels, splits["train"], task, shots, draws, seed),
        {part: np.asarray(splits[part]) for part in ("validation", "test")},
        lambda fixed: (source, pool(fixed, views, source, limits.mapping)),
        identity={"states_fingerprint": known, **prefixes, "draw_seed": seed},
        solver=solver,
        folder=Folder(out),
        limits=limits,
        resume=resume,
        name=name,
        about={"model": name},
        progress=progress,
    )


def _compare(
    task: Classification,
    readers: Mapping[str, Reader],
    shape: tuple[int, ...],
    labels: Int[np.ndarray, " N"],
    drawn: Draws,
    held_out: Mapping[str, Int[np.ndarray, "_"]],
    read: Callable[[Mapping[str, Any]], tuple[TokenSource, dict[str, np.ndarray]]],
    *,
    identity: Mapping[str, Any],
    solver: Converged,
    folder: Folder,
    limits: Limits,
    resume: bool,
    name: str | None,
    about: Mapping[str, Any],
    progress: Progress,
) -> Records:
    """A plan for each draw; states are read if any of them has something left to do."""
    modules = {key: reader.pooler for key, reader in readers.items()}
    views: dict[str, View] = {key: reader.view for key, reader in readers.items()}
    shapes = {key: view.shape(shape) for key, view in views.items()}
    plans: dict[tuple[int, int], tuple[SweepPlan, dict[str, np.ndarray]]] = {}
    methods = {}
    for shots, parts in drawn.items():
        splits = {"train": parts[0], **held_out}
        methods = methods_of(modules, task, labels, splits, shapes, solver)
        for draw, train in enumerate(parts):
            heads = Heads.of(
                task,
                readers,
                seeds=[draw],
                learning_rates=solver.learning_rates,
                epochs=solver.num_epochs(len(train), _BATCH_SIZE),
                batch_size=min(_BATCH_SIZE, len(train)),
                source={**identity, "shots": shots},
                solver=solver,
                methods=methods,
                resampled=True,
            )
            plan = SweepPlan(heads, folder, limits, resume=resume)
            if name is not None:
                plan.rename(name)
            plans[shots, draw] = plan, {"train": train, **held_out}
    if any(plan.pending() for plan, _ in plans.values()):
        fixed = {key: modules[key] for key, method in methods.items() if method.is_fixed}
        source, vectors = read(fixed)
        for shots, parts in drawn.items():
            own = {draw: plans[shots, draw] for draw in range(len(parts))}
            pending = {key for plan, _ in own.values() for key in plan.pending()}
            # Of all draws, finished or not: how many stand in a program is to change nothing.
            solved = {
                key: solve_draws(
                    task.inputs_of(vectors[key]), labels, task, parts, held_out["validation"], solver
                )
                for key in modules
                if key in pending and key in fixed and methods[key].name != SCHEDULE
            }
            for draw, (plan, splits) in own.items():
                given = {key: heads[draw] for key, heads in solved.items()}
                plan.run(
                    source, labels, splits, views, progress, about=about, pooled=vectors, given=given
                )
    return Records(row for plan, _ in plans.values() for row in plan.records())
