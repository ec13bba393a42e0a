"""Which layers of a backbone a head reads, and what becomes of several of them."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np

OUTPUT = -1
_MIX = "mix:"
_WORDS = "a layer, such as 6, 'output', '3+6', (3, 6), 'mix:3+6' or 'all'"


@dataclasses.dataclass(frozen=True)
class Layers:
    """What a head reads of a backbone.

    Attributes:
        numbers: Layers as :meth:`Backbone.apply` counts them: ``-1`` is the output, ``0`` the
            embeddings, ``k`` what comes out of block ``k``.
        mixed: Whether several are one weighted mean, of weights that are learned with the head and
            saved with it, as in a :class:`LayerMixPool`; otherwise they stand side by side.

    Example:
        >>> str(Layers((3, -1))), str(Layers((3, -1), mixed=True)), str(Layers())
        ('3+output', 'mix:3+output', 'output')
    """

    numbers: tuple[int, ...] = (OUTPUT,)
    mixed: bool = False

    def __post_init__(self):
        """Refuse what is no layer, and a mixture of one."""
        whole = all(type(number) is int and number >= OUTPUT for number in self.numbers)
        if not self.numbers or not whole or len(set(self.numbers)) < len(self.numbers):
            raise ValueError(f"layers: expected numbers from -1, each once, got {self.numbers}")
        if self.mixed and len(self.numbers) == 1:
            raise ValueError(f"layers: expected several to mix, got {self.numbers}")

    @property
    def layer(self) -> int | tuple[int, ...]:
        """What ``Backbone.apply(layer=…)`` takes for the states that the head takes."""
        return self.numbers[0] if len(self.numbers) == 1 else self.numbers

    def __str__(self):
        """As command lines and records call it; :meth:`parse` reads it."""
        names = ("output" if number == OUTPUT else str(number) for number in self.numbers)
        return _MIX * self.mixed + "+".join(names)

    @classmethod
    def parse(cls, text: str) -> Self:
        """What a text calls so.

        Raises:
            ValueError: for any other text.

        Example:
            >>> Layers.parse("mix:0+6+output")
            Layers(numbers=(0, 6, -1), mixed=True)
        """
        mixed = text.startswith(_MIX)
        names = text.removeprefix(_MIX).split("+")
        if not all(re.fullmatch(r"\d+|-1|output", name) for name in names):
            raise ValueError(f"layers: expected {_WORDS}, got {text!r}")
        return cls(tuple(OUTPUT if name == "output" else int(name) for name in names), mixed)


def readings_of(layers: Any, every: tuple[int, ...]) -> tuple[Layers, ...]:
    """What heads read, each apart, of what a sweep is given.

    Args:
        layers: A layer, several side by side as a tuple of numbers, a text, :class:`Layers`, or a
            sequence of these. ``"all"`` stands for each layer, ``"mix:all"`` for a mixture of them.
        every: All layers.

    Returns:
        Each reading once.

    Raises:
        ValueError: for anything else.

    Example:
        >>> [str(reading) for reading in readings_of([1, (0, 1), "mix:all"], (0, 1, -1))]
        ['1', '0+1', 'mix:0+1+output']
        >>> [str(reading) for reading in readings_of("all", (0, -1))]
        ['0', 'output']
    """
    found: list[Layers] = []
    for one in _listed(layers):
        if isinstance(one, Layers):
            found.append(one)
        elif isinstance(one, str):
            if one == "all":
                found += [Layers((number,)) for number in every]
            else:
                found.append(Layers(every, mixed=True) if one == "mix:all" else Layers.parse(one))
        elif isinstance(one, (int, np.integer)) and not isinstance(one, bool):
            found.append(Layers((int(one),)))
        elif isinstance(one, Sequence):
            found.append(Layers(tuple(one)))
        else:
            raise ValueError(f"layers: expected {_WORDS}, got {one!r}")
    if not found:
        raise ValueError("layers: expected at least one, got none")
    if len(set(found)) < len(found):
        raise ValueError(f"layers: expected each once, got {', '.join(map(str, found))}")
    return tuple(found)


def needed_layers(readings: Iterable[Layers]) -> tuple[int, ...]:
    """All layers that are read, ascending, the output last."""
    numbers = {number for reading in readings for number in reading.numbers}
    return (*sorted(numbers - {OUTPUT}), *([OUTPUT] if OUTPUT in numbers else []))


def columns_of(reading: Layers, needed: Sequence[int], width: int) -> tuple[tuple[int, int], ...]:
    """Where a reading stands in the states of all layers side by side; none where it is all of them.

    Args:
        reading: What is read.
        needed: The layers that stand there.
        width: Width of each.

    Example:
        >>> columns_of(Layers((-1,)), (3, 6, -1), 8), columns_of(Layers((6, 3)), (3, 6), 8)
        (((16, 24),), ((8, 16), (0, 8)))
    """
    if reading.numbers == tuple(needed):
        return ()
    places = [needed.index(number) for number in reading.numbers]
    return tuple((place * width, (place + 1) * width) for place in places)


def _listed(layers: Any) -> list[Any]:
    is_one = isinstance(layers, str) or not isinstance(layers, Iterable)
    return [layers] if is_one else list(layers)
