"""Texts of like length together, each moved to the front and back again, so little is padding."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int

from poolax._progress import Progress
from poolax.training._devices import Mapper, Placed
from poolax.training._states.host import HostStates
from poolax.training._states.padding import length_groups, to_front


class TextsByLength:
    """Texts sorted by length. Positions count from the first real token, so they may stand anywhere.

    Args:
        ids: Token ids, shape ``(N, *parts, n)``, or what reads them when it is indexed.
        mask: True at real tokens, which stand side by side in every sequence.
        parts: Sequences of an example, which are given back together.
        mapper: Token states of batches of sequences, shape ``(batch, n)``.
    """

    def __init__(self, ids: Any, mask: Bool[np.ndarray, "N *parts n"], parts: int, mapper: Mapper):
        self._ids, self._mask, self._parts, self._mapper = ids, mask, parts, mapper

    @functools.cached_property
    def lengths(self) -> list[int]:
        """Lengths to which sequences are padded, ascending."""
        return length_groups(self._longest, self._mask.shape[-1])

    @functools.cached_property
    def _longest(self) -> Int[np.ndarray, " sequences"]:
        """Tokens of the longest part of each sequence's example."""
        lengths = np.maximum(self._mask.sum(-1).reshape(-1, self._parts), 1)
        return np.repeat(lengths.max(-1), self._parts)

    def _groups(self, longest) -> Iterator[tuple[Int[np.ndarray, " rows"], int]]:
        """Sequences that are padded alike, and to which length."""
        for shorter, length in itertools.pairwise([0, *self.lengths]):
            yield np.flatnonzero((longest > shorter) & (longest <= length)), length

    def batches(
        self, shared: Placed, first: int, progress: Progress
    ) -> Iterator[tuple[Int[np.ndarray, " num"], HostStates]]:
        """Positions of examples and their states, batch by batch.

        Args:
            shared: Weights on the devices.
            first: Number of the first batch; those before it are not computed.
            progress: Called with a description, the number done and the total.
        """
        num_tokens = self._mask.shape[-1]
        # (N, *parts, n) to (sequences, n)
        ids = np.asarray(self._ids[:]).reshape(-1, num_tokens)
        mask = self._mask.reshape(-1, num_tokens)
        stride = self._mapper.batch_size * jax.process_count()
        done = 0
        for rows, length in self._groups(self._longest):
            skipped = min(first, -(-len(rows) // stride))
            first -= skipped
            before, rows = np.split(rows, [skipped * stride])
            done += len(before) // self._parts
            front, real = to_front(ids[rows], mask[rows], length)

            def fetch(start, stop, front=front, real=real):
                return {"inputs": front[start:stop], "mask": real[start:stop]}

            for tokens in self._mapper.batches(shared, fetch, len(rows)):
                now, rows = np.split(rows, [len(tokens.states)])
                real_now, real = np.split(real, [len(now)])
                states = _back(np.asarray(tokens.states), real_now, mask[now])
                positions = now[:: self._parts] // self._parts
                masks = self._mask[positions]
                done += len(positions)
                progress("features", done, len(self._mask))
                # (sequences, n, d) to (num, *parts, n, d)
                yield positions, HostStates(states.reshape(*masks.shape, -1), masks)

    def of_examples(self, shared: Placed, positions: Int[np.ndarray, " num"]) -> HostStates:
        """States of some examples, in this order."""
        masks = self._mask[positions]
        num_tokens = masks.shape[-1]
        ids = np.asarray(self._ids[positions]).reshape(-1, num_tokens)
        mask = masks.reshape(-1, num_tokens)
        longest = self._longest.reshape(-1, self._parts)[positions].ravel()
        states = None
        for rows, length in self._groups(longest):
            if not len(rows):
                continue
            front, real = to_front(ids[rows], mask[rows], length)
            batch = {"inputs": front, "mask": real}
            values = self._mapper(shared, batch, description="features").states
            if states is None:
                states = np.zeros((*mask.shape, values.shape[-1]), values.dtype)
            states[rows] = _back(values, real, mask[rows])
        if states is None:
            raise ValueError("positions: expected at least one, got none")
        return HostStates(states.reshape(*masks.shape, -1), masks)


def _back(values, real, mask):
    """States of the first tokens, ``(rows, length, d)``, where these stand, ``(rows, n, d)``."""
    states = np.zeros((*mask.shape, values.shape[-1]), values.dtype)
    states[mask] = values[real]
    return states
