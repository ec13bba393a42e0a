"""Tables of scores: one for each task, all ways of training side by side."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from poolax.reporting._marks import (
    best_on_test,
    constant_scores,
    constants_note,
    mean_and_std,
    renamed_notes,
    score,
    test_note,
    unit,
)
from poolax.reporting._places import Comparison, comparisons_of
from poolax.reporting._remarks import remarks_on
from poolax.reporting._scores import summaries_of
from poolax.reporting._table import Cell, Table

_DIFFERENCE = (
    "difference: 95 % interval of the mean difference to the chosen pooler on test, by a paired "
    "bootstrap over {count} test examples and seeds."
)

_MISSING = "A dash: no such heads were trained."

_NEIGHBOURS = (
    "k-NN: accuracy of a vote of the 20 nearest training vectors by cosine, without a trained head; a "
    "dash where vectors of learned poolers were not compared."
)

_NO_CELLS = (Cell(""), Cell(""))


def score_tables(records: Iterable[Mapping[str, Any]]) -> list[Table]:
    """Scores of poolers, a table for each model and task: all ways of training side by side.

    Each way of training has columns for the validation score, the test score, and the interval of its
    difference to the pooler that validation chose, which is bold. The best test score is underlined
    only: nobody knows it before the test. Constant predictions have rows below the poolers.

    Args:
        records: Head records of sweeps.

    Returns:
        The tables, in order of appearance.

    Raises:
        ValueError: if there is no record, or one that is none of a head.
    """
    comparisons = comparisons_of(records)
    if not comparisons:
        raise ValueError("records: expected at least one head record, got none")
    return [_table(comparison) for comparison in comparisons]


def notes_once(tables: Sequence[Table]) -> list[Table]:
    """Tables that stand below each other, with notes that they share below the last one alone.

    Args:
        tables: The tables.

    Returns:
        The same, with fewer notes.
    """
    shared = [note for note in tables[0].notes if all(note in table.notes for table in tables)]
    own = [
        dataclasses.replace(table, notes=[note for note in table.notes if note not in shared])
        for table in tables
    ]
    return [*own[:-1], dataclasses.replace(own[-1], notes=[*own[-1].notes, *shared])]


def joined(tables: Sequence[Table]) -> Table:
    """The tidy rows of several tables in one, for a file that holds them all.

    Args:
        tables: The tables.

    Returns:
        The first table with the tidy rows of all.
    """
    return dataclasses.replace(tables[0], tidy=[row for table in tables for row in table.tidy])


def _table(comparison: Comparison) -> Table:
    places = {name: summaries_of(place) for name, place in comparison.protocols.items()}
    summaries = [entry for entries in places.values() for entry in entries]
    has_difference = any(entry["difference_low"] is not None for entry in summaries)
    headings = ["validation", "test", *(["difference"] if has_difference else [])]
    words = [f"{name}, " if len(places) > 1 else "" for name in places]
    rows = []
    poolers = list(dict.fromkeys(entry["pooler"] for entry in summaries))
    for pooler in poolers:
        cells = [Cell(pooler)]
        for entries in places.values():
            cells += _cells(pooler, entries)[: len(headings)]
        rows.append(cells)
    examples = [place.example for place in comparison.protocols.values()]
    rows += _constants(examples, num_blank=len(headings) - 2)
    neighbours = _neighbours(poolers, summaries)
    if neighbours:
        rows = [[*row, *cells] for row, cells in zip_longest(rows, neighbours, fillvalue=_NO_CELLS)]
    metric = summaries[0]["metric"]
    return Table(
        title=f"{comparison.name} ({unit(metric)})",
        columns=[
            "pooler",
            *(f"{word}{heading}" for word in words for heading in headings),
            *(["k-NN, validation", "k-NN, test"] if neighbours else []),
        ],
        rows=rows,
        notes=[
            *remarks_on(comparison),
            *renamed_notes(summaries),
            *([_MISSING] if any(len(found) < len(poolers) for found in places.values()) else []),
            test_note(summaries),
            *_difference_notes(summaries),
            *([_NEIGHBOURS] if neighbours else []),
            constants_note(examples),
        ],
        tidy=[{"protocol": name} | entry for name, entries in places.items() for entry in entries],
    )


def _cells(pooler: str, entries: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """Validation, test and difference of a pooler that was trained in one way."""
    [entry] = [entry for entry in entries if entry["pooler"] == pooler] or [None]
    if entry is None:
        return [Cell("–")] * 3
    metric, chosen = entry["metric"], entry["chosen"]
    ends = [score(entry[name], metric, sign="+") for name in ("difference_low", "difference_high")]
    apart = "–" if entry["difference_low"] is None else f"[{', '.join(ends)}]"
    return [
        Cell(score(entry["validation"], metric), bold=chosen),
        Cell(mean_and_std(entry), bold=chosen, underlined=pooler in best_on_test(entries)),
        Cell("chosen" if chosen else apart, bold=chosen),
    ]


def _neighbours(poolers: Sequence[str], summaries: Sequence[Mapping[str, Any]]) -> list[list[Cell]]:
    """Validation and test score of nearest neighbours of each pooler; nothing where no record has one.

    Vectors of fixed poolers are the same whatever way their heads were trained.
    """
    known = {entry["pooler"]: entry for entry in reversed(summaries) if entry["knn_test"] is not None}
    if not known:
        return []
    rows = []
    for pooler in poolers:
        entry = known.get(pooler)
        scores = [None, None] if entry is None else [entry["knn_validation"], entry["knn_test"]]
        rows.append([Cell(score(value, summaries[0]["metric"])) for value in scores])
    return rows


def _constants(examples: Sequence[Mapping[str, Any]], *, num_blank: int) -> list[list[Cell]]:
    """Rows of what poolers are to exceed, of which each head's record tells."""
    metric = examples[0]["metric"]
    known = [constant_scores(row) for row in examples]
    rows = []
    for name in dict.fromkeys(name for found in known for name in found):
        cells = [Cell(name)]
        for found in known:
            scores = found.get(name, (None, None))
            cells += [Cell("" if value is None else score(value, metric)) for value in scores]
            cells += [Cell("")] * num_blank
        rows.append(cells)
    return rows


def _difference_notes(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the intervals are, or why there are none."""
    counts = sorted({entry["num_examples"] for entry in summaries} - {None})
    known = [_DIFFERENCE.format(count=" to ".join(map(str, counts)))] if counts else []
    missing = dict.fromkeys(entry["no_interval"] for entry in summaries if entry["no_interval"])
    return known + [f"No intervals: {reason}." for reason in missing]
