"""Windows of a series: where they start, which of them gaps leave, and how they are read."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from poolax._checks import check_choice, check_count
from poolax.data.series._series import SPLITS, Series

Channels = Literal["all", "target"] | Sequence[int]
Missing = Literal["error", "drop", "keep"]


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """Windows of one length, cut from channels when they are indexed.

    Attributes:
        values: Channels, shape ``(channels, time)``, one after another in memory.
        rows: Where each window starts in ``values.ravel()``, shape ``(N,)``.
        length: Steps of a window.
        hidden: Steps that read as NaN, shape ``(N, length)``; ``None`` for none.

    Example:
        >>> import numpy as np
        >>> windows = Windows(np.arange(6.0).reshape(2, 3), np.array([0, 3, 4]), 2)
        >>> windows.shape
        (3, 2)
        >>> windows[1:]
        array([[3., 4.],
               [4., 5.]])
    """

    values: Float[np.ndarray, "channels time"]
    rows: Int[np.ndarray, "N"]
    length: int
    hidden: Bool[np.ndarray, "N length"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of windows and their length."""
        return len(self.rows), self.length

    @property
    def dtype(self) -> np.dtype:
        """Type of the numbers."""
        return self.values.dtype

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.rows)

    def __getitem__(self, indices: Any, /) -> Float[np.ndarray, "*indices length"]:
        """A copy of the windows at indices or a slice."""
        views = np.lib.stride_tricks.sliding_window_view(self.values.ravel(), self.length)
        rows = self.rows[indices]
        windows = views[rows] if np.ndim(rows) else views[rows].copy()
        if self.hidden is not None:
            windows[self.hidden[indices]] = np.nan
        return windows

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what is read."""
        digest = hashlib.sha256(f"{self.values.shape} {self.shape}".encode())
        for array in (self.values, self.rows, self.hidden):
            if array is not None:
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where the windows of a series lie.

    Attributes:
        values: Chosen channels, normalised, shape ``(channels, time)``, float32.
        rows: Start of each window in ``values.ravel()``, by split, then channel, then time.
        splits: Indices of the windows of each split.
        notes: What was left out or chosen.
    """

    values: Float[np.ndarray, "channels time"]
    rows: Int[np.ndarray, "N"]
    splits: dict[str, np.ndarray]
    notes: tuple[str, ...]


def cut_windows(
    series: Series,
    *,
    context: int,
    stride: int,
    channels: Channels,
    normalize: str,
    missing: Missing,
    horizon: int = 0,
    splits: Sequence[str] = SPLITS,
) -> Cut:
    """Windows of ``context + horizon`` steps, each of one channel.

    The horizon has to lie in a split, and the context may start in the one before; without a horizon
    the whole window lies in one split.
    """
    check_count("context", context)
    check_count("stride", stride)
    check_choice("normalize", normalize, ("train", "none"))
    check_choice("missing", missing, ("error", "drop", "keep"))
    chosen = _channel_indices(series, channels)
    if missing == "error":
        series.check_observed()
    values, notes = series.values, []
    if normalize == "train":
        mean, scale = series.statistics()
        values = (values - mean) / scale
        notes.append(
            f"normalised by each channel's mean and deviation over steps 0 to {series.borders[0]}"
        )
    values = np.ascontiguousarray(values.T[chosen], dtype=np.float32)
    starts = {split: _starts(series, split, context, horizon, stride) for split in splits}
    num_steps = values.shape[1]
    rows = {
        split: (np.arange(len(chosen))[:, None] * num_steps + start).ravel()
        for split, start in starts.items()
    }
    notes.append(_describe(series, len(chosen), context, horizon, stride))
    if missing != "error" and np.isnan(values).any():
        kept = {
            name: row[_usable(values, row, context, horizon, missing)] for name, row in rows.items()
        }
        notes.append(_describe_gaps(series, rows, kept, missing))
        rows = kept
    ends = np.cumsum([0, *map(len, rows.values())])
    indices = {split: np.arange(*ends[place : place + 2]) for place, split in enumerate(rows)}
    return Cut(values, np.concatenate(list(rows.values())), indices, tuple(notes))


def _channel_indices(series: Series, channels: Channels) -> list[int]:
    num_channels = len(series.names)
    if isinstance(channels, str):
        check_choice("channels", channels, ("all", "target"))
        return list(range(num_channels)) if channels == "all" else [num_channels - 1]
    chosen = list(channels)
    for channel in chosen:
        if isinstance(channel, bool) or not isinstance(channel, (int, np.integer)):
            raise ValueError(f"channels: expected 'all', 'target' or indices, got {channel!r}")
        if not 0 <= channel < num_channels:
            raise ValueError(f"channels: expected indices from 0 to {num_channels - 1}, got {channel}")
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"channels: expected different indices, at least one, got {chosen}")
    return chosen


def _starts(
    series: Series, split: str, context: int, horizon: int, stride: int
) -> Int[np.ndarray, "n"]:
    """First steps of the windows of a split, the same for every channel."""
    place = SPLITS.index(split)
    begin, end = (0, *series.borders)[place : place + 2]
    first = max(begin - context, 0) if horizon else begin
    if end - first < context + horizon:
        asked, given = (
            ("context + horizon", f"{context} + {horizon}") if horizon else ("context", context)
        )
        with_context = " and the context before it" if first < begin else ""
        raise ValueError(
            f"{asked}: expected at most the {end - first} steps of the {split} part of "
            f"{series.name!r}{with_context}, got {given}"
        )
    return np.arange(first, end - context - horizon + 1, stride)


def _usable(values, rows, context: int, horizon: int, missing: Missing) -> Bool[np.ndarray, "N"]:
    """Windows without gaps, or with something observed in context and horizon where gaps are kept."""
    before = np.concatenate([[0], np.cumsum(np.isnan(values))])
    in_context = before[rows + context] - before[rows]
    in_horizon = before[rows + context + horizon] - before[rows + context]
    if missing == "drop":
        return (in_context == 0) & (in_horizon == 0)
    return (in_context < context) & ((in_horizon < horizon) | (horizon == 0))


def _describe(series: Series, num_channels: int, context, horizon, stride) -> str:
    ends = ", ".join(str(border) for border in series.borders)
    reach = "contexts reach back into the part before" if horizon else "no window crosses a border"
    steps = f"context {context}, horizon {horizon}" if horizon else f"windows of {context} steps"
    return (
        f"{steps}, stride {stride}, {num_channels} of {len(series.names)} channels, each a sample of "
        f"its own; parts end at steps {ends} of {len(series.values)}; {reach}"
    )


def _describe_gaps(series: Series, rows, kept, missing: Missing) -> str:
    lost = {split: len(rows[split]) - len(kept[split]) for split in rows}
    for split in rows:
        if not len(kept[split]):
            raise ValueError(
                f"context + horizon: expected windows between the gaps of the {split} part of "
                f"{series.name!r}, got gaps in all {len(rows[split])}; choose shorter ones"
            )
    counts = ", ".join(f"{count} {split}" for split, count in lost.items())
    gaps = int(np.isnan(series.values).sum())
    if missing == "drop":
        return f"{gaps} missing values; windows that touch one are left out: {counts}"
    return f"{gaps} missing values, kept and not scored; windows of nothing else left out: {counts}"
