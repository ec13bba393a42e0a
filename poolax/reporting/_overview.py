"""All tasks at a glance: a row each, and a column for each pooler."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from poolax.reporting._marks import (
    best_on_test,
    constants_note,
    mean_and_std,
    renamed_notes,
    score,
    test_note,
    unit,
)
from poolax.reporting._places import place_of, places_of
from poolax.reporting._scores import summaries_of
from poolax.reporting._table import Cell, Table


def score_table(records: Iterable[Mapping[str, Any]], *, title: str = "Scores") -> Table:
    """Scores of all poolers on all tasks at a glance, a column each.

    As in :func:`score_tables`, what validation chose is bold and the best test score underlined.

    Args:
        records: Head records of a sweep.
        title: Above the table.

    Returns:
        The table.

    Raises:
        ValueError: if there is no record.
    """
    places = places_of(records)
    groups = [summaries_of(place) for place in places]
    summaries = [entry for group in groups for entry in group]
    if not summaries:
        raise ValueError("records: expected at least one head record, got none")
    poolers = list(dict.fromkeys(entry["pooler"] for entry in summaries))
    # Older records do not hold it.
    has_best = any(entry["best_constant"] is not None for entry in summaries)
    # What all tasks share is said once.
    units = {unit(group[0]["metric"]) for group in groups}
    shared = f" ({units.pop()})" if len(groups) > 1 and len(units) == 1 else ""
    rows = []
    for group in groups:
        name, metric = place_of(group[0]), group[0]["metric"]
        entries, best = {entry["pooler"]: entry for entry in group}, best_on_test(group)
        own = "" if shared else f" ({unit(metric)})"
        cells = [Cell(f"{name}{own}"), Cell(score(group[0]["baseline"], metric))]
        if has_best:
            cells.append(Cell(score(group[0]["best_constant"], metric)))
        for pooler in poolers:
            entry = entries.get(pooler)
            chosen = entry is not None and entry["chosen"]
            cells.append(Cell(mean_and_std(entry), chosen, pooler in best))
        rows.append(cells)
    return Table(
        title=title,
        columns=[f"task{shared}", "baseline", *(["best constant"] if has_best else []), *poolers],
        rows=rows,
        notes=_notes(summaries, [place.example for place in places]),
        tidy=summaries,
    )


def _notes(summaries: Sequence[Mapping[str, Any]], examples: Sequence[Mapping[str, Any]]) -> list[str]:
    # The column is that of the best one, whatever records call it.
    plain = [{**row, "baselines": None} for row in examples]
    notes = [test_note(summaries), constants_note(plain)]
    copied = {place_of(e): e["test_in_train"] for e in summaries if e["test_in_train"]}
    notes += [
        f"{place}: {count} test examples stand in the training split as well."
        for place, count in copied.items()
    ]
    notes += renamed_notes(summaries)
    if any(entry["is_solved"] for entry in summaries):
        notes.append("A head without deviation was solved and is the same for every seed.")
    diverged = sum(entry["num_diverged"] for entry in summaries)
    if diverged:
        notes.append(f"{diverged} diverged heads are left out.")
    return notes
