"""Sweeps: one backbone pass, then all poolers, seeds and learning rates on its token states."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Bool, Float

from poolax._checks import (
    check_choice,
    check_flag,
    check_instance,
    check_path,
    check_tokens,
)
from poolax._dataset import Dataset
from poolax._progress import Progress, no_progress
from poolax._splits import SPLITS, count_copied_rows
from poolax.backbones import Backbone, TextPreprocess
from poolax.pooling import FirstPool, Pooler, from_name
from poolax.records import Records, fingerprint
from poolax.training._engine.limits import Limits
from poolax.training._states.features import FeaturePass
from poolax.training._states.lengths import Lengths, note_on_lengths, with_max_tokens
from poolax.training._states.pooled import pool_features
from poolax.training._states.prefixes import prefix_of
from poolax.training._states.sources import (
    MODES,
    MemorySource,
    StreamedSource,
    check_finite_states,
    choose_mode,
    memory_source,
)
from poolax.training._states.store import open_store
from poolax.training._states.views import WHOLE, View
from poolax.training._sweep.identities import Heads, describe, fingerprint_of
from poolax.training._sweep.methods import methods_of
from poolax.training._sweep.plan import SweepPlan
from poolax.training._sweep.write import Folder
from poolax.training.arguments import check_run, check_splits, check_targets_of_splits
from poolax.training.former import describe_config, former_preprocess
from poolax.training.holding import holds_out
from poolax.training.solver import Converged, solver_of
from poolax.training.tasks import Task
from poolax.training.token_head import TokenHead

_log = logging.getLogger(__name__)

PoolerLike = str | Pooler | TokenHead


def _check_sweep(
    *, backbone, dataset, features, feature_dir, feature_dtype, include_prefix, max_tokens, **run
) -> None:
    del max_tokens  # checked with the data
    check_instance("backbone", backbone, Backbone, "a Backbone")
    check_instance("dataset", dataset, Dataset, "a Dataset")
    check_run(**run)
    check_choice("features", features, ("auto", *MODES))
    check_choice("feature_dtype", feature_dtype, ("float32", "bfloat16"))
    check_flag("include_prefix", include_prefix)
    if feature_dir is not None:
        check_path("feature_dir", feature_dir)


def _check_sweep_states(*, states, mask, targets, splits, **run) -> None:
    del states, mask, targets, splits  # checked together
    check_run(**run)


@holds_out(_check_sweep)
def sweep(
    backbone: Backbone,
    dataset: Any,
    task: Task,
    *,
    poolers: Sequence[PoolerLike] | Mapping[str, PoolerLike],
    seeds: int | Sequence[int] = 5,
    epochs: int = 10,
    batch_size: int = 32,
    learning_rates: Sequence[float] = (1e-3,),
    solver: str | Converged = "adam",
    features: str = "auto",
    feature_dir: epath.PathLike | None = None,
    feature_dtype: str = "float32",
    include_prefix: bool = True,
    max_tokens: int | None = None,
    out: epath.PathLike | None = None,
    resume: bool = True,
    name: str | None = None,
    limits: Limits | None = None,
    progress: Progress = no_progress,
) -> Records:
    """Compare poolers on a frozen backbone: one pass over the data, then all heads on its states.

    A head is a pooler and a linear layer, trained with Adam. The pooler ``"last"`` stands for the
    backbone's summary token, CLS where it has one; records hold both names.

    Args:
        backbone: A frozen backbone.
        dataset: A :class:`poolax.data.Dataset`.
        task: What the heads predict.
        poolers: Names or poolers, or a mapping from labels to them.
        seeds: Number of seeds, or the seeds.
        epochs: Passes over the training split.
        batch_size: Examples a step.
        learning_rates: Learning rates to try; choose by ``validation``.
        solver: ``"adam"``, which is the paper's protocol, or ``"converged"``: heads that are trained
            until nothing is to be gained, with the options of a :class:`Converged`.
        features: Where token states are: in ``"memory"``, on ``"disk"``, or nowhere: ``"stream"`` runs
            the backbone in every epoch, once for all heads, which then share one order of batches.
            ``"auto"`` takes the first for which there is room. Fixed poolers need no token states:
            where there are no others, their vectors are kept instead.
        feature_dir: Local folder of token states on disk, for this sweep and others; ``None`` takes
            ``out / "features"``.
        feature_dtype: ``"float32"`` or ``"bfloat16"``, in which states are kept on disk.
        include_prefix: Whether prefix tokens (CLS) enter the poolers other than first.
        max_tokens: Most tokens that the backbone reads of a text, special ones included; ``None`` for
            as many as it takes. Padding costs little, whatever the longest text is: texts are sorted
            by length for the backbone, and in each step of the heads few places are long. Where a few
            texts cost most of the time, ``data_notes`` of the records and the log say so.
        out: Folder for ``records.jsonl`` and ``heads/``, local or ``gs://``; ``None`` writes nothing.
        resume: Whether to take over what is finished in ``out``.
        name: What records and tables call the model; ``None`` for the name of its checkpoint.
        limits: Memory, devices, checkpoints.
        progress: Called with a description, the number done and the total.

    Returns:
        One record for each pooler, learning rate and seed, in this order.

    Raises:
        ValueError: for an unknown pooler or option, numbers out of range, or targets that do not fit
            the task.
        BlockingIOError: if another program writes to ``out``.
        PreemptedError: if asked to stop; what is saved is taken over by the same call.

    Example:
        >>> import jax
        >>> from poolax.backbones import ImagePreprocess, ViT, ViTConfig
        >>> from poolax.data import digits
        >>> from poolax.training import Classification
        >>> config = ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
        >>> vit = ViT.init(config, jax.random.key(0), ImagePreprocess(scale=1 / 16))
        >>> records = sweep(
        ...     vit, digits(), Classification(10), poolers=["last", "avg"], seeds=2, epochs=1
        ... )
        >>> [(row["pooler"], row["resolved"]["name"], row["seed"]) for row in records]
        [('last', 'first', 0), ('last', 'first', 1), ('avg', 'avg', 0), ('avg', 'avg', 1)]
    """
    named = {
        label: _summary_pooler(pooler, backbone.summary_token)
        for label, pooler in labelled(poolers).items()
    }
    limits = limits or Limits()
    if max_tokens is not None:
        backbone = with_max_tokens(backbone, dataset.inputs, max_tokens)
    backbone_fingerprint = fingerprint_of(backbone)
    preprocess = backbone.preprocessing.describe_for(dataset.inputs.shape)
    identity = {
        "dataset": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "backbone": type(backbone).__name__,
        "backbone_config": describe_config(backbone.config),
        "backbone_fingerprint": backbone_fingerprint,
        "preprocess": preprocess,
        "include_prefix": include_prefix,
    }
    if backbone.pooler is not None:
        identity["backbone_pooler"] = describe(backbone.pooler)
    positions = backbone.describe_positions(dataset.inputs.shape)
    if positions is not None:
        identity["positions"] = positions
    task.check_targets(dataset.targets)
    # States are what costs: of a small subset of many examples, its own alone.
    check_splits(dataset.splits, len(dataset.inputs))
    check_targets_of_splits(task, dataset.targets, dataset.splits)
    used = np.unique(np.concatenate([np.asarray(part) for part in dataset.splits.values()]))
    splits = {name: np.searchsorted(used, part) for name, part in dataset.splits.items()}
    passed = FeaturePass(
        backbone,
        dataset.inputs,
        dataset.mask,
        indices=used,
        should_stop=limits.should_stop,
        mapping=limits.mapping,
    )
    directory = feature_dir or (None if out is None else epath.Path(out) / "features")
    mode = choose_mode(features, passed.shape, budget=limits.budget, directory=directory)
    identity |= {
        "features": "stream" if mode == "stream" else "kept",
        "feature_dtype": feature_dtype if mode == "disk" else "float32",
    }
    prepare = backbone.preprocess
    prompt = prepare.tokens_not_pooled() if isinstance(prepare, TextPreprocess) else 0
    views = {
        label: View(prefix_of(pooler, passed.num_prefix, include_prefix=include_prefix, prompt=prompt))
        for label, pooler in named.items()
    }
    trained_by = solver_of(solver)
    if trained_by is not None:
        learning_rates = trained_by.learning_rates
        epochs = trained_by.num_epochs(len(dataset.splits["train"]), batch_size)
    shapes = {label: view.shape(passed.shape) for label, view in views.items()}
    methods = methods_of(named, task, dataset.targets, dataset.splits, shapes, trained_by)
    heads = Heads.of(
        task,
        named,
        seeds=seeds,
        learning_rates=learning_rates,
        epochs=epochs,
        batch_size=batch_size,
        source=identity,
        former=former_preprocess(backbone.preprocess, preprocess),
        solver=trained_by,
        methods=methods,
    )
    plan = SweepPlan(heads, Folder(out), limits, resume=resume)
    if name is not None:
        plan.rename(name)
    if not plan.pending():
        return plan.records()
    _check_shape(passed.shape, task)
    started = time.perf_counter()
    pooled, source = None, StreamedSource(passed)
    fixed = plan.to_pool(passed.shape, views, streams=mode == "stream")
    key = {"backbone": backbone_fingerprint, "data": identity["data_fingerprint"]}
    if fixed:
        if mode == "disk":
            pooled = pool_features(fixed, views, passed, progress, directory, key, dtype=feature_dtype)
        else:
            pooled = pool_features(fixed, views, passed, progress)
    elif mode == "disk":
        source = open_store(directory, passed, key, dtype=feature_dtype, progress=progress)
    elif mode == "memory":
        source = memory_source(passed, progress)
    # Vectors have no length that a step would wait for.
    notes = [] if pooled is not None else _notes(source, splits["train"], batch_size)
    # Words about the data, of which its fingerprint and the identity of a head know nothing.
    about = {
        "model": name or backbone.name,
        "data_source": dataset.source,
        "data_notes": [*dataset.notes, *notes],
        "duplicates": dataset.count_duplicates(),
        "features_wall_s": round(time.perf_counter() - started, 3),
    }
    targets = jax.tree.map(lambda array: array[used], dataset.targets)

    def read_inputs(examples):
        return dataset.inputs[used[examples]]

    plan.run(
        source,
        targets,
        splits,
        views,
        progress,
        about=about,
        pooled=pooled,
        read_inputs=read_inputs,
    )
    return plan.records()


@holds_out(_check_sweep_states)
def sweep_states(
    states: Float[np.ndarray, "N *parts n d"],
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
    solver: str | Converged = "adam",
    out: epath.PathLike | None = None,
    resume: bool = True,
    name: str | None = None,
    limits: Limits | None = None,
    progress: Progress = no_progress,
) -> Records:
    """Compare poolers on token states of any model.

    Args:
        states: Token states, shape ``(N, n, d)``, NumPy or JAX; ``(N, parts, n, d)`` for a task whose
            examples have several sequences.
        mask: True at real tokens, shape ``(N, n)`` or ``(N, parts, n)``; ``None`` if all are real.
        targets: Targets, shape ``(N, ...)``, or a mapping from names to such arrays.
        task: What the heads predict.
        splits: Indices of ``"train"``, ``"validation"`` and ``"test"``.
        poolers: Names or poolers, or a mapping from labels to them; ``"last"`` is the last token.
        seeds: Number of seeds, or the seeds.
        epochs: Passes over the training split.
        batch_size: Examples a step.
        learning_rates: Learning rates to try; choose by ``validation``.
        solver: ``"adam"``, which is the paper's protocol, or ``"converged"``: heads that are trained
            until nothing is to be gained, with the options of a :class:`Converged`.
        out: Folder for ``records.jsonl`` and ``heads/``, local or ``gs://``; ``None`` writes nothing.
        resume: Whether to take over what is finished in ``out``.
        name: What records and tables call the model that the states are of.
        limits: Memory, devices, checkpoints.
        progress: Called with a description, the number done and the total.

    Returns:
        One record for each pooler, learning rate and seed, in this order.

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
    states = np.asarray(states)
    targets = jax.tree.map(np.asarray, dict(targets) if isinstance(targets, Mapping) else targets)
    check_tokens("states", states)
    task.check_targets(targets)
    num_targets = {len(array) for array in jax.tree.leaves(targets)}
    if num_targets != {len(states)}:
        raise ValueError(
            f"states: expected one row for each of {max(num_targets)} targets, got {states.shape}"
        )
    if mask is not None:
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape != states.shape[:-1]:
            raise ValueError(
                f"mask: expected bool{list(states.shape[:-1])}, got {mask.dtype}{list(mask.shape)}"
            )
        states = np.where(mask[..., None], states, np.zeros((), states.dtype))
    _check_shape(states.shape, task)
    check_finite_states(states, mask)
    named = {label: as_module(pooler) for label, pooler in labelled(poolers).items()}
    check_splits(splits, len(states))
    check_targets_of_splits(task, targets, splits)
    identity = {"states_fingerprint": fingerprint((states, mask, targets, dict(splits)))}
    trained_by = solver_of(solver)
    if trained_by is not None:
        learning_rates = trained_by.learning_rates
        epochs = trained_by.num_epochs(len(splits["train"]), batch_size)
    shapes = dict.fromkeys(named, states.shape)
    methods = methods_of(named, task, targets, splits, shapes, trained_by)
    heads = Heads.of(
        task,
        named,
        seeds=seeds,
        learning_rates=learning_rates,
        epochs=epochs,
        batch_size=batch_size,
        source=identity,
        solver=trained_by,
        methods=methods,
    )
    plan = SweepPlan(heads, Folder(out), limits or Limits(), resume=resume)
    if name is not None:
        plan.rename(name)
    if plan.pending():
        duplicates = count_copied_rows({part: splits[part] for part in SPLITS}, states, mask)
        about = {"model": name, "duplicates": duplicates}
        source = MemorySource(states, mask)
        plan.run(source, targets, splits, dict.fromkeys(named, WHOLE), progress, about=about)
    return plan.records()


def _notes(source, train, batch_size):
    """What to know about the lengths of texts, which is logged as well."""
    lengths = Lengths.of(source.mask)
    note = lengths and note_on_lengths(lengths.longest[train], lengths.num_tokens, batch_size)
    if note:
        _log.warning("%s", note)
    return [note] if note else []


def _check_shape(shape, task):
    parts = () if task.num_parts == 1 else (task.num_parts,)
    if len(shape) != 3 + len(parts) or shape[1:-2] != parts:
        axes = f"(N, {task.num_parts}, n, d)" if parts else "(N, n, d)"
        raise ValueError(
            f"states: expected shape {axes} for {task.name}, got {shape}"
            + ("" if parts else "; channels are samples of their own, each with its target")
        )


def labelled(poolers: Sequence[PoolerLike] | Mapping[str, PoolerLike]) -> dict[str, PoolerLike]:
    """Poolers by their labels: names, or names of their classes."""
    if isinstance(poolers, Mapping):
        named = dict(poolers)
    else:
        labels = [p if isinstance(p, str) else type(p).__name__ for p in poolers]
        if len(set(labels)) != len(labels):
            raise ValueError(
                f"poolers: expected distinct labels, got {', '.join(labels)}; use a mapping"
            )
        named = dict(zip(labels, poolers, strict=True))
    if not named:
        raise ValueError("poolers: expected at least one, got none")
    return named


def as_module(pooler: PoolerLike) -> Any:
    """A pooler by its name, or as it is."""
    try:
        return pooler if isinstance(pooler, TokenHead) else from_name(pooler)
    except ValueError as error:
        raise ValueError(f"poolers: {error}") from None


def _summary_pooler(pooler, summary_token):
    return FirstPool() if pooler == "last" and summary_token == "first" else as_module(pooler)
