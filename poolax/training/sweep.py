"""Sweeps: one backbone pass, then all poolers, seeds and learning rates on its token states."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from etils import epath
from jaxtyping import Bool, Float

from poolax._checkpoint import save_checkpoint
from poolax._checks import (
    check_choice,
    check_count,
    check_instance,
    check_number,
    check_tokens,
)
from poolax._paths import absolute_path
from poolax.backbones import Backbone, SeriesPreprocess
from poolax.pooling import AveragePool, FirstPool, Pooler, from_name, to_config
from poolax.training.features import extract_states
from poolax.training.heads import head_module, train_heads
from poolax.training.records import Records, digest, environment, fingerprint
from poolax.training.step import Mapper, Progress, no_progress
from poolax.training.tasks import Task
from poolax.training.token_head import TokenHead

PoolerLike = str | Pooler | TokenHead
_RECORDS = "records.jsonl"


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
    features: str = "auto",
    include_prefix: bool = True,
    out: epath.PathLike | None = None,
    resume: bool = True,
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
        features: Where token states are kept: ``"memory"``, which ``"auto"`` takes.
        include_prefix: Whether prefix tokens (CLS) enter the poolers other than first.
        out: Folder for ``records.jsonl`` and ``heads/``, local or ``gs://``; ``None`` writes nothing.
        resume: Whether to take over what is finished in ``out``.
        progress: Called with a description, the number done and the total.

    Returns:
        One record for each pooler, learning rate and seed, in this order.

    Raises:
        ValueError: for an unknown pooler or option, numbers out of range, or targets that do not fit
            the task.

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
    check_instance("backbone", backbone, Backbone, "a Backbone")
    check_choice("features", features, ("auto", "memory"))
    named = {
        label: _summary_pooler(pooler, backbone.summary_token)
        for label, pooler in _label(poolers).items()
    }
    source = {
        "dataset": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "backbone": type(backbone).__name__,
        "backbone_config": _plain(backbone.config),
        "backbone_fingerprint": fingerprint(
            backbone.params, backbone.config, backbone.preprocess, str(backbone.compute_dtype)
        ),
        "preprocess": _describe_preprocess(backbone.preprocess, dataset.inputs),
        "include_prefix": include_prefix,
    }
    plan = _Plan(task, named, seeds, epochs, batch_size, learning_rates, source, out, resume)
    task.check_targets(dataset.targets)
    _check_splits(dataset.splits, len(dataset.inputs))
    if not plan.pending():
        return plan.records()
    # Words about the data, of which its fingerprint and the identity of a head know nothing.
    plan.extra |= {"data_source": dataset.source, "data_notes": list(dataset.notes)}
    started = time.perf_counter()
    # States are what costs: of a small subset of many examples, its own alone.
    used = np.unique(np.concatenate([np.asarray(part) for part in dataset.splits.values()]))
    splits = {name: np.searchsorted(used, part) for name, part in dataset.splits.items()}
    tokens = extract_states(backbone, dataset.inputs, dataset.mask, indices=used, progress=progress)
    plan.extra["features_wall_s"] = round(time.perf_counter() - started, 3)
    _check_states(tokens.states, tokens.mask, task)
    # A token head stands for patches alone, whatever enters the poolers.
    prefixes = {
        label: tokens.num_prefix if isinstance(pooler, TokenHead) or not include_prefix else 0
        for label, pooler in named.items()
    }
    plan.run(tokens.states, tokens.mask, _rows(dataset.targets, used), splits, prefixes, progress)
    return plan.records()


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
    out: epath.PathLike | None = None,
    resume: bool = True,
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
        out: Folder for ``records.jsonl`` and ``heads/``, local or ``gs://``; ``None`` writes nothing.
        resume: Whether to take over what is finished in ``out``.
        progress: Called with a description, the number done and the total.

    Returns:
        One record for each pooler, learning rate and seed, in this order.

    Raises:
        ValueError: for an unknown pooler, numbers out of range, shapes that do not fit, or targets
            that do not fit the task.

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
    _check_states(states, mask, task)
    named = {label: _as_module(pooler) for label, pooler in _label(poolers).items()}
    _check_splits(splits, len(states))
    source = {"states_fingerprint": fingerprint((states, mask, targets, dict(splits)))}
    plan = _Plan(task, named, seeds, epochs, batch_size, learning_rates, source, out, resume)
    if plan.pending():
        plan.run(states, mask, targets, splits, dict.fromkeys(named, 0), progress)
    return plan.records()


class _Plan:
    """Which heads there are, which of them are finished, and how the others are trained."""

    def __init__(self, task, poolers, seeds, epochs, batch_size, learning_rates, source, out, resume):
        check_count("epochs", epochs)
        check_count("batch_size", batch_size)
        if isinstance(seeds, (int, np.integer)):
            check_count("seeds", seeds)
            seeds = range(seeds)
        for learning_rate in learning_rates:
            check_number("learning_rates", learning_rate, above=0.0)
        self.task, self.poolers, self.epochs, self.batch_size = task, poolers, epochs, batch_size
        self.runs = [(float(rate), int(seed)) for rate in learning_rates for seed in seeds]
        if not self.runs:
            raise ValueError("seeds, learning_rates: expected at least one of each, got none")
        self.source = source
        self.extra = {}
        self.out = None if out is None else absolute_path(out)
        self.finished = {}
        identity = {
            "task": task.name,
            "task_options": _task_options(task),
            "num_outputs": task.num_outputs,
            "epochs": epochs,
            "batch_size": batch_size,
            "source": dict(source),
        }
        self.ids = {
            (label, run): digest({**identity, "label": label, "pooler": _describe(pooler), "run": run})
            for label, pooler in poolers.items()
            for run in self.runs
        }
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            if resume:
                known = {row["id"]: row for row in Records.read(self.out / _RECORDS) if "id" in row}
                self.finished = {key: known[i] for key, i in self.ids.items() if i in known}

    def pending(self):
        return [key for key in self.ids if key not in self.finished]

    def records(self):
        return Records(self.finished[key] for key in self.ids)

    def run(self, states, mask, targets, splits, prefixes, progress):
        missing = {
            label: tuple(run for run in self.runs if (label, run) not in self.finished)
            for label in self.poolers
        }
        tokens = {
            label: _tokens(pooler, states, mask, prefixes[label])
            for label, pooler in self.poolers.items()
        }
        fixed = [label for label, p in self.poolers.items() if _is_fixed(p, tokens[label][0])]
        # What a fixed pooler needs is d numbers an example, and such heads share one structure.
        for runs in dict.fromkeys(missing[label] for label in fixed if missing[label]):
            labels = [label for label in fixed if missing[label] == runs]
            pooled = np.stack([_pool(self.poolers[label], *tokens[label]) for label in labels])
            pooled = pooled[..., None, :]
            self._train(labels, runs, AveragePool(), pooled, None, targets, splits, progress)
        for label, pooler in self.poolers.items():
            if label not in fixed and missing[label]:
                own, own_mask = tokens[label]
                self._train(
                    [label], missing[label], pooler, own[None], own_mask, targets, splits, progress
                )

    def _train(self, labels, runs, pooler, states, mask, targets, splits, progress):
        started = time.perf_counter()
        heads = train_heads(
            head_module(pooler, self.task.num_outputs),
            states,
            mask,
            targets,
            self.task,
            splits=splits,
            runs=runs,
            epochs=self.epochs,
            batch_size=self.batch_size,
            progress=progress,
            description=", ".join(labels),
        )
        wall_s = round(time.perf_counter() - started, 3)
        train, test = (_rows(targets, splits[name]) for name in ("train", "test"))
        baseline = self.task.baseline(train, test)
        metric = self.task.metric
        rows = {}
        for group, label in enumerate(labels):
            for index, run in enumerate(runs):
                place = (group, index)
                rows[label, run] = {
                    "kind": "head",
                    "id": self.ids[label, run],
                    "task": self.task.name,
                    "task_options": _task_options(self.task),
                    "metric": self.task.metric,
                    "higher_is_better": self.task.higher_is_better,
                    "pooler": label,
                    "resolved": _describe(self.poolers[label]),
                    "learning_rate": run[0],
                    "seed": run[1],
                    "epochs": self.epochs,
                    "batch_size": self.batch_size,
                    "validation": float(heads.validation_metrics[metric][place]),
                    "test": float(heads.test_metrics[metric][place]),
                    "test_metrics": {
                        name: float(value[place]) for name, value in heads.test_metrics.items()
                    },
                    "baseline": baseline,
                    "train_loss": heads.train_loss[place].tolist(),
                    "validation_loss": heads.validation_loss[place].tolist(),
                    "diverged": bool(heads.diverged[place]),
                    "heads_trained_together": len(labels) * len(runs),
                    "wall_s": wall_s,
                    **self.source,
                    **self.extra,
                    **environment(),
                }
                variables = jax.tree.map(lambda leaf, at=place: leaf[at], heads.variables)
                self._save(label, run, rows[label, run], variables)
        self.finished |= rows
        if self.out is not None:
            Records(rows.values()).write_to(self.out / _RECORDS)

    def _save(self, label, run, row, variables):
        if self.out is None:
            return
        directory = head_directory(self.out, row)
        # A head that is there without a record was left behind by an interrupted run.
        if directory.exists():
            directory.rmtree()
        config = {
            "pooler": _config_or_none(self.poolers[label]),
            "num_outputs": self.task.num_outputs,
            "task": self.task.name,
            "learning_rate": run[0],
            "seed": run[1],
            "epochs": self.epochs,
            **self.source,
        }
        save_checkpoint(directory, self.epochs, variables, metadata=config)


def head_directory(out: epath.PathLike, record: Mapping[str, Any]) -> epath.Path:
    """Where a sweep keeps the checkpoint of a head.

    Args:
        out: The sweep's folder.
        record: The head's record.

    Returns:
        The directory that :func:`load_head` takes.
    """
    # The record's id keeps heads of other configurations apart.
    name = f"lr-{record['learning_rate']:g}-seed-{record['seed']}-{record['id'][:8]}"
    return epath.Path(out) / "heads" / record["task"] / record["pooler"] / name


def _check_splits(splits, num_examples):
    for name in ("train", "validation", "test"):
        if name not in splits:
            raise ValueError(f"splits: expected train, validation and test, got {', '.join(splits)}")
        indices = np.asarray(splits[name])
        whole = indices.ndim == 1 and np.issubdtype(indices.dtype, np.integer) and indices.size > 0
        if not whole or indices.min() < 0 or indices.max() >= num_examples:
            raise ValueError(
                f"splits: expected indices from 0 to {num_examples - 1} for {name!r}, got {indices!r}"
            )


def _rows(targets, indices):
    return jax.tree.map(lambda array: array[indices], targets)


def _check_states(states, mask, task):
    parts = () if task.num_parts == 1 else (task.num_parts,)
    if np.ndim(states) != 3 + len(parts) or np.shape(states)[1:-2] != parts:
        axes = f"(N, {task.num_parts}, n, d)" if parts else "(N, n, d)"
        raise ValueError(
            f"states: expected shape {axes} for {task.name}, got {np.shape(states)}"
            + ("" if parts else "; channels are samples of their own, each with its target")
        )
    finite = np.isfinite(states).all(axis=-1)
    if mask is not None:
        finite = finite | ~mask
    if not finite.all():
        raise ValueError(
            f"states: expected finite values at real tokens, got {np.sum(~finite)} tokens that are not"
        )


def _label(poolers):
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


def _as_module(pooler):
    return pooler if isinstance(pooler, TokenHead) else from_name(pooler)


def _summary_pooler(pooler, summary_token):
    return FirstPool() if pooler == "last" and summary_token == "first" else _as_module(pooler)


def _tokens(pooler, states, mask, num_prefix):
    if num_prefix == 0 or isinstance(pooler, FirstPool):
        return states, mask
    if mask is None:
        return states[..., num_prefix:, :], None
    # The first real tokens, which padding on the left puts anywhere.
    return states, mask & (np.cumsum(mask, axis=-1) > num_prefix)


def _is_fixed(pooler, states):
    example = jax.ShapeDtypeStruct((1, *states.shape[1:]), states.dtype)
    variables = jax.eval_shape(pooler.init, jax.random.key(0), example)
    return not jax.tree.leaves(variables)


def _pool(pooler, states, mask):
    arrays = {"states": states} if mask is None else {"states": states, "mask": mask}

    def pool(_, batch):
        return pooler.apply({}, batch["states"], batch.get("mask"))

    return Mapper(pool, 1024)((), arrays)


def _config_or_none(pooler):
    if isinstance(pooler, TokenHead):
        options = {"num_classes": pooler.num_classes, "output_grid": pooler.output_grid}
        return {"name": TokenHead.__name__, "options": options}
    try:
        return to_config(pooler)
    except ValueError:
        return None


def _describe(pooler: nn.Module):
    return _config_or_none(pooler) or {"name": type(pooler).__name__, "options": repr(pooler)}


def _describe_preprocess(preprocess, inputs):
    """What was done to the inputs; series say whether they were resampled."""
    if isinstance(preprocess, SeriesPreprocess):
        return preprocess.describe(inputs.shape[-1])
    return None if preprocess is None else repr(preprocess)


def _task_options(task):
    return _plain(task) if dataclasses.is_dataclass(task) else {}


def _plain(config):
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        nested = {name for name, value in fields.items() if dataclasses.is_dataclass(value)}
        return {name: repr(value) if name in nested else value for name, value in fields.items()}
    return repr(config)
