"""What is compared in a sweep: each pooler on each reading of the layers, under a label of its own."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn

from poolax.pooling import FirstPool, LayerMixPool, Pooler, from_name
from poolax.training._states.views import View
from poolax.training.layers import Layers, columns_of
from poolax.training.tasks import Task
from poolax.training.token_head import TokenHead

PoolerLike = str | Pooler | TokenHead


@dataclasses.dataclass(frozen=True)
class Reader:
    """A pooler, and what it reads of token states.

    Attributes:
        label: What records call the pooler.
        pooler: Of the states that it sees; around it a mixture, where layers are mixed.
        view: What it sees of all states.
        reading: The layers.
    """

    label: str
    pooler: nn.Module
    view: View
    reading: Layers

    @property
    def own(self) -> dict[str, str]:
        """What records say beside of what is read; of the output nothing, as before there was more."""
        return {} if self.reading == Layers() else {"layers": str(self.reading)}


def readers_of(
    poolers: Mapping[str, nn.Module],
    readings: Sequence[Layers],
    needed: Sequence[int],
    width: int,
    prefix_of: Callable[[nn.Module], int],
) -> dict[str, Reader]:
    """Each pooler on each reading, by a key that no two share.

    Args:
        poolers: By label.
        readings: What is read.
        needed: The layers whose states stand side by side.
        width: Width of each.
        prefix_of: Real tokens in front that a pooler does not see.

    Returns:
        Readings one after the other, each with all poolers; heads on the output are called by their
        pooler alone.

    Raises:
        ValueError: for a mixture in front of what pools nothing.
    """
    found = {}
    for reading in readings:
        for label, pooler in poolers.items():
            view = View(prefix_of(pooler), columns_of(reading, needed, width))
            if reading.mixed:
                if isinstance(pooler, TokenHead):
                    raise ValueError(f"layers: expected no mixture for {label!r}, got {reading}")
                pooler = LayerMixPool(pooler, len(reading.numbers))  # type: ignore[arg-type]
            key = label if reading == Layers() else f"{label} @ {reading}"
            if key in found:
                raise ValueError(f"poolers: expected labels without layers, got {key!r}")
            found[key] = Reader(label, pooler, view, reading)
    return found


def check_shape(shape: tuple[int, ...], task: Task) -> None:
    """Refuse token states of another shape than a task asks for."""
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


def as_module(pooler: PoolerLike, summary_token: str = "last") -> Any:
    """A pooler by its name, ``"last"`` for the summary token, or as it is."""
    if pooler == "last" and summary_token == "first":
        return FirstPool()
    try:
        return pooler if isinstance(pooler, TokenHead) else from_name(pooler)
    except ValueError as error:
        raise ValueError(f"poolers: {error}") from None
