"""What a sweep may use, and when it has to stop."""

import dataclasses
from collections.abc import Callable

import jax

from poolax._checks import check_choice, check_count, check_instance, check_number
from poolax._signals import stop_asked
from poolax.training._devices import MAPPINGS
from poolax.training._engine.memory import default_budget


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a sweep may use, and what it does when it has to stop.

    Attributes:
        memory_budget: Bytes for token states, and for the heads that are trained at once; ``None`` for
            half of what is free.
        shard: What is split over devices: ``"batch"``, ``"heads"``, or ``"auto"``, heads where there
            are as many runs as devices.
        mapping: How programs are mapped over devices: ``"auto"`` by ``pmap``, or by ``shard_map`` where
            JAX has none; ``"shard_map"``. Results are the same, and a run goes on by either.
        checkpoint_every: Seconds between checkpoints of heads in training.
        should_stop: Asked after every batch of the backbone, and every epoch or part of one, of at
            most 128 steps where states are in memory; by default whether a block of
            :func:`stop_on_sigterm` around has been asked to stop.
    """

    memory_budget: int | None = None
    shard: str = "auto"
    mapping: str = "auto"
    checkpoint_every: float = 60.0
    should_stop: Callable[[], bool] = stop_asked

    def __post_init__(self):
        """Refuse numbers out of range."""
        check_choice("shard", self.shard, ("auto", "batch", "heads"))
        check_choice("mapping", self.mapping, MAPPINGS)
        check_number("checkpoint_every", self.checkpoint_every, at_least=0.0)
        check_instance("should_stop", self.should_stop, Callable, "a function without arguments")
        if self.memory_budget is not None:
            check_count("memory_budget", self.memory_budget)

    @property
    def budget(self) -> int:
        """Bytes."""
        return default_budget() if self.memory_budget is None else self.memory_budget

    def shard_of(self, num_runs: int) -> str:
        """What is split over devices for so many runs."""
        if self.shard != "auto":
            return self.shard
        return "heads" if 1 < jax.device_count() <= num_runs else "batch"
