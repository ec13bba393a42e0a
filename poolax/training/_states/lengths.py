"""Lengths of texts, by which steps and evaluations leave padding out."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from poolax._inputs import are_integers
from poolax._order import epoch_order, in_batches
from poolax.backbones import Backbone
from poolax.training._states.host import HostStates
from poolax.training._states.padding import contiguous_starts, length_groups

# Another length is another part of a program: tokens, of all heads, that pay for compiling it.
_LEAST_SAVING = 2**22
_LEAST_SHARE = 1 / 16
# Above this share of a step's tokens, the longest texts are worth a word.
_MOST_SHARE = 0.5
_LONGEST = 0.01


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Where the real tokens of each example stand.

    Attributes:
        longest: Tokens of its longest part, at least one, shape ``(N,)``.
        starts: First real token of each part, shape ``(N, *parts)``.
        num_tokens: Length to which all are padded.
    """

    longest: Int[np.ndarray, " N"]
    starts: Int[np.ndarray, "N *parts"]
    num_tokens: int

    @classmethod
    def of(cls, mask: Bool[np.ndarray, "N *parts n"] | None) -> "Lengths | None":
        """Of a mask; ``None`` where there is none, or real tokens do not stand side by side."""
        starts = None if mask is None else contiguous_starts(mask)
        if mask is None or starts is None:
            return None
        lengths = np.maximum(mask.sum(axis=-1), 1).reshape(len(mask), -1)
        return cls(lengths.max(axis=-1), starts, mask.shape[-1])

    def to_front(self, tokens: HostStates, examples: Int[np.ndarray, " num"]) -> HostStates:
        """States of these examples with their real tokens in front, where no pooler minds them."""
        starts = self.starts[examples]
        if tokens.mask is None or not starts.any():
            return tokens
        columns = np.minimum(starts[..., None] + np.arange(self.num_tokens), self.num_tokens - 1)
        real = np.arange(self.num_tokens) < tokens.mask.sum(axis=-1, keepdims=True)
        states = np.take_along_axis(tokens.states, columns[..., None], axis=-2)
        return HostStates(np.where(real[..., None], states, np.zeros((), states.dtype)), real)

    def groups(self, examples: Int[np.ndarray, " num"], *, passes: int) -> list[int]:
        """Lengths to which these examples are padded, ascending, each worth compiling.

        Args:
            examples: Which examples.
            passes: How often they are read, counted for each head.
        """
        own = self.longest[examples]
        return length_groups(own, self.num_tokens, least_saving=_LEAST_SAVING / passes)


@dataclasses.dataclass(frozen=True)
class Slots:
    """Places of a batch on each device: so many examples of at most so many tokens, longest first.

    The example of rank ``r`` by length stands in place ``r // devices`` of device ``r % devices``.

    Attributes:
        parts: Number of places and their length.
        devices: Number of devices over which a batch is split.
    """

    parts: tuple[tuple[int, int], ...]
    devices: int

    def arrange(
        self, lengths: Int[np.ndarray, "*steps batch"]
    ) -> Int[np.ndarray, "*steps padded_batch"]:
        """Which example of a batch stands where; ``batch``, one too many, where there is none."""
        batch = lengths.shape[-1]
        padding = [(0, 0)] * (lengths.ndim - 1) + [(0, -batch % self.devices)]
        ranked = np.argsort(-lengths, axis=-1, kind="stable")
        ranked = np.pad(ranked, padding, constant_values=batch)
        by_place = ranked.reshape(*lengths.shape[:-1], -1, self.devices)
        return np.swapaxes(by_place, -1, -2).reshape(ranked.shape)

    @property
    def tokens(self) -> int:
        """Tokens of a step on a device."""
        return sum(count * length for count, length in self.parts)


def plan_slots(
    lengths: Int[np.ndarray, " train"],
    num_tokens: int,
    orders: Iterable[tuple[int, int]],
    batch_size: int,
    *,
    heads: int,
    devices: int = 1,
) -> Slots | None:
    """Places that are long enough for every batch of some orders.

    In each batch the longest text, the next, and so on take their places; the length of a place is
    that of the longest text that ever takes it. So few long texts lengthen few places, and no step is
    another program.

    Args:
        lengths: Of the training split.
        num_tokens: Length to which all are padded.
        orders: Seed and epoch of each order that is trained in.
        batch_size: Examples a step.
        heads: Heads of one structure that are to be trained.
        devices: Devices over which a batch is split.

    Returns:
        The places; ``None`` where they save too little to be worth compiling.

    Example:
        >>> lengths = np.where(np.arange(4000) % 100 == 0, 300, 20)
        >>> plan_slots(lengths, 304, [(0, 0)], 32, heads=1000)
        Slots(parts=((2, 304), (30, 24)), devices=1)
    """
    if np.mean(lengths) > (1 - _LEAST_SHARE) * num_tokens:
        return None  # which no order changes
    profile = np.zeros(-(-batch_size // devices), np.int64)
    steps = 0
    for seed, epoch in orders:
        positions, weights = in_batches(epoch_order(seed, epoch, len(lengths)), batch_size)
        real = np.where(weights > 0, lengths[positions], 0)
        # The longest of each place, over devices the first of those that share it.
        ranked = -np.sort(-real, axis=-1)[:, ::devices]
        profile = np.maximum(profile, ranked.max(axis=0))
        steps += len(positions)
    whole = len(profile) * num_tokens
    worth = max(_LEAST_SHARE * whole, _LEAST_SAVING / (max(steps, 1) * heads))
    places = length_groups(profile, num_tokens, least_saving=worth)
    counts = np.diff([0, *np.searchsorted(np.sort(profile), places, side="right")])
    parts = [(int(n), length) for n, length in zip(counts, places, strict=True) if n]
    slots = Slots(tuple(reversed(parts)), devices)
    return slots if whole - slots.tokens >= worth else None


def with_max_tokens(backbone: Backbone, inputs: Any, max_tokens: int) -> Backbone:
    """The backbone that reads so many tokens of a text at most.

    Args:
        backbone: A backbone of texts.
        inputs: What it is to read.
        max_tokens: Most tokens, special ones included.

    Returns:
        The backbone with another ``preprocess``.

    Raises:
        ValueError: for a backbone that reads no texts, token ids, which are cut already, or more tokens
            than the backbone takes.
    """
    preprocess = backbone.preprocessing
    if not preprocess.on_host:
        kind = type(backbone).__name__
        raise ValueError(f"max_tokens: expected None for {kind} without texts, got {max_tokens}")
    if are_integers(inputs):
        raise ValueError(f"max_tokens: expected None for token ids, got {max_tokens}")
    return dataclasses.replace(backbone, preprocess=preprocess.cut_to(max_tokens))


def note_on_lengths(lengths: Int[np.ndarray, " train"], num_tokens: int, batch_size: int) -> str | None:
    """A word on a few texts that cost most of the time; ``None`` where there are none.

    Args:
        lengths: Of the training split.
        num_tokens: Length to which all are padded.
        batch_size: Examples a step.

    Returns:
        What the longest hundredth costs, and how to cut it.

    Example:
        >>> note = note_on_lengths(np.where(np.arange(4000) % 100 == 0, 600, 20), 600, 32)
        >>> note.split("; ")
        ['1 % of the texts have 21 to 600 tokens and take 60 % of a step', 'max_tokens=20 cuts them']
    """
    cut = int(np.quantile(lengths, 1 - _LONGEST, method="lower"))

    def tokens(lengths):
        slots = plan_slots(lengths, num_tokens, [(0, 0)], batch_size, heads=_LEAST_SAVING)
        return batch_size * num_tokens if slots is None else slots.tokens

    share = 1 - tokens(np.minimum(lengths, cut)) / tokens(lengths)
    if share <= _MOST_SHARE:
        return None
    longer = np.mean(lengths > cut)
    return (
        f"{100 * longer:.2g} % of the texts have {cut + 1} to {lengths.max()} tokens "
        f"and take {100 * share:.0f} % of a step; max_tokens={cut} cuts them"
    )
