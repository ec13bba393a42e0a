"""Texts, pairs of texts and their labels or scores, from tables."""

import bisect
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from poolax._dataset import Dataset
from poolax.data._own._assemble import Splitting, labelled, valued
from poolax.data._own._columns import Columns
from poolax.data._own._split import splits_of_names
from poolax.data._own._table import Table, labels_of, numbers_of, texts_of


def texts_dataset(
    name: str,
    tables: Mapping[str, Table],
    columns: Columns,
    splitting: Splitting,
    *,
    source: str,
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """A data set of texts.

    Args:
        name: Its name.
        tables: The table of each split that has one of its own; ``"train"`` alone where a column, or
            chance, splits it.
        columns: Which columns hold what, the same in all tables.
        splitting: How the splits that are not given are cut off.
        source: Where the data come from.
        class_names: All classes in their order; ``None`` for those that stand there.

    Returns:
        Inputs are texts ``(N,)`` or pairs ``(N, 2)``; targets are labels, or scores: of pairs brought
        to 0 to 1, which the similarity of their vectors is compared with.

    Raises:
        ValueError: for content that does not fit; the error names file and line.
    """
    split_column = columns.split if len(tables) == 1 else None
    texts = [
        [text for table in tables.values() for text in texts_of(table, "text_column", column)]
        for column in columns.texts
    ]
    inputs = np.array(list(zip(*texts, strict=True)) if len(texts) > 1 else texts[0], dtype=object)
    place = _places(tables)
    notes = []
    if split_column is not None:
        values = [value for table in tables.values() for value in table.columns[split_column]]
        given = splits_of_names(values, place, "split_column")
        notes.append(f"split by column {split_column!r}")
    else:
        given = _consecutive(tables)
    if columns.label is not None:
        label_lists = [labels_of(table, "label_column", columns.label) for table in tables.values()]
        labels = list(itertools.chain.from_iterable(label_lists))
        return labelled(
            name,
            inputs,
            labels,
            given,
            splitting,
            place,
            source=source,
            class_names=class_names,
            notes=tuple(notes),
        )
    score_column = columns.score or ""
    scores = np.array(
        [n for table in tables.values() for n in numbers_of(table, "score_column", score_column)]
    )
    if len(columns.texts) == 2:
        scores, note = _unit_interval(scores)
        notes += note
    else:
        scores = scores[:, None]
    return valued(name, inputs, scores, given, splitting, source=source, notes=tuple(notes))


def _places(tables: Mapping[str, Table]) -> Any:
    """What an error calls an example of the tables one behind the other."""
    parts = list(tables.values())
    starts = list(itertools.accumulate((len(table) for table in parts[:-1]), initial=0))

    def place(index: int) -> str:
        part = bisect.bisect_right(starts, index) - 1
        return parts[part].place(index - starts[part])

    return place


def _consecutive(tables: Mapping[str, Table]) -> dict[str, np.ndarray]:
    ends = list(itertools.accumulate((len(table) for table in tables.values()), initial=0))
    return {
        split: np.arange(start, end) for split, start, end in zip(tables, ends, ends[1:], strict=False)
    }


def _unit_interval(scores: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Scores from 0 to 1: rank correlation, by which they are judged, does not change."""
    low, high = float(scores.min()), float(scores.max())
    if low >= 0 and high <= 1:
        return scores, []
    if low == high:
        raise ValueError(f"score_column: expected scores that differ, got {low:g} alone")
    low = min(low, 0.0)
    note = f"scores from {low:g} to {high:g} brought to 0 to 1"
    return (scores - low) / (high - low), [note]
