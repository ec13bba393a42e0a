"""Sweeps: one backbone pass, then all poolers, seeds and learning rates on its token states."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from poolax._checks import (
    check_choice,
    check_flag,
    check_instance,
    check_path,
)
from poolax._dataset import Dataset
from poolax._progress import Progress, no_progress
from poolax.backbones import Backbone, TextPreprocess
from poolax.records import Records
from poolax.training._engine.limits import Limits
from poolax.training._states.features import FeaturePass
from poolax.training._states.lengths import Lengths, note_on_lengths, with_max_tokens
from poolax.training._states.pooled import pool_features
from poolax.training._states.prefixes import prefix_of
from poolax.training._states.prompts import with_prompt
from poolax.training._states.sources import (
    MODES,
    StreamedSource,
    choose_mode,
    memory_source,
)
from poolax.training._states.store import open_store
from poolax.training._sweep.identities import Heads, identity_of
from poolax.training._sweep.methods import methods_of
from poolax.training._sweep.plan import SweepPlan
from poolax.training._sweep.readers import (
    PoolerLike,
    Reader,
    as_module,
    check_shape,
    labelled,
    readers_of,
)
from poolax.training._sweep.write import Folder
from poolax.training.arguments import check_run, check_splits, check_targets_of_splits
from poolax.training.former import former_preprocess
from poolax.training.holding import holds_out
from poolax.training.layers import OUTPUT, Layers, needed_layers, readings_of
from poolax.training.solver import Converged, solver_of
from poolax.training.tasks import Task

_log = logging.getLogger(__name__)


def _check_sweep(
    *,
    backbone,
    dataset,
    features,
    feature_dir,
    feature_dtype,
    include_prefix,
    max_tokens,
    prompt,
    layers,
    **run,
) -> None:
    del max_tokens, prompt  # checked with the data
    check_instance("backbone", backbone, Backbone, "a Backbone")
    check_instance("dataset", dataset, Dataset, "a Dataset")
    check_run(**run)
    check_choice("features", features, ("auto", *MODES))
    check_choice("feature_dtype", feature_dtype, ("float32", "bfloat16"))
    check_flag("include_prefix", include_prefix)
    layers_of(backbone, layers)
    if feature_dir is not None:
        check_path("feature_dir", feature_dir)


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
    further_rates: int = 0,
    solver: str | Converged = "adam",
    features: str = "auto",
    feature_dir: epath.PathLike | None = None,
    feature_dtype: str = "float32",
    layers: Any = OUTPUT,
    include_prefix: bool = True,
    neighbours: str = "fixed",
    prompt: str | None = None,
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
        further_rates: Learning rates that Adam tries beyond either edge of several, at most, where the
            best mean validation score over seeds stands there; records of the best then say what was
            tried. A :class:`Converged` has its own.
        solver: ``"adam"``, which is the paper's protocol, or ``"converged"``: heads that are trained
            until nothing is to be gained, with the options of a :class:`Converged`.
        neighbours: Of which heads of classes ``knn`` of the records holds the score of the 20 nearest
            neighbours (:func:`neighbour_votes`): of ``"fixed"`` poolers, whose vectors are there in any
            case, of ``"all"`` whose states are kept, or of ``"none"``.
        features: Where token states are: in ``"memory"``, on ``"disk"``, or nowhere: ``"stream"`` runs
            the backbone in every epoch, once for all heads, which then share one order of batches.
            ``"auto"`` takes the first for which there is room. Fixed poolers need no token states:
            where there are no others, their vectors are kept instead.
        feature_dir: Local folder of token states on disk, for this sweep and others; ``None`` takes
            ``out / "features"``.
        feature_dtype: ``"float32"`` or ``"bfloat16"``, in which states are kept on disk.
        layers: What heads read: a layer, several side by side as a tuple of numbers, a
            :class:`Layers` or its text, or a sequence of these, which are compared. ``-1`` or
            ``"output"`` is the output, ``0`` the embeddings, ``k`` what comes out of block ``k``;
            ``"3+6"`` stands for ``(3, 6)`` side by side, ``"mix:3+6"`` for a learned mixture of both,
            ``"all"`` for each layer, ``"mix:all"`` for a mixture of them. The backbone runs once for
            all of them. Records of other layers than the output name them in ``layers``.
        include_prefix: Whether prefix tokens (CLS) enter the poolers other than first.
        prompt: What stands in front of every text, ``""`` for nothing; ``None`` for the checkpoint's
            default. Its tokens are not pooled where the checkpoint says so
            (``TextPreprocess.include_prompt``).
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
        One record for each reading of layers, pooler, learning rate and seed, in this order.

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
    readings = layers_of(backbone, layers)
    needed = needed_layers(readings)
    limits = limits or Limits()
    if prompt is not None:
        backbone = with_prompt(backbone, dataset.inputs, prompt)
    if max_tokens is not None:
        backbone = with_max_tokens(backbone, dataset.inputs, max_tokens)
    identity = identity_of(backbone, dataset, include_prefix=include_prefix)
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
        layer=Layers(needed).layer,
        should_stop=limits.should_stop,
        mapping=limits.mapping,
    )
    directory = feature_dir or (None if out is None else epath.Path(out) / "features")
    mode = choose_mode(features, passed.shape, budget=limits.budget, directory=directory)
    identity |= {
        "features": "stream" if mode == "stream" else "kept",
        "feature_dtype": feature_dtype if mode == "disk" else "float32",
    }
    readers = readers_of_pass(passed, backbone, poolers, readings, include_prefix=include_prefix)
    views = {key: reader.view for key, reader in readers.items()}
    trained_by = solver_of(solver)
    if trained_by is not None:
        learning_rates = trained_by.learning_rates
        epochs = trained_by.num_epochs(len(dataset.splits["train"]), batch_size)
    modules = {key: reader.pooler for key, reader in readers.items()}
    shapes = {key: view.shape(passed.shape) for key, view in views.items()}
    methods = methods_of(modules, task, dataset.targets, dataset.splits, shapes, trained_by)
    heads = Heads.of(
        task,
        readers,
        seeds=seeds,
        learning_rates=learning_rates,
        epochs=epochs,
        batch_size=batch_size,
        source=identity,
        former=former_preprocess(backbone.preprocess, identity["preprocess"]),
        solver=trained_by,
        methods=methods,
        further=further_rates,
    )
    plan = SweepPlan(heads, Folder(out), limits, resume=resume, neighbours=neighbours)
    if name is not None:
        plan.rename(name)
    if not plan.pending():
        return plan.records()
    check_shape(passed.shape, task)
    started = time.perf_counter()
    pooled, source = None, StreamedSource(passed)
    fixed = plan.to_pool(passed.shape, views, streams=mode == "stream")
    key = {"backbone": identity["backbone_fingerprint"], "data": identity["data_fingerprint"]}
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


def _notes(source, train, batch_size):
    """What to know about the lengths of texts, which is logged as well."""
    lengths = Lengths.of(source.mask)
    note = lengths and note_on_lengths(lengths.longest[train], lengths.num_tokens, batch_size)
    if note:
        _log.warning("%s", note)
    return [note] if note else []


def layers_of(backbone: Backbone, layers: Any) -> tuple[Layers, ...]:
    """What is read of the layers that a backbone has."""
    readings = readings_of(layers, (*range(backbone.num_layers), OUTPUT))
    backbone.check_layer(needed_layers(readings))
    return readings


def readers_of_pass(
    passed: FeaturePass,
    backbone: Backbone,
    poolers: Sequence[PoolerLike] | Mapping[str, PoolerLike],
    readings: Sequence[Layers],
    *,
    include_prefix: bool,
) -> dict[str, Reader]:
    """Each pooler on each reading of what a pass gives; prompts are left out as the backbone says.

    Args:
        passed: The pass, over all layers that are read.
        backbone: Its backbone.
        poolers: As for :func:`sweep`.
        readings: What is read.
        include_prefix: As for :func:`sweep`.
    """
    token, prepare = backbone.summary_token, backbone.preprocess
    named = {label: as_module(pooler, token) for label, pooler in labelled(poolers).items()}
    not_pooled = prepare.tokens_not_pooled() if isinstance(prepare, TextPreprocess) else 0

    def prefix(pooler):
        return prefix_of(pooler, passed.num_prefix, include_prefix=include_prefix, prompt=not_pooled)

    needed = needed_layers(readings)
    return readers_of(named, readings, needed, passed.shape[-1] // len(needed), prefix)
