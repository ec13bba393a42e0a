"""What a sweep refuses before it reads or trains anything."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from poolax._checks import (
    check_choice,
    check_count,
    check_flag,
    check_instance,
    check_number,
    check_path,
)
from poolax._splits import SPLITS, check_disjoint
from poolax.training._engine.limits import Limits
from poolax.training.solver import solver_of
from poolax.training.tasks import Task

NEIGHBOURS = ("fixed", "all", "none")
# Seeds and learning rates are traced as int32 and float32.
_LARGEST_SEED = int(np.iinfo(np.int32).max)
_LARGEST_RATE = float(np.finfo(np.float32).max)


def check_seed(name: str, seed: Any) -> None:
    """Refuse anything but a whole number that keys are made of."""
    check_count(name, seed, at_least=0)
    if seed > _LARGEST_SEED:
        raise ValueError(f"{name}: expected at most {_LARGEST_SEED}, got {seed}")


def seeds_of(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """The seeds that a number of seeds, or a sequence of them, stands for."""
    if isinstance(seeds, (int, np.integer)):
        check_count("seeds", seeds)
        return tuple(range(int(seeds)))
    listed = _listed("seeds", seeds, "a number of seeds, or whole numbers")
    for seed in listed:
        check_seed("seeds", seed)
    return tuple(int(seed) for seed in listed)


def rates_of(learning_rates: Sequence[float]) -> tuple[float, ...]:
    """The learning rates as numbers."""
    listed = _listed("learning_rates", learning_rates, "numbers")
    for rate in listed:
        check_number("learning_rates", rate, above=0.0)
        if rate > _LARGEST_RATE:
            raise ValueError(f"learning_rates: expected at most {_LARGEST_RATE:g}, got {rate:g}")
    return tuple(float(rate) for rate in listed)


def check_task(task: Any) -> None:
    """Refuse anything but a task, its class included."""
    if isinstance(task, type):
        raise ValueError(f"task: expected a task, got the class {task.__name__}; call it")
    check_instance("task", task, Task, "a task, such as Classification(10)")


def check_run(
    *,
    task: Any,
    poolers: Any,
    seeds: Any,
    epochs: Any,
    batch_size: Any,
    learning_rates: Any,
    solver: Any,
    out: Any,
    resume: Any,
    name: Any,
    neighbours: Any,
    limits: Any,
    progress: Any,
    further_rates: Any = 0,
) -> None:
    """Refuse what makes no sweep, whatever its data are, before they are looked at."""
    check_task(task)
    if isinstance(poolers, (str, bytes)) or not isinstance(poolers, (Iterable, Mapping)):
        raise ValueError(
            f"poolers: expected names or poolers, or a mapping from labels to them, got {poolers!r}"
        )
    if isinstance(poolers, Mapping):
        for label in poolers:
            if not isinstance(label, str) or not label:
                raise ValueError(f"poolers: expected labels that are texts, got {label!r}")
    seeds_of(seeds)
    rates_of(learning_rates)
    check_count("further_rates", further_rates, at_least=0)
    if solver_of(solver) is not None and further_rates:
        raise ValueError(
            f"further_rates: expected 0 beside a solver, which has its own, got {further_rates}"
        )
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    if out is not None:
        check_path("out", out)
    check_flag("resume", resume)
    check_choice("neighbours", neighbours, NEIGHBOURS)
    if name is not None:
        check_instance("name", name, str, "a text")
        if not name:
            raise ValueError("name: expected a text, got ''")
    if limits is not None:
        check_instance("limits", limits, Limits, "Limits")
    check_instance("progress", progress, Callable, "a function of description, number and total")


def check_splits(splits: Any, num_examples: int) -> None:
    """Refuse anything but indices of the three splits, which have no example in common."""
    check_instance("splits", splits, Mapping, "a mapping from train, validation and test to indices")
    for name in SPLITS:
        if name not in splits:
            raise ValueError(f"splits: expected train, validation and test, got {', '.join(splits)}")
        indices = np.asarray(splits[name])
        whole = indices.ndim == 1 and np.issubdtype(indices.dtype, np.integer) and indices.size > 0
        if indices.ndim == 1 and indices.size and not whole:
            raise ValueError(f"splits: expected whole numbers for {name!r}, got {indices.dtype}")
        if not whole or indices.min() < 0 or indices.max() >= num_examples:
            raise ValueError(
                f"splits: expected indices from 0 to {num_examples - 1} for {name!r}, got {indices!r}"
            )
    check_disjoint(splits)


def checked_mask(mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The mask of token states of a shape ``(N, *parts, n, d)``; anything else is refused."""
    mask = np.asarray(mask)
    if mask.dtype != np.bool_ or mask.shape != shape[:-1]:
        raise ValueError(f"mask: expected bool{list(shape[:-1])}, got {mask.dtype}{list(mask.shape)}")
    return mask


def check_targets_of_splits(task: Any, targets: Any, splits: Any) -> None:
    """Refuse a split whose targets do not fit the task by themselves, such as one with void alone."""
    for name in SPLITS:
        indices = np.asarray(splits[name])
        try:
            task.check_targets(jax.tree.map(lambda array, own=indices: np.asarray(array)[own], targets))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def check_runs(runs: Any) -> None:
    """Refuse anything but pairs of a learning rate and a seed."""
    is_text = isinstance(runs, (str, bytes))
    listed: list[Any] = list(runs) if isinstance(runs, Sequence) and not is_text else []
    if not listed or any(np.shape(run) != (2,) for run in listed):
        raise ValueError(f"runs: expected pairs of a learning rate and a seed, got {runs!r}")
    for rate, seed in listed:
        # An infinite one diverges at once, and the result says so.
        if not isinstance(rate, (int, float, np.number)) or not float(rate) >= 0:
            raise ValueError(f"runs: expected learning rates >= 0, got {rate!r}")
        check_seed("runs", seed)


def _listed(name, values, expected) -> list[Any]:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise ValueError(f"{name}: expected {expected}, got {values!r}")
    # An array of no axes says that it can be gone through.
    listed = [] if getattr(values, "ndim", 1) == 0 else list(values)
    if getattr(values, "ndim", 1) == 0 or any(np.ndim(value) != 0 for value in listed):
        raise ValueError(f"{name}: expected {expected}, got {values!r}")
    if not listed:
        raise ValueError(f"{name}: expected at least one, got none")
    if len(set(listed)) != len(listed):
        raise ValueError(f"{name}: expected each once, got {values!r}")
    return listed
